"""Rows of image latents that cannot be real, under checksums that are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.latent_manifest import LATENTS_GROUP
from tests.golden.damage_case import Cases
from tests.golden.damage_dataset import Batches, Victim
from tests.golden.damage_rows import planes, replaced

case = Cases()
IMAGE = "image"
LATENTS = "latents"


def _rewrite(victim: Victim, column: str, change: Callable[[Any], Any], row: int = 0, **changes: Any) -> None:
    """Changes one cell of the first chunk of shard a/0000: rows 0 (an image) and 1 (null)."""

    def changed(batches: Batches) -> Batches:
        cells: list[Any] = batches[0].column(column).to_pylist()
        cells[row] = change(cells[row])
        cell_type = batches[0].schema.field(column).type
        return [replaced(batches[0], column, pa.array(cells, cell_type)), *batches[1:]]

    victim.rewrite(changed, group=LATENTS_GROUP, **changes)


def _num_elements(cell: dict[str, bytes]) -> int:
    return len(cell["p0"])


def _random(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(count)


@case("values", "tensor-not-finite")
def nan_in_latents(victim: Victim) -> None:
    _rewrite(victim, LATENTS, lambda cell: planes(np.append(_random(_num_elements(cell) - 1), np.nan)))


@case("values", "tensor-constant")
def all_zero_latents(victim: Victim) -> None:
    _rewrite(victim, LATENTS, lambda cell: planes(np.zeros(_num_elements(cell))))


@case("values", "tensor-size")
def latents_of_fewer_channels(victim: Victim) -> None:
    _rewrite(victim, LATENTS, lambda cell: planes(_random(_num_elements(cell) * 3 // 4)))


@case("values", "tensor-size")
def latents_planes_of_two_lengths(victim: Victim) -> None:
    _rewrite(victim, LATENTS, lambda cell: cell | {"p1": cell["p1"][:-1]})


@case("values", "tensor-size", "stats-mismatch")
def size_of_another_bucket(victim: Victim) -> None:
    swapped = {(16, 16): (8, 24), (8, 24): (16, 16)}

    def change(cell: dict[str, int]) -> dict[str, int]:
        height, width = swapped[cell["height"], cell["width"]]
        return cell | {"height": height, "width": width}

    _rewrite(victim, IMAGE, change)


@case("values", "image-size", "tensor-size", "stats-mismatch")
def size_that_is_no_bucket(victim: Victim) -> None:
    _rewrite(victim, IMAGE, lambda cell: cell | {"height": 32, "width": 32})


@case("values", "image-size")
def crop_before_the_edge(victim: Victim) -> None:
    _rewrite(victim, IMAGE, lambda cell: cell | {"crop_left": -1})


@case("values", "image-size")
def image_without_height(victim: Victim) -> None:
    _rewrite(victim, IMAGE, lambda cell: cell | {"original_height": 0})


@case("values", "value-null")
def image_with_a_null_number(victim: Victim) -> None:
    _rewrite(victim, IMAGE, lambda cell: cell | {"crop_top": None})


@case("values", "row-partly-null", "stats-mismatch")
def image_without_latents(victim: Victim) -> None:
    _rewrite(victim, LATENTS, lambda _: None)


@case("values", "row-partly-null", "tensor-size", "stats-mismatch")
def latents_without_image(victim: Victim) -> None:
    _rewrite(victim, IMAGE, lambda _: None)


@case("values", "encoded-count", "rejects-rows", "stats-mismatch")
def null_image_without_reject(victim: Victim) -> None:
    def change(batches: Batches) -> Batches:
        first = batches[0]
        for name in (IMAGE, LATENTS):
            first = replaced(first, name, pa.nulls(first.num_rows, first.schema.field(name).type))
        return [first, *batches[1:]]

    victim.rewrite(change, group=LATENTS_GROUP)


@case("values", "tensor-size")
def null_image_with_planes(victim: Victim) -> None:
    """The bytes of a row that its validity hides."""

    def change(batches: Batches) -> Batches:
        field = batches[0].schema.field(LATENTS)
        shown = batches[0].column(LATENTS)[0].as_py()
        full = pa.array([shown, shown], field.type)
        children = [full.field(index) for index in range(field.type.num_fields)]
        hidden = pa.StructArray.from_arrays(children, fields=list(field.type), mask=pa.array([False, True]))
        return [replaced(batches[0], LATENTS, hidden), *batches[1:]]

    victim.rewrite(change, group=LATENTS_GROUP)


@case("values", "stats-mismatch")
def wrong_count_of_a_size(victim: Victim) -> None:
    stats = victim.record(LATENTS_GROUP).model_dump(mode="json")["stats"]
    size = next(iter(stats[LATENTS]["num_images"]))
    stats[LATENTS]["num_images"][size] += 1
    victim.reseal(LATENTS_GROUP, stats=stats)


@case("values", "stats-mismatch")
def statistics_of_the_captions(victim: Victim) -> None:
    stats = victim.record("txt").model_dump(mode="json")["stats"]
    victim.reseal(LATENTS_GROUP, stats=stats)


@case("values", "chunk-undecodable")
def latents_chunk_that_is_none(victim: Victim) -> None:
    place = {"group": LATENTS_GROUP, "shard": "a/0000"}
    data = bytearray(victim.part(**place).read_bytes())
    chunk = victim.record(**place).parts[0].chunks[1]
    data[chunk.offset : chunk.offset + chunk.num_bytes] = b"\xa5" * chunk.num_bytes
    victim.reseal_part(bytes(data), **place)


@case("values", "member-mismatch", containers=("webdataset",))
def json_member_of_another_crop(victim: Victim) -> None:
    place = {"group": LATENTS_GROUP, "shard": "a/0000"}
    data = victim.part(**place).read_bytes()
    assert b'"crop_top": 0' in data
    victim.reseal_part(data.replace(b'"crop_top": 0', b'"crop_top": 9', 1), **place)
