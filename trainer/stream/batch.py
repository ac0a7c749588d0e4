"""What the stream hands to a training step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True)
class LatentBatch:
    """The images of a batch that have one size.

    Attributes:
        rows: int64 [n], on the host: which rows of the batch these are; ascending.
        latents: [n, C, h, w] as the model consumes them: shifted and scaled, pixels from -1 to 1.
        original_sizes: int32 [n, 2], on the host: height and width of the source images, pixels.
        crops: int32 [n, 2], on the host: top and left of the crop in the resized image, pixels.
    """

    rows: npt.NDArray[np.int64]
    latents: torch.Tensor
    original_sizes: npt.NDArray[np.int32]
    crops: npt.NDArray[np.int32]


@dataclass(frozen=True)
class MicroBatch:
    """Valid rows of one image size: what goes through the model at once. Shapes as in `Batch`, n rows."""

    latents: torch.Tensor
    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor
    positions: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """One rank's rows of a global batch: B rows, always, on every rank.

    Rows that are not valid hold a place only: an epoch's tail, or a caption or image that the pipeline rejected.

    Attributes:
        position: Where in the stream the global batch begins.
        next_position: The stream's state after it.
        positions: int64 [B], each row's place in the stream; -1 for a row that pads a tail.
        datasets: int32 [B], which dataset each row is of.
        keys: [B]; None for a row that pads a tail.
        captions: [B]; None where there is none.
        valid: bool [B], on the host.
        kept: bool [B, 3], on the host: the encoders ("clip_l", "clip_g", "t5") that dropout left.
        prompt_embeds: [B, T, D]; zero in rows that are not valid.
        pooled_prompt_embeds: [B, P].
        latents: One entry for each image size among the valid rows; empty for a stream without images.
    """

    position: int
    next_position: int
    positions: npt.NDArray[np.int64]
    datasets: npt.NDArray[np.int32]
    keys: list[str | None]
    captions: list[str | None]
    valid: npt.NDArray[np.bool_]
    kept: npt.NDArray[np.bool_]
    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor
    latents: tuple[LatentBatch, ...]

    def micro_batches(self) -> list[MicroBatch]:
        """The valid rows by image size, sizes in ascending order; none if no row is valid."""
        out = []
        for images in self.latents:
            whole = len(images.rows) == len(self.valid)
            rows = torch.from_numpy(images.rows).to(self.prompt_embeds.device, non_blocking=True)
            embeds = self.prompt_embeds if whole else self.prompt_embeds.index_select(0, rows)
            pooled = self.pooled_prompt_embeds if whole else self.pooled_prompt_embeds.index_select(0, rows)
            out.append(MicroBatch(images.latents, embeds, pooled, self.positions[images.rows]))
        return out
