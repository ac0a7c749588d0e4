"""The sizes of the training step's benchmark: MMDiT and text encoders that belong together."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.identity import ENCODER_NAMES, CaptionIdentity, EncoderIdentity, LatentIdentity
from trainer.model import ModelConfig

NUM_TOKENS = 77
_DIGEST = "0" * 64


@dataclass(frozen=True)
class Encoder:
    """A text encoder's dimensions.

    Attributes:
        width: Channels.
        layers: Transformer layers.
        heads: Attention heads, of 64 channels.
        inner: Channels between the two matrices of a feed-forward layer.
    """

    width: int
    layers: int
    heads: int
    inner: int


@dataclass(frozen=True)
class Size:
    """What is trained, and with which encoders.

    Attributes:
        model: The MMDiT.
        encoders: By name.
        vocabulary: Ids of the encoders' tokens.
        dtype: Of weights and activations in the passes.
        compile: Whether the blocks are compiled.
        batch_size: Samples of a step, unless told otherwise.
        resolutions: Of the pictures, px, unless told otherwise.
        matrix: Side of the matrix product that is the measure of the device.
        product_seconds: How long it is kept up.
        stream_bytes: Host memory of the stream. It is filled, however small the dataset: the default would hide what a
            step on a CPU takes.
    """

    model: ModelConfig
    encoders: dict[str, Encoder]
    vocabulary: int
    dtype: str
    compile: bool
    batch_size: int
    resolutions: tuple[int, ...]
    matrix: int
    product_seconds: float
    stream_bytes: int


SIZES = {
    # An eighth of the real widths and a quarter of the depths: every part costs a 256th, so the shares stay.
    "small": Size(
        model=ModelConfig(depth=6, num_heads=3),
        encoders={
            "clip_l": Encoder(96, 3, 2, 384),
            "clip_g": Encoder(160, 8, 2, 640),
            "t5": Encoder(512, 6, 8, 1280),
        },
        vocabulary=4096,
        dtype="float32",
        compile=False,
        batch_size=8,
        resolutions=(256,),
        matrix=2048,
        product_seconds=3.0,
        stream_bytes=256 * 1024**2,
    ),
    # Stable Diffusion 3 medium: 2.0 billion parameters, beside encoders of 5.6.
    "full": Size(
        model=ModelConfig(depth=24),
        encoders={
            "clip_l": Encoder(768, 12, 12, 3072),
            "clip_g": Encoder(1280, 32, 20, 5120),
            "t5": Encoder(4096, 24, 64, 10240),
        },
        vocabulary=32128,
        dtype="bfloat16",
        compile=True,
        batch_size=32,
        resolutions=(256, 512),
        matrix=8192,
        product_seconds=3.0,
        stream_bytes=4 * 1024**3,
    ),
    # Only to see that `full` runs: the same path, bfloat16 and compiled, in seconds on a CPU.
    "tiny": Size(
        model=ModelConfig(depth=2, num_heads=2, head_dim=32),
        encoders={
            "clip_l": Encoder(32, 2, 2, 64),
            "clip_g": Encoder(48, 2, 2, 96),
            "t5": Encoder(96, 2, 2, 128),
        },
        vocabulary=512,
        dtype="bfloat16",
        compile=True,
        batch_size=4,
        resolutions=(64,),
        matrix=256,
        product_seconds=0.1,
        stream_bytes=256 * 1024**2,
    ),
}


def caption_identity(size: Size) -> CaptionIdentity:
    """Of a dataset that these encoders would have made, padded to 77 tokens."""
    return CaptionIdentity(
        **{
            name: EncoderIdentity(
                name=name,
                source="benchmark",
                revision=None,
                weights_sha256=_DIGEST,
                tokenizer="transformers",
                tokenizer_sha256=_DIGEST,
                exclamation_as_pad=False,
                architecture={},
                hidden_layer="final norm" if name == "t5" else "penultimate, no final norm",
                hidden_size=size.encoders[name].width,
                pooled_size=None if name == "t5" else size.encoders[name].width,
                max_tokens=NUM_TOKENS,
                pad_token_id=0,
                eos_token_id=1,
                padding="max_length",
                attention_mask=False,
                compute_dtype="bfloat16",
                storage_dtype="bfloat16",
            )
            for name in ENCODER_NAMES
        }
    )


def latent_identity(resolution: int) -> LatentIdentity:
    """Of the latents of Stable Diffusion 3's autoencoder."""
    return LatentIdentity(
        kind="autoencoder_kl",
        source="benchmark",
        revision=None,
        weights_sha256=_DIGEST,
        architecture={},
        num_channels=16,
        downscale_factor=8,
        shift_factor=0.0609,
        scaling_factor=1.5305,
        posterior="mode",
        resolution=resolution,
        crop="center",
        buckets=((resolution, resolution),),
        resample="lanczos",
        compute_dtype="float32",
        storage_dtype="bfloat16",
    )
