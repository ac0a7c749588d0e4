"""Windows become chunks: every tensor in its row, in memory that ends with the chunk."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.counters import Counters
from pipeline.encoded import CaptionTensors, EncodedBatch, EncodedWindow
from pipeline.packing import pack_chunks
from schemas.arrow_schema import caption_schema
from schemas.identity import ENCODER_NAMES, CaptionIdentity, EncoderIdentity
from schemas.manifest import Manifest
from schemas.planes import STORAGE_DTYPES, row_planes
from tests.datasets import make_manifest


def encoded(identity: EncoderIdentity, num_rows: int, seed: int) -> list[CaptionTensors]:
    """A batch of captions of 0 to `max_tokens` tokens, as views of whole arrays in another order than the rows."""
    random = np.random.default_rng(seed)
    num_planes = STORAGE_DTYPES[identity.storage_dtype].itemsize
    tokens = random.integers(0, identity.max_tokens + 1, num_rows)

    def planes(rows: int, width: int) -> list[np.ndarray]:
        return [random.integers(0, 256, (rows, width), np.uint8) for _ in range(num_planes)]

    pooled = None if identity.pooled_size is None else planes(num_rows, identity.pooled_size)
    eos = None if identity.pooled_size is None else planes(num_rows, identity.hidden_size)
    starts = np.concatenate([[0], np.cumsum(tokens)])
    hidden = planes(int(starts[-1]), identity.hidden_size)
    batch = EncodedBatch(hidden, starts, pooled, eos, np.ones(num_rows, bool))
    return [batch.caption(int(row), int(tokens[row]), truncated=bool(row % 2)) for row in random.permutation(num_rows)]


def mixed_manifest(*dtypes: str) -> Manifest:
    """Each encoder with a storage dtype of its own."""
    manifest = make_manifest()
    encoders = {
        name: manifest.captions.encoder(name).model_copy(update={"storage_dtype": dtype})
        for name, dtype in zip(ENCODER_NAMES, dtypes, strict=True)
    }
    return manifest.model_copy(update={"captions": CaptionIdentity(**encoders)})


@pytest.mark.parametrize(
    "dtypes", [("bfloat16",) * 3, ("float32", "bfloat16", "float16"), ("float16", "float32", "uint8")]
)
def test_every_row_has_its_tensors(dtypes: tuple[str, ...]) -> None:
    manifest = mixed_manifest(*dtypes)
    num_rows, missing = 10, {3, 8, 9}
    tensors = {name: encoded(manifest.captions.encoder(name), num_rows, 1) for name in ENCODER_NAMES}
    rows = [None if row in missing else {name: tensors[name][row] for name in ENCODER_NAMES} for row in range(num_rows)]
    keys, captions = [f"k{row}" for row in range(num_rows)], [f"caption {row}" for row in range(num_rows)]
    window = EncodedWindow(keys, captions, rows, [], Counters())
    chunks = list(pack_chunks([window], caption_schema(manifest, "txt", "s"), manifest))
    assert [chunk.num_bytes for chunk in chunks] == [
        sum(one.num_bytes for row in rows[start : start + 4] if row is not None for one in row.values())
        for start in (0, 4, 8)
    ]
    batches = [chunk.make() for chunk in chunks]
    assert [batch.num_rows for batch in batches] == [4, 4, 2]
    for number in range(num_rows):
        batch, place = batches[number // 4], number % 4
        assert batch.column("key")[place].as_py() == keys[number]
        assert batch.column("caption")[place].as_py() == captions[number]
        for name in ENCODER_NAMES:
            column, expected = batch.column(name), rows[number]
            assert column[place].is_valid == (expected is not None)
            if expected is None:
                continue
            assert column.field("num_tokens")[place].as_py() == expected[name].num_tokens
            assert column.field("truncated")[place].as_py() == expected[name].truncated
            for field in ("hidden", "pooled", "eos"):
                planes = getattr(expected[name], field)
                if planes is not None:
                    found = row_planes(column.field(field), place)
                    assert [plane.tobytes() for plane in found] == [plane.tobytes() for plane in planes]
