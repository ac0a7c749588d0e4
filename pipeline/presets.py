"""What `encode` can be told, and the presets it starts from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import tyro

from pipeline.encoders import EncoderConfig
from schemas.errors import ConfigError
from schemas.identity import ComputeDtype, Padding, StorageDtype
from schemas.manifest import Container


@dataclass(frozen=True)
class EncodeConfig:
    """Encode the captions of tars with three text encoders, once."""

    input: str
    """Caption tars: a folder or bucket URL (searched for *.tar), a glob, or a brace pattern such as
    s3://bucket/{00000..00999}.tar"""

    output: str
    """The dataset: a folder or bucket URL. Made by the first run; later runs add to it or resume."""

    columns: tuple[str, ...] = ("txt",)
    """Caption fields, each its own column group: a member's extension (txt, caption) or json.FIELD."""

    container: Container = "arrow"
    """Form of the part files: Arrow IPC files, or tars that WebDataset readers open."""

    clip_l: EncoderConfig = EncoderConfig(source="openai/clip-vit-large-patch14")
    """CLIP-L/14."""

    clip_g: EncoderConfig = EncoderConfig(source="laion/CLIP-ViT-bigG-14-laion2B-39B-b160k")
    """OpenCLIP bigG/14."""

    t5: EncoderConfig = EncoderConfig(source="google/t5-v1_1-xxl")
    """The encoder of T5-v1.1-XXL."""

    padding: Padding = "max_length"
    """max_length: every caption padded to max-tokens, no attention mask, pad rows stored, as Stable Diffusion 3 was
    trained. none: masked to the real tokens, only these stored."""

    compute_dtype: ComputeDtype = "bfloat16"
    """What the encoders compute in. Part of the identity."""

    storage_dtype: StorageDtype = "bfloat16"
    """What is stored. Part of the identity."""

    chunk_rows: int | None = None
    """Rows of a chunk, a constant of the dataset. Default: what makes a chunk 16 to 32 MiB raw."""

    part_bytes: int = 64 * 1024**2
    """Bytes a part file may have, a constant of the dataset. A worker holds one part in memory while it is built."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoders run. auto: GPUs if the cluster has any."""

    num_workers: int | None = None
    """Workers at a time. Default: one a GPU; on the CPU one for every four cores."""

    gpus_per_worker: float = 1.0
    """GPUs of a worker; a fraction lets several share one."""

    ray_address: str | None = None
    """Address of a running Ray cluster: "auto" on one of its machines, or host:6379. Default: what RAY_ADDRESS says
    (`ray job submit` sets it), otherwise Ray on this machine only."""

    batch_tokens: int | None = None
    """Bound on the tokens of a batch, padding included. Default: 32768 on a GPU, 1024 on the CPU."""

    max_attempts: int = 3
    """A shard that fails so often is quarantined, and the job goes on."""

    shard_timeout_seconds: float | None = None
    """A shard that takes longer has its worker killed, which counts as a failed attempt. Default: never."""

    retry_quarantined: bool = False
    """Try again what earlier runs gave up."""

    stop_grace_seconds: float = 60.0
    """How long shards in flight may go on after SIGTERM or Ctrl-C."""

    dry_run: bool = False
    """Print what would be done, and do nothing."""


_POSITIVE = (
    "chunk_rows",
    "part_bytes",
    "num_workers",
    "gpus_per_worker",
    "batch_tokens",
    "max_attempts",
    "shard_timeout_seconds",
)


def require_positive(config: EncodeConfig) -> None:
    """Refuses numbers that mean nothing; an option that is left to its default (None) is fine.

    Raises:
        ConfigError: Code `option-out-of-range`.
    """
    for field in _POSITIVE:
        value = getattr(config, field)
        if value is not None and not value > 0:
            raise ConfigError(
                "option-out-of-range",
                where=f"--{field.replace('_', '-')}",
                expected="a number above 0",
                actual=str(value),
                remedy="choose one, or leave the option out",
            )


_SD3 = EncodeConfig(input=tyro.MISSING, output=tyro.MISSING)

PRESETS: dict[str, tuple[str, EncodeConfig]] = {
    "sd3": ("Exactly what Stable Diffusion 3 is conditioned on: 77 tokens each, pad rows and all.", _SD3),
    "compact": (
        "Real tokens only, masked: a third of the compute and storage. For models trained from scratch.",
        dataclasses.replace(_SD3, padding="none", t5=dataclasses.replace(_SD3.t5, max_tokens=256)),
    ),
    "demo": (
        "Small random-weight encoders of the same architectures. To try things out, never to train on.",
        dataclasses.replace(
            _SD3,
            clip_l=EncoderConfig(source="random"),
            clip_g=EncoderConfig(source="random"),
            t5=EncoderConfig(source="random"),
            chunk_rows=64,
        ),
    ),
}
"""By name: what it is for, and its settings. Any option can be overridden on the command line."""
