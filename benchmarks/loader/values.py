"""What every loader serves: Stable Diffusion 3's conditioning at its real sizes, made up, the same in every format.

Standard normals times a scale for each channel, as bfloat16. The scales spread so that byte planes compress to 0.69 and
ZSTD over interleaved bytes to 0.78, as measured on real hidden states (0.68 and 0.79). Every value is exact in float16
too, which some formats store.

Only NumPy is needed: the loaders that ours is compared with run in an environment of their own.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

NUM_TOKENS = 77
WIDTHS = {"clip_l": 768, "clip_g": 1280, "t5": 4096}
POOLED_WIDTH = 768 + 1280
CONTEXT_SHAPE = (2 * NUM_TOKENS, WIDTHS["t5"])
SHAPES = {name: (NUM_TOKENS, width) for name, width in WIDTHS.items()} | {
    "clip_l_pooled": (768,),
    "clip_g_pooled": (1280,),
    "clip_l_eos": (768,),
    "clip_g_eos": (1280,),
}
"""A sample's tensors, in the order in which they are stored."""
NUM_VALUES = NUM_TOKENS * sum(WIDTHS.values()) + POOLED_WIDTH
"""What a training step needs of a sample: hidden states of the three encoders and both CLIPs' pooled vectors."""
EOS_VALUES = POOLED_WIDTH
"""Our dataset stores these too."""

_SPREAD = 0.4

Bits = npt.NDArray[np.uint16]
"""bfloat16 as the integers of its bits: NumPy has no bfloat16 of its own."""


def key(index: int) -> str:
    """Key of a sample."""
    return f"{index:08d}"


def caption(index: int) -> str:
    """Caption of a sample."""
    return f"a caption of usual length, which says of picture {index} what can be seen on it and in which style"


def sample(index: int) -> Bits:
    """[NUM_VALUES + EOS_VALUES]: CLIP-L, bigG, T5 (each token after token), pooled L, pooled G, EOS L, EOS G."""
    random = np.random.default_rng((1, index))
    values = random.standard_normal(NUM_VALUES + EOS_VALUES, dtype=np.float32) * _scales()
    return _bfloat16_bits(values.astype(np.float16).astype(np.float32))


def tensors(bits: Bits) -> dict[str, Bits]:
    """The tensors of a sample by name, as views: hidden states [77, width], and what of the vectors is there, flat."""
    out, start = {}, 0
    for name, shape in SHAPES.items():
        stop = start + math.prod(shape)
        if stop > len(bits):
            break
        out[name], start = bits[start:stop].reshape(shape), stop
    return out


def put(context: Bits, pooled: Bits, bits: Bits) -> None:
    """Writes a sample into its row of a batch; what is zero in the context must be zero already.

    Args:
        context: [154, 4096] of the batch.
        pooled: [2048] of the batch.
        bits: [NUM_VALUES], as `sample`.
    """
    found = tensors(bits)
    context[:NUM_TOKENS, : WIDTHS["clip_l"]] = found["clip_l"]
    context[:NUM_TOKENS, WIDTHS["clip_l"] : POOLED_WIDTH] = found["clip_g"]
    context[NUM_TOKENS:] = found["t5"]
    pooled[: WIDTHS["clip_l"]] = found["clip_l_pooled"]
    pooled[WIDTHS["clip_l"] :] = found["clip_g_pooled"]


def write_values(path: Path, num_samples: int) -> None:
    """All samples in one file, from which every format is written."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        for index in range(num_samples):
            file.write(sample(index).data)
    partial.rename(path)


def open_values(path: Path) -> Bits:
    """[samples, NUM_VALUES + EOS_VALUES], not yet read."""
    return np.memmap(path, np.uint16, "r").reshape(-1, NUM_VALUES + EOS_VALUES)


@functools.cache
def _scales() -> npt.NDArray[np.float32]:
    random = np.random.default_rng(0)
    hidden = [np.tile(np.exp(_SPREAD * random.standard_normal(width)), NUM_TOKENS) for width in WIDTHS.values()]
    vectors = np.exp(_SPREAD * random.standard_normal(POOLED_WIDTH + EOS_VALUES))
    return np.concatenate([*hidden, vectors]).astype(np.float32)


def _bfloat16_bits(values: npt.NDArray[np.float32]) -> Bits:
    """Rounds to the nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16).astype(np.uint16)
