"""What bfloat16 costs, as `verify` would see it, and that our engine and diffusers give the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from benchmarks.encode.diffusers_peer import Diffusers
from pipeline.encoders import EncoderOutput, TextEncoder
from schemas.identity import ENCODER_NAMES


def worst_cosines(
    captions: Sequence[str], encoders: Mapping[str, TextEncoder], exact: Mapping[str, TextEncoder]
) -> dict[str, float]:
    """The least cosine of any caption, by encoder and output.

    Args:
        captions: Encoded in one batch by `encoders`, one at a time by `exact`.
        encoders: In bfloat16.
        exact: The same weights in float32.
    """
    found: dict[str, float] = {}
    for name in ENCODER_NAMES:
        ids = encoders[name].tokenizer(captions).ids
        encoder = encoders[name]
        length = encoder.identity.max_tokens
        lengths = [length if encoder.identity.padding == "max_length" else len(row) for row in ids]
        batch = encoder.encode_packed(encoder.pack(ids))
        hidden = batch.hidden.split(lengths)
        for row, one in enumerate(ids):
            single = exact[name].encode_packed(exact[name].pack([one]))
            for output, cosine in _cosines(hidden[row], batch, single, row).items():
                key = f"{name}.{output}"
                found[key] = min(found.get(key, 1.0), cosine)
    return {name: round(value, 6) for name, value in found.items()}


def _cosines(hidden: torch.Tensor, batch: EncoderOutput, exact: EncoderOutput, row: int) -> dict[str, float]:
    pairs = {"hidden": (hidden, exact.hidden)}
    for name in ("pooled", "eos"):
        stored, single = getattr(batch, name), getattr(exact, name)
        if stored is not None:
            pairs[name] = (stored[row], single[0])
    return {name: _cosine(stored, single) for name, (stored, single) in pairs.items()}


def difference_from_diffusers(captions: Sequence[str], encoders: Mapping[str, TextEncoder], peer: Diffusers) -> float:
    """The relative error (Frobenius norm) of our conditioning against `encode_prompt`'s, under `max_length`.

    Raises:
        RuntimeError: It is so large that the two do not compute the same.
    """
    embeds, pooled = peer.encode(captions)
    outputs = {}
    for name in ENCODER_NAMES:
        encoder = encoders[name]
        outputs[name] = encoder.encode_packed(encoder.pack(encoder.tokenizer(captions).ids))
    rows = {name: output.hidden.view(len(captions), -1, output.hidden.shape[-1]) for name, output in outputs.items()}
    clips = torch.cat([rows["clip_l"], rows["clip_g"]], dim=-1)
    padded = F.pad(clips, (0, embeds.shape[-1] - clips.shape[-1]))
    vectors = [output.pooled for output in outputs.values() if output.pooled is not None]
    pairs = [(torch.cat([padded, rows["t5"]], dim=1), embeds), (torch.cat(vectors, dim=-1), pooled)]
    error = max(float((ours.float() - theirs.float()).norm() / theirs.float().norm()) for ours, theirs in pairs)
    if not error < 0.05:
        raise RuntimeError(f"our engine and diffusers give different values: relative error {error}")
    return round(error, 7)


def _cosine(stored: torch.Tensor, exact: torch.Tensor) -> float:
    return float(F.cosine_similarity(stored.double().flatten(), exact.double().flatten(), dim=0))
