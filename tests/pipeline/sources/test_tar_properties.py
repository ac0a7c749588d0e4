"""Any tar that tarfile writes is read as tarfile reads it, and no damage crashes, hangs or loses what is whole."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.sources.block_reader import BlockReader, ReadPlan
from pipeline.sources.tar_stream import Damage, Member, walk_tar
from tests.golden.tar_bytes import END, sample
from tests.pipeline.sources.tars import captions, scan_bytes

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
# Small enough that the blocks of these small tars are read in every possible way.
PLANS = (
    ReadPlan(first_bytes=512, most_bytes=1024, max_gap_bytes=0, reads_ahead=False),
    ReadPlan(first_bytes=700, most_bytes=5000, max_gap_bytes=3000, reads_ahead=True),
    ReadPlan(first_bytes=1 << 20, most_bytes=1 << 20, max_gap_bytes=1 << 20, reads_ahead=True),
)

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300).filter(
    lambda name: not name.endswith("/")
)
ascii_names = st.from_regex(r"[a-z]{1,40}(/[a-z]{1,40}){0,1}\.[a-z]{1,4}", fullmatch=True)


def write_tar(members: list[tuple[str, bytes]], tar_format: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def walk_bytes(data: bytes, plan: ReadPlan) -> list[tuple[Member | Damage, bytes]]:
    """Everything that is found, with the bodies."""
    reader = BlockReader(lambda offset, size: data[offset : offset + size], len(data), plan)
    try:
        return [
            (found, reader.read(found.data_offset, found.size))
            if isinstance(found, Member) and not found.is_cut
            else (found, b"")
            for found in walk_tar(reader)
        ]
    finally:
        reader.close()


def read_with_tarfile(data: bytes) -> list[tuple[bytes, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        return [
            (info.name.encode("utf-8", "surrogateescape"), file.read() if (file := tar.extractfile(info)) else b"")
            for info in tar
        ]


@given(
    members=st.lists(st.tuples(names, st.binary(max_size=2000)), max_size=8),
    tar_format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    plan=st.sampled_from(PLANS),
)
def test_members_are_those_that_tarfile_reads(
    members: list[tuple[str, bytes]], tar_format: int, plan: ReadPlan
) -> None:
    data = write_tar(members, tar_format)
    found = [(member.name, body) for member, body in walk_bytes(data, plan) if isinstance(member, Member)]
    assert found == read_with_tarfile(data)
    assert found == [(name.encode(), body) for name, body in members]
    assert not any(isinstance(entry, Damage) for entry, _ in walk_bytes(data, plan))


@given(members=st.lists(st.tuples(ascii_names, st.binary(max_size=2000)), max_size=8), plan=st.sampled_from(PLANS))
def test_ustar_members_are_those_that_tarfile_reads(members: list[tuple[str, bytes]], plan: ReadPlan) -> None:
    data = write_tar(members, tarfile.USTAR_FORMAT)
    assert [(entry.name, body) for entry, body in walk_bytes(data, plan) if isinstance(entry, Member)] == [
        (name.encode(), body) for name, body in members
    ]


@pytest.mark.parametrize("tar_format", FORMATS.values(), ids=FORMATS)
def test_every_cut_keeps_all_members_before_it(tar_format: int) -> None:
    members = [
        (f"{'folder/' * 15 if number % 2 else ''}{number}.txt", bytes([65 + number]) * 700) for number in range(4)
    ]
    if tar_format == tarfile.USTAR_FORMAT:
        members = [(name[-80:].lstrip("/"), body) for name, body in members]
    data = write_tar(members, tar_format)
    whole = [entry for entry, _ in walk_bytes(data, PLANS[0])]
    ends = [member.data_offset + member.size for member in whole if isinstance(member, Member)]
    for length in range(0, len(data), 37):
        found = walk_bytes(data[:length], PLANS[0])
        kept = [(entry.name, body) for entry, body in found if isinstance(entry, Member) and not entry.is_cut]
        assert kept == [(name.encode(), body) for name, body in members][: len(kept)]
        assert len(kept) == sum(end <= length for end in ends)
        damaged = any(isinstance(entry, Damage) for entry, _ in found)
        # The padding behind the two blocks of zeros may be missing.
        assert damaged == (length < -ends[-1] % 512 + ends[-1] + 1024)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(seed=st.integers(0, 2**32), num_flips=st.integers(1, 12), cut=st.integers(0, 6000))
def test_random_damage_costs_only_what_it_hits(tmp_path: Path, seed: int, num_flips: int, cut: int) -> None:
    clean = b"".join(sample(f"{number:02d}", f"caption {number}") for number in range(16)) + END
    data = bytearray(clean[: len(clean) - cut])
    draw = random.Random(seed)
    hit = sorted(draw.randrange(len(data)) for _ in range(num_flips))
    for position in hit:
        data[position] ^= 1 << draw.randrange(8)
    scan = scan_bytes(tmp_path, bytes(data))
    found = captions(scan)
    # A sample is four blocks: two headers, two bodies.
    before = hit[0] // 2048
    for number in range(min(before, len(data) // 2048)):
        assert found[f"{number:02d}"] == f"caption {number}"
    touched = {position // 2048 for position in hit}
    for number in set(range(len(data) // 2048)) - touched - {sample_ + 1 for sample_ in touched}:
        assert found[f"{number:02d}"] == f"caption {number}"


@given(data=st.binary(max_size=4000), plan=st.sampled_from(PLANS))
def test_bytes_that_are_no_tar_end_in_damage(data: bytes, plan: ReadPlan) -> None:
    found = [entry for entry, _ in walk_bytes(data, plan)]
    assert all(isinstance(entry, Damage) for entry in found)
    assert found or not any(data)


@pytest.mark.parametrize("plan", PLANS, ids=["jumping", "uneven", "whole"])
def test_reader_answers_any_forward_range(plan: ReadPlan) -> None:
    data = random.Random(1).randbytes(40_000)
    draw = random.Random(2)
    for _ in range(50):
        reader = BlockReader(lambda offset, size: data[offset : offset + size], len(data), plan)
        position = 0
        while position < len(data):
            size = min(draw.choice([0, 1, 512, 3000, 9000]), len(data) - position)
            assert reader.read(position, size) == data[position : position + size]
            position += draw.choice([0, size + 1, 512, 20_000])
        reader.close()


@pytest.mark.parametrize(
    ("offset", "fetched"),
    [(52_048, [(0, 512), (52_048, 512)]), (2_560, [(0, 512), (512, 1024), (1536, 1024), (2560, 1024)])],
    ids=["jumped", "read_through"],
)
def test_only_gaps_that_are_large_are_jumped_over(offset: int, fetched: list[tuple[int, int]]) -> None:
    requests: list[tuple[int, int]] = []
    data = bytes(60_000)

    def fetch(start: int, size: int) -> bytes:
        requests.append((start, size))
        return data[start : start + size]

    reader = BlockReader(fetch, len(data), ReadPlan(512, 1024, 2048, reads_ahead=False))
    reader.read(0, 512)
    reader.read(offset, 512)
    assert requests == fetched
