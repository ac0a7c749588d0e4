"""diffusers' `StableDiffusion3Pipeline.encode_prompt`, at its best batch size or at 1, as caches have it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from benchmarks.encode.models import Models
from benchmarks.encode.sizes import CLIP_TOKENS
from benchmarks.encode.timing import Row, seconds_of
from pipeline.encoders import TextEncoder
from pipeline.encoders.demo_vocabulary import demo_t5_tokenizer
from pipeline.encoders.demo_weights import clip_tokenizer
from schemas.identity import ENCODER_NAMES

_log = logging.getLogger(__name__)


def prompt_pipeline(models: Models) -> StableDiffusion3Pipeline:
    """diffusers' pipeline with these encoders, their own weights, and as little as possible of anything else."""
    clip_l, clip_g, t5 = (models.modules[name] for name in ENCODER_NAMES)
    width = models.size.towers["t5"].width
    pooled = models.size.towers["clip_l"].width + models.size.towers["clip_g"].width
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=width, caption_projection_dim=16, pooled_projection_dim=pooled, out_channels=4,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer.to(models.device, models.dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=clip_l,
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_g,
        tokenizer_2=clip_tokenizer("!"),
        text_encoder_3=t5,
        tokenizer_3=demo_t5_tokenizer(),
    )


class Diffusers:
    """`encode_prompt` on some captions; what it gives stays on the device, which favours it.

    Args:
        engine: Name in the results.
        kind: Of the captions.
        captions: To encode.
        pipeline: Of `prompt_pipeline`.
        encoders: Ours under the same policy, to count FLOPs and tokens.
        batches: Sizes to try; one is not tried.
        max_seconds: Of one measurement: fewer captions are measured if they would take longer, two batches at least.
    """

    def __init__(
        self,
        engine: str,
        kind: str,
        captions: Sequence[str],
        pipeline: StableDiffusion3Pipeline,
        encoders: Mapping[str, TextEncoder],
        batches: Sequence[int],
        max_seconds: float = math.inf,
    ) -> None:
        self._pipeline, self._captions = pipeline, captions
        self._t5_tokens = encoders["t5"].identity.max_tokens
        self._device = encoders["t5"].device
        self.tried = self._try(batches)
        batch = max(self.tried, key=self.tried.__getitem__)
        if self.tried[batch] * max_seconds < len(captions) and self.tried[batch]:
            self._captions = captions = captions[: max(2 * batch, int(self.tried[batch] * max_seconds))]
        padded = dict.fromkeys(ENCODER_NAMES, CLIP_TOKENS) | {"t5": self._t5_tokens}
        flops = sum(encoders[name].model_flops(np.array([padded[name]], np.int64)) for name in ENCODER_NAMES)
        tokens = sum(len(ids) for name in ENCODER_NAMES for ids in encoders[name].tokenizer(captions).ids)
        self.row = Row(
            engine=engine,
            dtype=str(encoders["t5"].identity.compute_dtype),
            captions=kind,
            t5_tokens=self._t5_tokens,
            batch=batch,
            tried={str(size): rate for size, rate in self.tried.items()} if len(batches) > 1 else {},
            flops=flops,
            tokens=tokens / len(captions),
            padding_share=1 - tokens / len(captions) / sum(padded.values()),
        )

    def measure(self) -> None:
        """Once more."""
        self.row.rates.append(self._rate(self._captions, self.row.batch))

    def _try(self, batches: Sequence[int]) -> dict[int, float]:
        self._rate(self._captions[: min(batches)], min(batches))
        tried = {}
        for size in batches if len(batches) > 1 else ():
            # At least two batches, and no fewer captions than half of the measurement's.
            some = self._captions[: max(2 * size, len(self._captions) // 2)]
            try:
                self._rate(some[:size], size)
                tried[size] = self._rate(some, size)
            except torch.OutOfMemoryError:
                _log.warning("no memory for diffusers at batch %d", size)
                torch.cuda.empty_cache()
        return tried or {batches[0]: 0.0}

    def _rate(self, captions: Sequence[str], size: int) -> float:
        def work() -> None:
            for start in range(0, len(captions), size):
                self.encode(captions[start : start + size])

        return len(captions) / seconds_of(work, self._device)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """prompt_embeds [B, 77 + T, D] and pooled_prompt_embeds [B, P]."""
        embeds, _, pooled, _ = self._pipeline.encode_prompt(
            list(captions),
            None,
            None,
            device=self._device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._t5_tokens,
        )
        return embeds, pooled
