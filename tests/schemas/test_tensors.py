"""The checks of stored values, on every storage dtype: what is found, in which row, and what is left alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from schemas.planes import STORAGE_DTYPES, planes_column
from schemas.validator.tensors import TensorColumn, tensor_problems

WIDTH = 6
DTYPES = pytest.mark.parametrize("dtype", [dtype for dtype in STORAGE_DTYPES if dtype != "uint8"])


def column(dtype: str, rows: Sequence[np.ndarray], vectors: Sequence[int] | None = None) -> TensorColumn:
    sizes = np.array([row.size for row in rows], np.int64)
    flat = np.concatenate([row.reshape(-1) for row in rows]).astype(STORAGE_DTYPES[dtype])
    expected = np.array([len(row) for row in rows] if vectors is None else vectors, np.int64)
    return TensorColumn("hidden", planes_column(flat, sizes, dtype), WIDTH, expected)


def found(made: TensorColumn, dtype: str) -> list[tuple[str, int]]:
    return [(problem.kind, problem.row) for problem in tensor_problems(made, dtype)]


def honest(tokens: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tokens, WIDTH))


@DTYPES
def test_honest_tensors(dtype: str) -> None:
    empty = np.zeros((0, WIDTH))
    extreme = honest()
    extreme[0, :3] = float(np.finfo(np.float16).max), 0.0, -0.0
    assert found(column(dtype, [honest(3), empty, honest(1, 1), extreme]), dtype) == []


@DTYPES
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(dtype: str, value: float) -> None:
    rows = [honest(3, seed) for seed in range(4)]
    rows[2][1, 4] = value
    problems = list(tensor_problems(column(dtype, rows), dtype))
    assert [(p.kind, p.row) for p in problems] == [("not-finite", 2)]
    assert "1 values are NaN or Infinity, the first in vector 1 at 4" in problems[0].actual


@DTYPES
@pytest.mark.parametrize("vector", [np.zeros(WIDTH), np.full(WIDTH, 0.5), np.array([0.0, -0.0] * (WIDTH // 2))])
def test_constant_vectors(dtype: str, vector: np.ndarray) -> None:
    rows = [honest(3, seed) for seed in range(3)]
    rows[1][2] = vector
    problems = list(tensor_problems(column(dtype, rows), dtype))
    assert [(p.kind, p.row) for p in problems] == [("constant", 1)]
    assert "1 of 3 vectors" in problems[0].actual
    assert found(column(dtype, [np.tile(vector, (3, 1))]), dtype) == [("constant", 0)]


@DTYPES
def test_all_tokens_alike(dtype: str) -> None:
    assert found(column(dtype, [np.tile(honest(1), (3, 1)), honest(1)]), dtype) == [("constant", 0)]


@DTYPES
def test_sizes(dtype: str) -> None:
    rows = [honest(3), honest(2), np.zeros((0, WIDTH)), honest(1)]
    assert found(column(dtype, rows, [3, 3, 1, 0]), dtype) == [("size", 1), ("size", 2), ("size", 3)]


def test_planes_of_different_lengths() -> None:
    made = column("bfloat16", [honest(2), honest(2, 1)])
    planes = [made.planes.field(0), pa.array([b"x" * 12, b"x" * 11], pa.large_binary())]
    planes_type = made.planes.type
    lopsided = pa.StructArray.from_arrays(planes, fields=list(planes_type))
    problems = list(tensor_problems(TensorColumn("hidden", lopsided, WIDTH, made.vectors), "bfloat16"))
    assert [(p.kind, p.row, p.expected) for p in problems] == [("size", 1, "hidden.p1: 2 x 6 elements")]


def test_a_slice_of_a_chunk() -> None:
    """Offsets into the buffers count."""
    rows = [honest(2, seed) for seed in range(4)]
    rows[2][0, 0] = np.nan
    made = column("float32", rows)
    sliced = TensorColumn("hidden", made.planes.slice(1, 3), WIDTH, made.vectors[1:])
    assert found(sliced, "float32") == [("not-finite", 1)]
