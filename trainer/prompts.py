"""Prompts to sample from: the small dataset that `python -m pipeline encode-prompts` writes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from schemas.dataset import Row, open_dataset
from schemas.errors import ConfigError, ContractError
from schemas.identity import CaptionIdentity, require_same
from trainer.conditioning import Conditioning, assemble

GROUP = "txt"
EMPTY_KEY = "empty"


@dataclass(frozen=True)
class Prompts:
    """Encoded prompts.

    Attributes:
        rows: The prompts, in order, without the empty one.
        empty: The empty prompt; None if the dataset has none.
        identity: How they were encoded.
    """

    rows: tuple[Row, ...]
    empty: Row | None
    identity: CaptionIdentity

    @property
    def texts(self) -> list[str]:
        """The prompts as they were written."""
        return [row.caption or "" for row in self.rows]

    def select(self, numbers: Sequence[int]) -> Prompts:
        """Some of them, by number from 0.

        Raises:
            ConfigError: There are fewer.
        """
        wrong = [number for number in numbers if not 0 <= number < len(self.rows)]
        if wrong:
            raise ConfigError(
                "prompt-number",
                where="prompts",
                expected=f"numbers from 0 to {len(self.rows) - 1}",
                actual=", ".join(map(str, wrong)),
                remedy="correct the numbers; prompts are numbered as in the file they were encoded from",
            )
        return Prompts(tuple(self.rows[number] for number in numbers), self.empty, self.identity)


@dataclass(frozen=True)
class PromptEncoding:
    """How a run turns prompts into conditioning.

    Attributes:
        t5_tokens: T5 rows of the context.
        use_empty: Whether the empty prompt stands for an encoder that is left out, rather than zeros.
        dtype: Of the conditioning.
        device: Of the conditioning.
    """

    t5_tokens: int
    use_empty: bool
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def encode(self, prompts: Prompts, rows: Sequence[Row], encoders: Collection[str]) -> Conditioning:
        """The conditioning of some rows of `prompts` by a subset of the encoders; no encoder is no condition."""
        return assemble(
            rows,
            prompts.identity,
            encoders=encoders,
            dtype=self.dtype,
            device=self.device,
            t5_tokens=self.t5_tokens,
            empty=prompts.empty if self.use_empty else None,
        )


def open_prompts(url: str, captions: CaptionIdentity, *, need_empty: bool = False) -> Prompts:
    """Opens a dataset of prompts.

    Args:
        url: Folder or bucket.
        captions: How the training captions were encoded; prompts mean the same to the model only if they were, too.
        need_empty: Whether the empty prompt is needed.

    Raises:
        IdentityMismatchError: The prompts were encoded in another way; lists what differs.
        ConfigError: There is no prompt in it, or no empty one where it is needed.
        MissingObjectError, DamagedDataError: No dataset is there, or it is damaged.
    """
    dataset = open_dataset(url)
    identity = dataset.manifest.captions
    require_same(captions, identity, where=f"prompts {url}")
    rows = list(dataset.rows(GROUP))
    lost = [row.key for row in rows if row.is_null]
    if lost:
        raise ContractError(
            "prompt-not-encoded",
            where=url,
            expected="every prompt encoded",
            actual=f"null rows: {', '.join(lost[:5])}",
            remedy="see the rejects of the dataset, and encode the prompts again",
        )
    empty = next((row for row in rows if row.key == EMPTY_KEY), None)
    written = tuple(row for row in rows if row.key != EMPTY_KEY)
    if not written or (need_empty and empty is None):
        raise ConfigError(
            "prompts-missing",
            where=url,
            expected="prompts, and the empty one" if need_empty else "prompts",
            actual=f"{len(written)} prompts, {'no' if empty is None else 'and an'} empty one",
            remedy="write them with `python -m pipeline encode-prompts`",
        )
    return Prompts(written, empty, identity)
