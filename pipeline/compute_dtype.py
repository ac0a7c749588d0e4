"""The compute dtype of text encoders and autoencoder where the user leaves it open ("auto")."""

from __future__ import annotations

import time
from typing import Literal

import torch
import torch.nn.functional as F

from schemas.errors import MissingObjectError
from schemas.identity import ENCODER_NAMES, ComputeDtype, LatentComputeDtype
from schemas.latent_manifest import read_latent_manifest
from schemas.manifest import read_manifest
from schemas.storage import Store

ComputeDtypeOption = Literal["auto", "float32", "bfloat16", "float8"]

_ROWS, _WIDTH, _REPETITIONS = 256, 2048, 8


def resolve_compute_dtype(
    option: ComputeDtypeOption, dataset: Store, *, device: Literal["auto", "cpu", "cuda"], has_cluster: bool
) -> ComputeDtype:
    """What "auto" stands for: it is part of the identity, so it must be known before anything is encoded.

    A dataset that exists decides by its manifest. A new one gets bfloat16, but for encoders that run on this machine's
    processor, which is asked which of bfloat16 and float32 it multiplies faster.

    Args:
        option: What the user said.
        dataset: Need not exist yet.
        device: Where the encoders run, as far as the user said.
        has_cluster: Whether workers may be on machines that have GPUs though this one has none.

    Raises:
        DamagedDataError, ContractError: The manifest cannot be read.
    """
    if option != "auto":
        return option
    try:
        # T5's: the CLIPs of a float8 dataset are computed in bfloat16.
        return read_manifest(dataset).captions.t5.compute_dtype
    except MissingObjectError:
        pass
    return _usual(device, has_cluster=has_cluster)


def resolve_latent_compute_dtype(
    option: Literal["auto"] | LatentComputeDtype,
    dataset: Store,
    *,
    device: Literal["auto", "cpu", "cuda"],
    has_cluster: bool,
) -> LatentComputeDtype:
    """Compute dtype of the autoencoder, by the same rule as `resolve_compute_dtype`.

    Raises:
        DamagedDataError, ContractError: The latents' manifest cannot be read.
    """
    if option != "auto":
        return option
    stored = read_latent_manifest(dataset)
    return _usual(device, has_cluster=has_cluster) if stored is None else stored.latents.compute_dtype


def _usual(device: Literal["auto", "cpu", "cuda"], *, has_cluster: bool) -> LatentComputeDtype:
    on_this_processor = device == "cpu" or (device == "auto" and not has_cluster and not torch.cuda.is_available())
    return fastest_on_processor() if on_this_processor else "bfloat16"


def compute_dtype_of(name: str, compute_dtype: ComputeDtype) -> ComputeDtype:
    """What one encoder computes in: float8 is T5's alone, where nearly all of the work is."""
    assert name in ENCODER_NAMES
    return "bfloat16" if compute_dtype == "float8" and name != "t5" else compute_dtype


def fastest_on_processor() -> LatentComputeDtype:
    """bfloat16 if this processor has instructions for it and they are faster, measured now; otherwise float32."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "float32"
    seconds = {dtype: _seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return "bfloat16" if seconds[torch.bfloat16] < seconds[torch.float32] else "float32"


def _seconds(dtype: torch.dtype) -> float:
    """Of a product as an encoder's; the best of some, since others use the machine too."""
    inputs, weight = torch.randn(_ROWS, _WIDTH).to(dtype), torch.randn(_WIDTH, _WIDTH).to(dtype)
    found = []
    with torch.inference_mode():
        for _ in range(_REPETITIONS):
            started = time.perf_counter()
            F.linear(inputs, weight)
            found.append(time.perf_counter() - started)
    return min(found)
