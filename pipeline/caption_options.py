"""Options shared by all commands that encode captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.compute_dtype import ComputeDtypeOption, compute_dtype_of, resolve_compute_dtype
from pipeline.encoders import EncoderConfig, describe_encoder
from schemas.identity import ENCODER_NAMES, CaptionIdentity, Padding, StorageDtype
from schemas.manifest import Container
from schemas.storage import Store


@dataclass(frozen=True)
class CaptionOptions:
    """Encoders, what is stored of them, and where they run."""

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

    compute_dtype: ComputeDtypeOption = "auto"
    """What the encoders compute in. Part of the identity. auto: what the dataset has; for a new one bfloat16, or
    float32 on a CPU without instructions for bfloat16. float8: T5's linear layers in float8, on GPUs from Hopper (or
    Ada) on."""

    storage_dtype: StorageDtype = "bfloat16"
    """What is stored. Part of the identity."""

    chunk_rows: int | None = None
    """Rows of a chunk, a constant of the dataset. Default: what the dataset has; for a new one, what makes a chunk 16
    to 32 MiB raw."""

    part_bytes: int = 64 * 1024**2
    """Bytes a part file may have, a constant of the dataset. A worker holds two in memory: one is built while one is
    written."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoders run. auto: a GPU if there is one."""

    batch_tokens: int | None = None
    """Bound on the tokens of a batch, padding included. Default: what a GPU has memory for, 1024 on the CPU;
    halved when memory runs out all the same."""


def encoder_config(options: CaptionOptions, name: str) -> EncoderConfig:
    """What the user said about one encoder."""
    found = getattr(options, name)
    assert isinstance(found, EncoderConfig)
    return found


def caption_identity(options: CaptionOptions, dataset: Store, *, has_cluster: bool = False) -> CaptionIdentity:
    """What captions encoded with these options are; reads every weight once for its digest. Prints the compute dtype.

    Args:
        options: What the user says.
        dataset: Decides what is left open, if it exists.
        has_cluster: Whether workers may be on other machines than this one.

    Raises:
        ConfigError: An encoder cannot be found or used.
    """
    resolved = resolve_compute_dtype(options.compute_dtype, dataset, device=options.device, has_cluster=has_cluster)
    print(f"encode-once: compute dtype {resolved.dtype} ({resolved.reason})", flush=True)
    identities = {
        name: describe_encoder(
            name,
            encoder_config(options, name),
            padding=options.padding,
            compute_dtype=compute_dtype_of(name, resolved.dtype),
            storage_dtype=options.storage_dtype,
        )
        for name in ENCODER_NAMES
    }
    return CaptionIdentity(**identities)
