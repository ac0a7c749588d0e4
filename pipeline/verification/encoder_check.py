"""One encoder's part of every row that was drawn: encoded again, compared, and diagnosed where it is not near."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipeline.encoders import EncoderConfig
from pipeline.verification.comparison import compare, tensors_of
from pipeline.verification.diagnosis import describe, explain, is_rounding, remaining
from pipeline.verification.hypotheses import Case
from pipeline.verification.reference import (
    EncoderOptions,
    check_reference,
    encode_caption,
    load_as_recorded,
    load_for_any_ids,
    reference_config,
)
from pipeline.verification.results import Diagnosis, EncoderResult
from pipeline.verification.sampling import SampledRow
from schemas.errors import ConfigError
from schemas.identity import EncoderIdentity
from schemas.row import EncodedCaption


@dataclass(frozen=True)
class EncoderCheck:
    """How an encoder's part of rows is to be checked.

    Attributes:
        identity: The manifest's.
        options: Where the encoder is, if not where the manifest says.
        min_cosine: Of every token, for a tensor to be near enough.
        num_diagnosed: Rows that are diagnosed, the worst first.
        allow_differences: Whether to go on with an encoder that is not the manifest's.
        device: "cpu" or "cuda".
        where: The manifest's place.
        say: Called with what is being done.
    """

    identity: EncoderIdentity
    options: EncoderOptions
    min_cosine: float
    num_diagnosed: int
    allow_differences: bool
    device: str
    where: str
    say: Callable[[str], None]

    def run(self, rows: Sequence[SampledRow]) -> tuple[list[EncoderResult], list[str]]:
        """Checks them; one encoder is in memory at a time.

        Returns:
            A result for each row, and the fields in which the encoder differs from the manifest's, if that is allowed.

        Raises:
            ConfigError: The encoder cannot be loaded.
            IdentityMismatchError: It is not the manifest's.
        """
        name, config = self.identity.name, reference_config(self.identity, self.options)
        self.say(f"{name}: loading {config.source} in float32")
        encoder = load_as_recorded(self.identity, config, "float32", self.device)
        lines = check_reference(self.identity, encoder.identity, allowed=self.allow_differences, where=self.where)
        self.say(f"{name}: encoding {len(rows)} captions, one at a time")
        tokenizer = encoder.tokenizer
        results, cases = list[EncoderResult](), dict[int, Case]()
        for row in rows:
            expected = encode_caption(encoder, row.caption)
            results.append(self._compare(row, expected))
            if not results[-1].is_sound:
                cases[len(results) - 1] = Case(row, self.identity, expected, results[-1].failed, tokenizer)
        del encoder
        worst = sorted(cases, key=lambda r: results[r].cosine)[: self.num_diagnosed]
        if worst:
            self.say(f"{name}: {len(cases)} rows are not near enough; looking for the reason")
            self._diagnose({r: cases[r] for r in worst}, results, config)
        return results, lines

    def _compare(self, row: SampledRow, expected: EncodedCaption) -> EncoderResult:
        stored = row.stored[self.identity.name]
        left, right = tensors_of(stored), tensors_of(expected)
        figures = {name: compare(left[name], right[name]) for name in right}
        return EncoderResult(
            figures=figures,
            stored_tokens=(stored.num_tokens, stored.truncated),
            expected_tokens=(expected.num_tokens, expected.truncated),
            failed=tuple(name for name, found in figures.items() if not found.is_within(self.min_cosine)),
        )

    def _diagnose(self, cases: dict[int, Case], results: Sequence[EncoderResult], config: EncoderConfig) -> None:
        # Rounding first: it is the usual reason in float8, and takes one forward to tell.
        left = self._without_rounding(cases, results, config)
        if not left:
            return
        self._free()
        encoder = load_for_any_ids(self.identity, config, self.device)
        for r, case in left.items():
            results[r].diagnoses += explain(case, encoder)
            if fields := remaining(case, results[r].diagnoses):
                results[r].diagnoses.append(describe(case, fields))

    def _without_rounding(
        self, cases: dict[int, Case], results: Sequence[EncoderResult], config: EncoderConfig
    ) -> dict[int, Case]:
        """Says of some rows that they are but rounded; returns the others."""
        dtype = self.identity.compute_dtype
        if dtype == "float32":
            return cases
        self._free()
        try:
            encoder = load_as_recorded(self.identity, config, dtype, self.device)
        except ConfigError as error:
            self.say(f"{self.identity.name}: rounding of {dtype} cannot be told here: {error.actual}")
            return cases
        left = {}
        for r, case in cases.items():
            if is_rounding(case, encode_caption(encoder, case.row.caption)):
                cosine = min(results[r].figures[name].cosine for name in case.failed)
                text = f"as far from float32 as {dtype} computed here"
                results[r].diagnoses.append(Diagnosis("rounding", text, case.failed, cosine))
            else:
                left[r] = case
        return left

    def _free(self) -> None:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
