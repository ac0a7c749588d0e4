"""Compute dtype of the text encoders and the autoencoder, where the user leaves it open ("auto")."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Literal

import torch

from schemas.errors import MissingObjectError
from schemas.identity import ENCODER_NAMES, ComputeDtype, LatentComputeDtype
from schemas.latent_manifest import read_latent_manifest
from schemas.manifest import read_manifest
from schemas.storage import Store

ComputeDtypeOption = Literal["auto", "float32", "bfloat16", "float8"]

_EMULATING = ("AVX512_CORE", "AVX512_CORE_VNNI")
"""Limits under which oneDNN accepts bfloat16 and converts it to float32 for every product."""


@dataclass(frozen=True)
class ResolvedComputeDtype:
    """A compute dtype and the reason for it, as a clause for people."""

    dtype: ComputeDtype
    reason: str


def resolve_compute_dtype(
    option: ComputeDtypeOption, dataset: Store, *, device: Literal["auto", "cpu", "cuda"], has_cluster: bool
) -> ResolvedComputeDtype:
    """Resolves the option before anything is encoded, since the compute dtype is part of the identity.

    "auto" takes the dtype of an existing dataset. For a new one it is bfloat16, except for encoders that run on this
    machine's processor where that has no instructions for bfloat16: then it is float32. Nothing is timed, so that a
    command means the same on a busy machine. On a cluster the driver decides, and the manifest records it.

    Args:
        option: As given by the user.
        dataset: Need not exist yet.
        device: Where the encoders run, as given by the user.
        has_cluster: Whether workers may be on machines that have GPUs though this one has none.

    Raises:
        DamagedDataError, ContractError: The manifest cannot be read.
    """
    if option != "auto":
        return ResolvedComputeDtype(option, "--compute-dtype")
    try:
        # T5's: the CLIPs of a float8 dataset are computed in bfloat16.
        return ResolvedComputeDtype(read_manifest(dataset).captions.t5.compute_dtype, "as in the dataset's manifest")
    except MissingObjectError:
        pass
    dtype, reason = _of_device(device, has_cluster=has_cluster)
    return ResolvedComputeDtype(dtype, reason)


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
    return _of_device(device, has_cluster=has_cluster)[0] if stored is None else stored.latents.compute_dtype


def _of_device(device: Literal["auto", "cpu", "cuda"], *, has_cluster: bool) -> tuple[LatentComputeDtype, str]:
    """The dtype for a new dataset and the reason for it."""
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return "bfloat16", "the encoders run on a GPU"
    if device == "auto" and has_cluster:
        return "bfloat16", "the cluster may have GPUs"
    if has_bfloat16_instructions():
        return "bfloat16", "this processor has instructions for it"
    return "float32", "this processor has no instructions for bfloat16, or may not use them"


def compute_dtype_of(name: str, compute_dtype: ComputeDtype) -> ComputeDtype:
    """What one encoder computes in: float8 is T5's alone, where nearly all of the work is."""
    assert name in ENCODER_NAMES
    return "bfloat16" if compute_dtype == "float8" and name != "t5" else compute_dtype


def has_bfloat16_instructions() -> bool:
    """Whether this process multiplies bfloat16 with instructions made for it: AVX-512 BF16, AMX or ARM's.

    torch's own query is not enough on x86: oneDNN accepts bfloat16 on every processor with AVX-512 and on some with
    AVX2, and computes in float32 between conversions, at a fifth of float32's speed or less. `ONEDNN_MAX_CPU_ISA` and
    `ATEN_CPU_CAPABILITY` count as the processor that they stand for; with the latter below AVX-512, attention in
    bfloat16 may fail in torch 2.15.
    """
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return (
        torch.cpu._is_avx512_bf16_supported()
        and torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
        and limit.upper() not in _EMULATING
    )


def slow_compute_warning(compute_dtypes: set[ComputeDtype], device: str) -> str | None:
    """A sentence for the user if this machine computes these dtypes correctly but slowly; None if it does not.

    Args:
        compute_dtypes: Of the encoders that this process runs.
        device: "cpu" or "cuda".
    """
    if device != "cpu" or compute_dtypes <= {"float32"} or has_bfloat16_instructions():
        return None
    return (
        f"{platform.node()} has no instructions for bfloat16, in which this dataset is computed: it is several times "
        "slower than in float32, and the values are the same but for rounding"
    )
