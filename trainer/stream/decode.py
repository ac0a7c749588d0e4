"""A chunk in memory: Arrow's buffers as arrays, without a copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.identity import ENCODER_NAMES


@dataclass(frozen=True)
class PlaneColumn:
    """A column of stored tensors: row i is `planes[k][offsets[k][i]:offsets[k][i + 1]]`.

    Attributes:
        planes: Most significant first, read-only.
        offsets: int64 [rows + 1], one for each plane; all the same in a chunk that follows SPEC.md.
        addresses: Where each plane is in memory, as long as the column is there.
    """

    planes: tuple[npt.NDArray[np.uint8], ...]
    offsets: tuple[npt.NDArray[np.int64], ...]
    addresses: tuple[int, ...]

    def row(self, index: int) -> list[npt.NDArray[np.uint8]]:
        """One row's planes, flat."""
        start, stop = self.offsets[0][index], self.offsets[0][index + 1]
        return [plane[start:stop] for plane in self.planes]


@dataclass(frozen=True)
class CaptionChunk:
    """Rows of a caption group.

    Attributes:
        batch: As decoded.
        valid: bool [rows]; False where the caption was rejected.
        hidden: By encoder.
        pooled: By encoder; the CLIPs'.
    """

    batch: pa.RecordBatch
    valid: npt.NDArray[np.bool_]
    hidden: Mapping[str, PlaneColumn]
    pooled: Mapping[str, PlaneColumn]

    def key(self, row: int) -> str:
        """The sample's key."""
        return str(self.batch.column("key")[row].as_py())

    def caption(self, row: int) -> str | None:
        """The caption, if there is one."""
        caption: str | None = self.batch.column("caption")[row].as_py()
        return caption


@dataclass(frozen=True)
class LatentChunk:
    """Rows of the latents group.

    Attributes:
        batch: As decoded.
        valid: bool [rows]; False where the image was rejected.
        latents: [C, height / f, width / f] of each row, flat.
        sizes: int32 [rows, 2], height and width in pixels.
        original_sizes: int32 [rows, 2], of the source images.
        crops: int32 [rows, 2], top and left.
    """

    batch: pa.RecordBatch
    valid: npt.NDArray[np.bool_]
    latents: PlaneColumn
    sizes: npt.NDArray[np.int32]
    original_sizes: npt.NDArray[np.int32]
    crops: npt.NDArray[np.int32]


@dataclass(frozen=True)
class SampleChunk:
    """The samples of one chunk: captions, and images if the stream has them, row by row of the same samples.

    Attributes:
        captions: The captions.
        latents: The images.
        num_bytes: Memory that both keep.
    """

    captions: CaptionChunk
    latents: LatentChunk | None
    num_bytes: int


def decoded_captions(batch: pa.RecordBatch) -> CaptionChunk:
    """A caption group's record batch as arrays."""
    encoders = {name: batch.column(name) for name in ENCODER_NAMES}
    hidden: dict[str, PlaneColumn] = {name: _plane_column(column.field("hidden")) for name, column in encoders.items()}
    pooled: dict[str, PlaneColumn] = {
        name: _plane_column(column.field("pooled"))
        for name, column in encoders.items()
        if column.type.get_field_index("pooled") >= 0
    }
    return CaptionChunk(batch, _valid(batch.column(ENCODER_NAMES[0])), hidden, pooled)


def decoded_latents(batch: pa.RecordBatch) -> LatentChunk:
    """The latents group's record batch as arrays."""
    image = batch.column("image")

    def pair(first: str, second: str) -> npt.NDArray[np.int32]:
        columns = [image.field(name).to_numpy(zero_copy_only=False) for name in (first, second)]
        return np.stack(columns, axis=1).astype(np.int32, copy=False)

    return LatentChunk(
        batch,
        _valid(image),
        _plane_column(batch.column("latents")),
        pair("height", "width"),
        pair("original_height", "original_width"),
        pair("crop_top", "crop_left"),
    )


def held_bytes(batch: pa.RecordBatch, data: pa.Buffer) -> int:
    """The memory that a decoded batch keeps, in bytes.

    Args:
        batch: The batch.
        data: What it was decoded from. All of it stays in memory if a buffer of the batch, not compressed, is in it.
    """
    buffers = [found for column in batch.columns for found in column.buffers() if found is not None and found.size]
    own = [found.size for found in buffers if not data.address <= found.address < data.address + data.size]
    return sum(own) + (data.size if len(own) < len(buffers) else 0)


def _valid(column: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False), bool)


def _plane_column(column: pa.StructArray) -> PlaneColumn:
    arrays = [column.field(index) for index in range(column.type.num_fields)]
    planes = tuple(_data(array) for array in arrays)
    return PlaneColumn(planes, tuple(_offsets(array) for array in arrays), tuple(plane.ctypes.data for plane in planes))


def _offsets(array: pa.Array) -> npt.NDArray[np.int64]:
    buffer = array.buffers()[1]
    if buffer is None or not buffer.size:
        return np.zeros(len(array) + 1, np.int64)
    # Behind the last offset there may be any number of bytes.
    return np.frombuffer(buffer, np.int64, len(array) + 1, 8 * array.offset)


def _data(array: pa.Array) -> npt.NDArray[np.uint8]:
    buffer = array.buffers()[2]
    data = np.frombuffer(b"" if buffer is None else buffer, np.uint8)
    # What is compiled for arrays is for such alone.
    data.flags.writeable = False
    return data
