"""Targets that are tars: those of the input, by the pipeline's reader and by the validator's."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from random import Random

from pipeline.sources import list_inputs, scan_tar
from schemas.storage import Store
from schemas.validator.source import UNREADABLE, tar_keys
from tests.fuzz.mutations import EDGES, HOSTILE_NAMES, mutate_bytes
from tests.fuzz.scratch import scratch_folder
from tests.fuzz.target import Finding, Target
from tests.golden.make_tars import all_tars
from tests.golden.tar_bytes import BLOCK, base256, octal

_TYPES = (b"0", b"\0", b"1", b"5", b"7", b"x", b"g", b"L", b"K", b"S", b"X", b"N", b"V")


def mutate_tar(random: Random, data: bytes, content: Callable[[Random, bytes], bytes] = mutate_bytes) -> bytes:
    """A tar with some of its members changed, lost, repeated or in another order; headers get right checksums."""
    pieces = _pieces(data)
    for _ in range(random.randint(1, 3)):
        if not pieces:
            break
        at = random.randrange(len(pieces))
        choice = random.randrange(7)
        if choice == 0:
            del pieces[at]
        elif choice == 1:
            pieces.insert(random.randrange(len(pieces)), pieces[at])
        elif choice <= 3 and _is_header(pieces[at]):
            pieces[at] = _mutate_header(random, pieces[at])
        elif choice == 4:
            pieces[at] = mutate_bytes(random, pieces[at])
        elif not _is_header(pieces[at]):
            changed = content(random, pieces[at])
            pieces[at] = changed + bytes(-len(changed) % BLOCK) * random.randint(0, 1)
        else:
            pieces[at : at + 1] = [_mutate_header(random, pieces[at]), pieces[at]]
    found = b"".join(pieces)
    return found[: random.randrange(len(found) + 1)] if random.random() < 0.05 else found


def _pieces(data: bytes) -> list[bytes]:
    """Headers and bodies, as far as sizes lead."""
    found, position = [], 0
    while position < len(data):
        block = data[position : position + BLOCK]
        found.append(block)
        position += BLOCK
        digits = block[124:135].strip(b" \0")
        size = int(digits, 8) if _is_header(block) and digits.isdigit() and not set(digits) & set(b"89") else 0
        if 0 < size <= len(data) - position:
            size += -size % BLOCK
            found.append(data[position : position + size])
            position += size
    return found


def _is_header(block: bytes) -> bool:
    return len(block) == BLOCK and (block[257:262] == b"ustar" or block[148:154].strip(b" \0").isdigit())


def _mutate_header(random: Random, block: bytes) -> bytes:
    found = bytearray(block)
    choice = random.randrange(6)
    if choice == 0:
        found[156:157] = random.choice(_TYPES)
    elif choice == 1:
        found[124:136] = _size_field(random)
    elif choice == 2:
        found[0:100] = random.choice(HOSTILE_NAMES).encode(errors="replace")[:100].ljust(100, b"\0")
    elif choice == 3:
        found[257:265] = random.choice((b"ustar\x0000", b"ustar  \0", bytes(8)))
    elif choice == 4:
        found[345:500] = random.randbytes(155)
    else:
        at = random.randrange(BLOCK)
        found[at] = random.randrange(256)
    found[148:156] = b" " * 8
    found[148:156] = b"%06o\0 " % sum(found)
    return bytes(found)


def _size_field(random: Random) -> bytes:
    value = random.choice((*EDGES, 511, 512, 513, 2000, 2**33))
    if value < 0:
        return (value % 2**96).to_bytes(12, "big")
    if value >= 8**11 or random.random() < 0.3:
        return base256(value, 12)
    return random.choice((octal(value, 12), b"%11o " % value, b"-%010o\0" % value))


def _make(random: Random) -> bytes:
    tar = random.choice(all_tars())
    return mutate_tar(random, tar.data[:200_000])


def _read_input(data: bytes) -> str:
    path = scratch_folder("input") / "x.tar"
    path.write_bytes(data)
    inputs = list_inputs(str(path))
    for images in (False, True):
        columns = [] if images else ["txt", "json.caption"]
        scan = scan_tar(inputs.store, inputs.tars[0], columns, images=images)
        for column in columns:
            texts = scan.captions(column, 0, len(scan.keys))
            rejects = [reject for reject in scan.rejects_of(column) if reject.code not in ("",)]
            rows = sum(reject.has_row for reject in rejects)
            if len(texts) - texts.count(None) + rows != len(scan.keys):
                raise Finding(f"{len(scan.keys)} rows, {len(texts)} texts, {rows} rejects with rows")
        if images:
            scan.images(0, len(scan.keys))
    return "damaged" if scan.damage else "whole"


def _read_source(data: bytes) -> str:
    folder = scratch_folder("source")
    (folder / "x.tar").write_bytes(data)
    try:
        tar_keys(Store(str(folder)), "x.tar", len(data))
    except UNREADABLE as error:
        return type(error).__name__ if isinstance(error, tarfile.TarError) else "refused"
    return "read"


TARS = (Target("input-tar", _make, _read_input, 150), Target("source-tar", _make, _read_source, 150))
