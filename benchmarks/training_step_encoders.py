"""The three text encoders as a training run has them that encodes its captions in every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from benchmarks.training_step_sizes import NUM_TOKENS, Encoder, Size
from schemas.identity import LatentIdentity
from trainer.conditioning import ContextLayout, keep_mask
from trainer.stream.batch import Batch, LatentBatch

_SHORTEST = 12


class TextEncoders:
    """CLIP-L, bigG and T5-XXL, or smaller ones, with random weights, frozen.

    Args:
        size: Of the encoders.
        device: Where to.
        dtype: Of the weights.
    """

    def __init__(self, size: Size, device: torch.device, dtype: torch.dtype) -> None:
        with _weights_made(device, dtype):
            self._clips = [
                CLIPTextModelWithProjection(_clip(size, size.encoders[name], activation)).eval()
                for name, activation in (("clip_l", "quick_gelu"), ("clip_g", "gelu"))
            ]
            self._t5 = T5EncoderModel(_t5(size, size.encoders["t5"])).eval()
        for model in (*self._clips, self._t5):
            model.requires_grad_(False)

    @property
    def num_parameters(self) -> int:
        """Of all three."""
        return sum(parameter.numel() for model in (*self._clips, self._t5) for parameter in model.parameters())

    @torch.no_grad()
    def encode(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Encodes captions as diffusers' pipeline does: no attention mask, the CLIPs' last state but one.

        Args:
            ids: int64 [B, 77].

        Returns:
            Hidden states of CLIP-L, bigG and T5 [B, 77, width], and both CLIPs' pooled vectors [B, width].
        """
        hidden, pooled = [], []
        for model in self._clips:
            found = model(ids, output_hidden_states=True)
            hidden.append(found.hidden_states[-2])
            pooled.append(found.text_embeds)
        return hidden[0], hidden[1], self._t5(ids).last_hidden_state, pooled


class EncodingStream:
    """Batches whose captions are encoded when they are asked for.

    Token ids and latents lie ready on the device: neither tokenizing nor loading images is counted, which favours this
    side.

    Args:
        encoders: As above.
        layout: Of the conditioning.
        latents: What the images are.
        batch_size: Samples of a batch.
        dropout: As `keep_mask`.
        device: Of the batches.
        dtype: Of the conditioning.
        vocabulary: Ids of tokens; the last one ends a caption.
    """

    def __init__(
        self,
        encoders: TextEncoders,
        layout: ContextLayout,
        latents: LatentIdentity,
        *,
        batch_size: int,
        dropout: tuple[float, float, float],
        device: torch.device,
        dtype: torch.dtype,
        vocabulary: int,
    ) -> None:
        self.waiting_seconds = 0.0
        self._encoders = encoders
        self._layout = layout
        self._dropout = dropout
        self._dtype = dtype
        self._batch_size = batch_size
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(2, vocabulary - 2, (batch_size, NUM_TOKENS), generator=generator)
        for row, length in zip(
            ids, torch.randint(_SHORTEST, NUM_TOKENS, (batch_size,), generator=generator), strict=True
        ):
            row[length:] = vocabulary - 1
        self._ids = ids.to(device)
        shape = (batch_size, *latents.latent_shape(*latents.buckets[0]))
        self._latents = torch.randn(shape, generator=generator).to(device, dtype)

    def __iter__(self) -> Iterator[Batch]:
        """Endless."""
        position = 0
        while True:
            yield self._batch(np.arange(position, position + self._batch_size))
            position += self._batch_size

    def _batch(self, positions: np.ndarray) -> Batch:
        rows = np.arange(self._batch_size)
        kept = keep_mask(0, positions, self._dropout)
        context, pooled = self._conditioning(torch.from_numpy(kept).to(self._ids.device))
        sizes = np.zeros((self._batch_size, 2), np.int32)
        return Batch(
            position=int(positions[0]),
            next_position=int(positions[-1]) + 1,
            positions=positions,
            datasets=np.zeros(self._batch_size, np.int32),
            keys=[str(position) for position in positions],
            captions=[None] * self._batch_size,
            valid=np.ones(self._batch_size, bool),
            kept=kept,
            prompt_embeds=context,
            pooled_prompt_embeds=pooled,
            latents=(LatentBatch(rows, self._latents, sizes, sizes),),
        )

    def _conditioning(self, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Assembled as the stream does: [B, 154, D] and [B, P], encoders that are left out zero."""
        *hidden, pooled = self._encoders.encode(self._ids)
        layout = self._layout
        context = torch.zeros(
            (self._batch_size, layout.num_tokens, layout.width), dtype=self._dtype, device=self._ids.device
        )
        vectors = torch.zeros((self._batch_size, layout.pooled_width), dtype=self._dtype, device=self._ids.device)
        for index, (slot, states) in enumerate(zip(layout.slots.values(), hidden, strict=True)):
            place = context[:, slot.token : slot.token + slot.num_tokens]
            place[..., slot.channel : slot.channel + slot.hidden_size] = states * kept[:, index, None, None]
            if slot.pooled_size:
                channels = slice(slot.pooled_channel, slot.pooled_channel + slot.pooled_size)
                vectors[:, channels] = pooled[index] * kept[:, index, None]
        return context, vectors


@contextmanager
def _weights_made(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Weights are made on the device and in the dtype, not copied there: T5-XXL has 19 GB in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _clip(size: Size, encoder: Encoder, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=size.vocabulary,
        hidden_size=encoder.width,
        intermediate_size=encoder.inner,
        num_hidden_layers=encoder.layers,
        num_attention_heads=encoder.heads,
        projection_dim=encoder.width,
        max_position_embeddings=NUM_TOKENS,
        hidden_act=activation,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=size.vocabulary - 1,
    )


def _t5(size: Size, encoder: Encoder) -> T5Config:
    return T5Config(
        vocab_size=size.vocabulary,
        d_model=encoder.width,
        d_kv=64,
        d_ff=encoder.inner,
        num_layers=encoder.layers,
        num_heads=encoder.heads,
        feed_forward_proj="gated-gelu",
        use_cache=False,
        is_encoder_decoder=False,
    )
