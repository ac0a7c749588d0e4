"""What `encode` can be told, and the presets it starts from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, get_args

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from pipeline.caption_options import CaptionOptions
from pipeline.encoders import EncoderConfig
from pipeline.latents import LatentOptions
from pipeline.latents.options import ImageConfig, LatentChoice
from schemas.errors import ConfigError
from schemas.latent_manifest import LATENTS_GROUP

# So that `--latents` by itself means the usual kind.
_OPTIONAL_VALUE: PrimitiveConstructorSpec[LatentChoice] = PrimitiveConstructorSpec(
    nargs=(0, 1),
    metavar="[{none,autoencoder_kl,pixels}]",
    instance_from_str=lambda words: words[0] if words else "autoencoder_kl",  # type: ignore[arg-type, return-value]  # tyro checks `choices`
    is_instance=lambda value: value in get_args(LatentChoice),
    str_from_instance=lambda value: [value],
    choices=get_args(LatentChoice),
)


@dataclass(frozen=True)
class _InputAndOutput:
    """A base of its own: fields of later bases come first, and these are what a person looks for first."""

    input: str
    """Tars: a folder or bucket URL (searched for *.tar), a glob, or a brace pattern such as
    s3://bucket/{00000..00999}.tar"""

    output: str
    """The dataset: a folder or bucket URL. Made by the first run; later runs add to it or resume."""

    columns: tuple[str, ...] = ("txt",)
    """Caption fields, each its own column group: a member's extension (txt, caption) or json.FIELD. None at all, with
    --latents, encodes images alone."""


@dataclass(frozen=True)
class EncodeConfig(LatentOptions, CaptionOptions, _InputAndOutput):
    """Encode the captions of tars with three text encoders, and their images, once."""

    num_workers: int | None = None
    """Workers at a time. Default: one a GPU, on the CPU one for every four cores; more as nodes join while it runs."""

    # The field of LatentOptions, which can be used without tyro.
    latents: Annotated[LatentChoice, _OPTIONAL_VALUE] = "none"

    gpus_per_worker: float = 1.0
    """GPUs of a worker; a fraction lets several share one."""

    ray_address: str | None = None
    """Address of a running Ray cluster: "auto" on one of its machines, or host:6379. Default: what RAY_ADDRESS says
    (`ray job submit` sets it), otherwise Ray on this machine only."""

    shards_per_worker: int | None = None
    """Shards that a worker has in hand, up to 4: while one is written, the next, whose tar it has read, is encoded.
    Default: 2 on GPUs, 1 on CPUs, which have nothing to gain."""

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

    @property
    def groups(self) -> tuple[str, ...]:
        """The column groups asked for."""
        return (*self.columns, *(() if self.latents == "none" else (LATENTS_GROUP,)))


_POSITIVE = (
    "chunk_rows",
    "part_bytes",
    "num_workers",
    "gpus_per_worker",
    "shards_per_worker",
    "batch_tokens",
    "max_attempts",
    "shard_timeout_seconds",
)


def require_positive(config: CaptionOptions) -> None:
    """Refuses numbers that mean nothing; an option that is left to its default (None) is fine.

    Raises:
        ConfigError: Code `option-out-of-range`.
    """
    for field in _POSITIVE:
        value = getattr(config, field, None)
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
            # As many tokens as the demo's captions have: the trainer's demo is to be done in minutes.
            clip_l=EncoderConfig(source="random", max_tokens=16),
            clip_g=EncoderConfig(source="random", max_tokens=16),
            t5=EncoderConfig(source="random", max_tokens=24),
            chunk_rows=64,
            images=ImageConfig(resolution=32, bucket_step=16),
        ),
    ),
}
"""By name: what it is for, and its settings. Any option can be overridden on the command line."""
