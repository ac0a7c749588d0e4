"""The rows of a caption group: null rows, token counts and tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.identity import ENCODER_NAMES, CaptionIdentity, EncoderIdentity
from schemas.ledger import EncoderStats
from schemas.planes import STORAGE_DTYPES
from schemas.validator.batch_rows import Add, Stats, indices, valid_rows
from schemas.validator.codes import Code
from schemas.validator.tensors import TENSOR_CODES, TensorColumn, tensor_problems


class CaptionRows:
    """Checks the batches of one part of a caption group.

    Args:
        identity: The dataset's encoders.
        add: Takes findings.
    """

    def __init__(self, identity: CaptionIdentity, add: Add) -> None:
        self._identity = identity
        self._add = add
        self._totals = {name: np.zeros(3, np.int64) for name in ENCODER_NAMES}

    def check(self, batch: pa.RecordBatch, keys: Sequence[str], first_row: int) -> npt.NDArray[np.bool_]:
        """Checks one batch; returns which rows are not null."""
        valid = {name: valid_rows(batch.column(name)) for name in ENCODER_NAMES}
        encoded: npt.NDArray[np.bool_] = np.any(list(valid.values()), axis=0)
        for index in indices(encoded & ~np.all(list(valid.values()), axis=0)):
            states = ", ".join(f"{name} {'encoded' if valid[name][index] else 'null'}" for name in ENCODER_NAMES)
            self._add(Code.ROW_PARTLY_NULL, "all encoders or none", states, first_row + index, keys[index])
        for index in indices(encoded & ~valid_rows(batch.column("caption"))):
            self._add(Code.VALUE_NULL, "the caption of an encoded row", "null", first_row + index, keys[index])
        for name in ENCODER_NAMES:
            self._check_encoder(self._identity.encoder(name), batch.column(name), keys, first_row)
        return encoded

    def stats(self) -> dict[str, Stats]:
        """What the rows so far add up to."""
        return {name: _encoder_stats(totals) for name, totals in self._totals.items()}

    def _check_encoder(
        self, identity: EncoderIdentity, column: pa.StructArray, keys: Sequence[str], first_row: int
    ) -> None:
        name, valid = identity.name, valid_rows(column)
        for field_name in ("num_tokens", "truncated"):
            for index in indices(valid & ~valid_rows(column.field(field_name))):
                self._add(Code.VALUE_NULL, f"{name}.{field_name}", "null", first_row + index, keys[index])
        num_tokens = valid * column.field("num_tokens").fill_null(0).to_numpy().astype(np.int64)
        cut = valid & column.field("truncated").fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
        limit = identity.max_tokens
        wrong = valid & ((num_tokens < 1) | (num_tokens > limit) | (cut & (num_tokens != limit)))
        for index in indices(wrong):
            expected = f"{name}: {limit} tokens, as it is truncated" if cut[index] else f"{name}: 1 to {limit} tokens"
            self._add(Code.NUM_TOKENS, expected, f"{num_tokens[index]} tokens", first_row + index, keys[index])
        stored = valid * limit if identity.padding == "max_length" else num_tokens
        raw_bytes = 0
        for tensor in _tensor_columns(identity, column, stored.astype(np.int64), valid.astype(np.int64)):
            raw_bytes += int(tensor.vectors.sum()) * tensor.width * STORAGE_DTYPES[identity.storage_dtype].itemsize
            for found in tensor_problems(tensor, identity.storage_dtype):
                expected = f"{name}.{found.expected}"
                self._add(TENSOR_CODES[found.kind], expected, found.actual, first_row + found.row, keys[found.row])
        self._totals[name] += np.array([num_tokens.sum(), cut.sum(), raw_bytes], np.int64)


def sum_encoder_stats(parts: Iterable[dict[str, Stats]]) -> dict[str, Stats]:
    """The statistics of a shard from those of its parts."""
    totals = {name: np.zeros(3, np.int64) for name in ENCODER_NAMES}
    for stats in parts:
        for name, total in totals.items():
            found = stats[name]
            assert isinstance(found, EncoderStats)
            total += np.array([found.num_tokens, found.num_truncated, found.raw_bytes], np.int64)
    return {name: _encoder_stats(total) for name, total in totals.items()}


def _encoder_stats(totals: npt.NDArray[np.int64]) -> EncoderStats:
    num_tokens, num_truncated, raw_bytes = totals.tolist()
    return EncoderStats(num_tokens=num_tokens, num_truncated=num_truncated, raw_bytes=raw_bytes)


def _tensor_columns(
    identity: EncoderIdentity,
    column: pa.StructArray,
    stored: npt.NDArray[np.int64],
    one: npt.NDArray[np.int64],
) -> list[TensorColumn]:
    columns = [TensorColumn("hidden", column.field("hidden"), identity.hidden_size, stored)]
    if identity.pooled_size is not None:
        columns.append(TensorColumn("pooled", column.field("pooled"), identity.pooled_size, one))
        columns.append(TensorColumn("eos", column.field("eos"), identity.hidden_size, one))
    return columns
