"""The rows of the group `latents`: null rows, sizes of images, tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.identity import LatentIdentity
from schemas.latent_manifest import LATENTS_GROUP
from schemas.latent_schema import IMAGE_FIELDS
from schemas.ledger import LatentStats
from schemas.planes import STORAGE_DTYPES
from schemas.validator.batch_rows import Add, Stats, indices, valid_rows
from schemas.validator.codes import Code
from schemas.validator.tensors import TENSOR_CODES, TensorColumn, tensor_problems


class LatentRowsChecker:
    """Checks the batches of one part of the group `latents`.

    Args:
        identity: The dataset's.
        add: Takes findings.
    """

    def __init__(self, identity: LatentIdentity, add: Add) -> None:
        self._identity = identity
        self._add = add
        self._num_images: Counter[str] = Counter()
        self._raw_bytes = 0

    def check(self, batch: pa.RecordBatch, keys: Sequence[str], first_row: int) -> npt.NDArray[np.bool_]:
        """Checks one batch; returns which rows are not null."""
        image, latents = batch.column("image"), batch.column("latents")
        valid, stored = valid_rows(image), valid_rows(latents)
        for index in indices(valid != stored):
            actual = f"image {'there' if valid[index] else 'null'}, latents {'there' if stored[index] else 'null'}"
            self._add(Code.ROW_PARTLY_NULL, "image and latents or neither", actual, first_row + index, keys[index])
        sizes = self._check_image(image, valid, keys, first_row)
        self._check_tensors(latents, sizes * (valid & stored)[:, None], keys, first_row)
        self._num_images.update(f"{height}x{width}" for height, width in sizes[valid].tolist())
        return valid | stored

    def stats(self) -> dict[str, Stats]:
        """What the rows so far add up to."""
        return {LATENTS_GROUP: LatentStats(num_images=dict(self._num_images), raw_bytes=self._raw_bytes)}

    def _check_image(
        self, image: pa.StructArray, valid: npt.NDArray[np.bool_], keys: Sequence[str], first_row: int
    ) -> npt.NDArray[np.int64]:
        """Checks the numbers of a batch's images; returns int64 [rows, 2], height and width in px, 0 for a null row."""
        numbers = {}
        for name in IMAGE_FIELDS:
            column = image.field(name)
            for index in indices(valid & ~valid_rows(column)):
                self._add(Code.VALUE_NULL, f"image.{name}", "null", first_row + index, keys[index])
            numbers[name] = valid * column.fill_null(0).to_numpy().astype(np.int64)
        for index in indices(valid):
            if (numbers["height"][index], numbers["width"][index]) not in self._identity.buckets:
                actual = f"{numbers['height'][index]} x {numbers['width'][index]} px"
                self._add(Code.IMAGE_SIZE, "a bucket of the identity", actual, first_row + index, keys[index])
        self._check_crop(numbers, valid, keys, first_row)
        return np.stack([numbers["height"], numbers["width"]], axis=1)

    def _check_crop(
        self,
        numbers: Mapping[str, npt.NDArray[np.int64]],
        valid: npt.NDArray[np.bool_],
        keys: Sequence[str],
        first_row: int,
    ) -> None:
        """The image, resized to cover its bucket, must hold the crop; a pixel of it may be due to rounding."""
        edges = (("height", "crop_top"), ("width", "crop_left"))
        originals = [np.maximum(numbers[f"original_{side}"], 1) for side, _ in edges]
        scale = np.max([numbers[side] / original for (side, _), original in zip(edges, originals, strict=True)], axis=0)
        for (side, crop), original in zip(edges, originals, strict=True):
            for index in indices(valid & (numbers[f"original_{side}"] < 1)):
                actual = f"{numbers[f'original_{side}'][index]} px"
                self._add(
                    Code.IMAGE_SIZE, f"image.original_{side}: 1 px or more", actual, first_row + index, keys[index]
                )
            most = np.maximum(np.floor(original * scale) - numbers[side] + 1, 0).astype(np.int64)
            for index in indices(valid & ((numbers[crop] < 0) | (numbers[crop] > most))):
                actual = f"{numbers[crop][index]} px"
                expected = f"image.{crop}: 0 to {most[index]} px"
                self._add(Code.IMAGE_SIZE, expected, actual, first_row + index, keys[index])

    def _check_tensors(
        self, latents: pa.StructArray, sizes: npt.NDArray[np.int64], keys: Sequence[str], first_row: int
    ) -> None:
        identity = self._identity
        elements = identity.num_channels * np.maximum(sizes // identity.downscale_factor, 0).prod(axis=1)
        dtype = identity.storage_dtype
        self._raw_bytes += int(elements.sum()) * STORAGE_DTYPES[dtype].itemsize
        # One vector a value, as images of all sizes stand in one column. A picture of one colour has pixels alike.
        tensor = TensorColumn("latents", latents, 1, elements, may_repeat=identity.kind == "pixels")
        for found in tensor_problems(tensor, dtype):
            self._add(TENSOR_CODES[found.kind], found.expected, found.actual, first_row + found.row, keys[found.row])


def sum_latent_stats(parts: Iterable[dict[str, Stats]]) -> dict[str, Stats]:
    """The statistics of a shard from those of its parts."""
    num_images: Counter[str] = Counter()
    raw_bytes = 0
    for stats in parts:
        found = stats[LATENTS_GROUP]
        assert isinstance(found, LatentStats)
        num_images.update(found.num_images)
        raw_bytes += found.raw_bytes
    return {LATENTS_GROUP: LatentStats(num_images=dict(num_images), raw_bytes=raw_bytes)}
