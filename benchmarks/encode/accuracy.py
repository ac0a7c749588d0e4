"""Values of a dataset beside reference values, and beside those of diffusers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.encode.diffusers_peer import Diffusers
from schemas.identity import ENCODER_NAMES
from schemas.row import Row


@dataclass(frozen=True)
class Difference:
    """Differences of stored values from reference values, the worst of some captions.

    Attributes:
        cosine: The least of any caption, all tokens as one vector.
        error: The largest relative error (Euclidean norm) of any token's vector, or of a caption's vector.
        power: The same between the references of neighbouring captions, the least: an `error` of this size could be
            another caption's values. 1 if there is one caption only.
    """

    cosine: float = 1.0
    error: float = 0.0
    power: float = 1.0


def worst_differences(pairs: Iterable[tuple[Row, Mapping[str, torch.Tensor]]]) -> dict[str, Difference]:
    """The worst difference by encoder and output, such as "clip_l.pooled".

    Args:
        pairs: A row as it was read, and its reference of `Reference.encode`. Captions differ from their neighbours.
    """
    worst: dict[str, Difference] = {}
    before: Mapping[str, torch.Tensor] = {}
    for row, exact in pairs:
        for name, wanted in exact.items():
            encoder, _, output = name.partition(".")
            known = worst.get(name, Difference())
            stored = _tensor(getattr(row[encoder], output)).to(wanted.device)
            power = _distance(before[name], wanted) if name in before else known.power
            worst[name] = Difference(
                min(known.cosine, _cosine(stored, wanted)),
                max(known.error, _distance(stored, wanted, same_length=True)),
                min(known.power, power),
            )
        before = exact
    return worst


def difference_from_diffusers(captions: Sequence[str], rows: Sequence[Row], peer: Diffusers) -> float:
    """The relative error (Frobenius norm) of stored conditioning against `encode_prompt`'s, under `max_length`.

    Args:
        captions: All of one call of diffusers'.
        rows: As they were read from a dataset, of the same captions.
        peer: diffusers.

    Raises:
        RuntimeError: It is so large that the two do not compute the same.
    """
    embeds, pooled = (tensor.float().cpu() for tensor in peer.encode(captions))
    hidden = {name: torch.stack([_tensor(row[name].hidden) for row in rows]) for name in ENCODER_NAMES}
    clips = torch.cat([hidden["clip_l"], hidden["clip_g"]], dim=-1)
    padded = F.pad(clips, (0, embeds.shape[-1] - clips.shape[-1]))
    vectors = [torch.stack([_tensor(row[name].pooled) for row in rows]) for name in ("clip_l", "clip_g")]
    pairs = [(torch.cat([padded, hidden["t5"]], dim=1), embeds), (torch.cat(vectors, dim=-1), pooled)]
    error = max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)
    if not error < 0.05:
        raise RuntimeError(f"our engine and diffusers give different values: relative error {error}")
    return round(error, 7)


def _tensor(values: np.ndarray | None) -> torch.Tensor:
    assert values is not None
    return torch.from_numpy(values.astype(np.float32))


def _cosine(stored: torch.Tensor, exact: torch.Tensor) -> float:
    if stored.shape != exact.shape:
        return -1.0
    return float(F.cosine_similarity(stored.double().flatten(), exact.double().flatten(), dim=0))


def _distance(stored: torch.Tensor, exact: torch.Tensor, *, same_length: bool = False) -> float:
    """The largest relative error of a vector; of those tokens that both have, unless all must be there."""
    if stored.shape != exact.shape:
        if same_length or stored.dim() == 1:
            return math.inf
        shared = min(len(stored), len(exact))
        stored, exact = stored[:shared], exact[:shared]
    error = (stored.double() - exact.double()).norm(dim=-1) / exact.double().norm(dim=-1)
    return math.inf if bool(error.isnan().any()) else float(error.max())
