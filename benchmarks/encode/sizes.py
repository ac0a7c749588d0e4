"""The sizes of the encode benchmark: three encoders that belong together, and how much of everything is measured."""

from __future__ import annotations

from dataclasses import dataclass

CLIP_TOKENS = 77
T5_TOKENS = 256
"""What `compact` keeps of a caption at most, and what later releases of Stable Diffusion 3 pad to."""


@dataclass(frozen=True)
class Tower:
    """A text encoder's dimensions.

    Attributes:
        width: Channels.
        layers: Transformer layers.
        inner: Channels between the two matrices of a feed-forward layer.
        vocabulary: Ids.
        head_width: Channels of an attention head.
    """

    width: int
    layers: int
    inner: int
    vocabulary: int
    head_width: int = 64

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.width // self.head_width


@dataclass(frozen=True)
class Size:
    """What is measured.

    Attributes:
        towers: By encoder.
        num_captions: Of each measurement of ours; of diffusers' too, but for what is too slow for so many.
        num_peer_captions: Of a measurement of diffusers at its best batch size.
        num_single_captions: Of a measurement of diffusers at batch 1.
        num_worker_tars: Of the whole worker, each with the captions of ours.
        num_job_captions: Of the whole jobs, in `num_job_tars` tars.
        num_job_tars: Tars.
        peer_batches: Batch sizes that diffusers is tried with.
        budgets: Tokens of a batch that our engine is tried with, besides what it chooses itself.
        product_tokens: Rows of the bare matrix product.
        product_seconds: Each shape is measured for so long.
        num_checked: Captions compared with float32.
        with_t5_256: Whether T5 padded to 256 tokens is measured.
    """

    towers: dict[str, Tower]
    num_captions: int
    num_peer_captions: int
    num_single_captions: int
    num_worker_tars: int
    num_job_captions: int
    num_job_tars: int
    peer_batches: tuple[int, ...]
    budgets: tuple[int, ...]
    product_tokens: int
    product_seconds: float
    num_checked: int
    with_t5_256: bool


SIZES = {
    # The real ones: 5.6 billion parameters.
    "full": Size(
        towers={
            "clip_l": Tower(768, 12, 3072, 49408),
            "clip_g": Tower(1280, 32, 5120, 49408),
            "t5": Tower(4096, 24, 10240, 32128),
        },
        num_captions=8192,
        num_peer_captions=2048,
        num_single_captions=64,
        # Most of a worker's tars are neither its first nor its last.
        num_worker_tars=6,
        num_job_captions=0,
        num_job_tars=0,
        peer_batches=(32, 64, 128, 256, 512),
        budgets=(8192, 16_384, 32_768, 65_536),
        product_tokens=16_384,
        product_seconds=1.0,
        num_checked=64,
        with_t5_256=True,
    ),
    # For two cores. T5 has 78 percent of the parameters that are multiplied with, in reality 87.
    "small": Size(
        towers={
            "clip_l": Tower(256, 3, 1024, 49408),
            "clip_g": Tower(512, 3, 2048, 49408),
            "t5": Tower(768, 6, 2048, 32128),
        },
        num_captions=512,
        num_peer_captions=256,
        num_single_captions=48,
        num_worker_tars=1,
        num_job_captions=10_240,
        num_job_tars=4,
        peer_batches=(4, 16, 64),
        budgets=(512, 2048),
        product_tokens=1024,
        product_seconds=1.0,
        num_checked=64,
        with_t5_256=False,
    ),
    # For two cores too: the real widths and vocabularies, an eighth of the layers. What is stored of a caption and what
    # matrix products leave to everything else are as in reality; the work for a caption is an eighth.
    "wide": Size(
        towers={
            "clip_l": Tower(768, 2, 3072, 49408),
            "clip_g": Tower(1280, 4, 5120, 49408),
            "t5": Tower(4096, 3, 10240, 32128),
        },
        num_captions=256,
        num_peer_captions=64,
        num_single_captions=16,
        num_worker_tars=1,
        num_job_captions=0,
        num_job_tars=0,
        peer_batches=(4, 16),
        budgets=(2048,),
        product_tokens=1024,
        product_seconds=1.0,
        num_checked=16,
        with_t5_256=False,
    ),
    # Only to see that all of it runs, in seconds.
    "tiny": Size(
        towers={
            "clip_l": Tower(32, 2, 64, 49408, 16),
            "clip_g": Tower(48, 2, 96, 49408, 16),
            "t5": Tower(64, 2, 128, 1024, 16),
        },
        num_captions=48,
        num_peer_captions=16,
        num_single_captions=4,
        num_worker_tars=2,
        num_job_captions=48,
        num_job_tars=2,
        peer_batches=(4, 8),
        budgets=(512,),
        product_tokens=64,
        product_seconds=0.01,
        num_checked=8,
        with_t5_256=True,
    ),
}
