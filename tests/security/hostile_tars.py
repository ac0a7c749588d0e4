"""Tars and images that mean harm to whoever encodes them. The sound sample in each must come through."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.golden.tar_bytes import END, GNU, base256, header, member, pax, pax_record
from tests.security.cases import Collected

case = Collected()
TERABYTE = 2**40
PICKLE = b"\x80\x04cos\nsystem\n(V touch /tmp/encode-once-was-run\ntR."
"""Runs a command when it is read."""


def _write(folder: Path, *pieces: bytes) -> None:
    (folder / "x.tar").write_bytes(member("good.txt", "a caption") + b"".join(pieces) + END)


@case(pipeline="caption-cut-off")
def member_that_declares_a_terabyte(folder: Path) -> None:
    _write(folder, header(b"a.txt", 0, size_field=base256(TERABYTE, 12)), b"text")


@case(pipeline="tar-truncated")
def long_name_that_declares_a_terabyte(folder: Path) -> None:
    _write(folder, header(b"././@LongLink", 0, b"L", magic=GNU, size_field=base256(TERABYTE, 12)))


@case(pipeline="tar-truncated")
def pax_header_that_declares_a_terabyte(folder: Path) -> None:
    _write(folder, header(b"PaxHeaders/0", 0, b"x", size_field=base256(TERABYTE, 12)))


@case(pipeline="caption-sparse")
def sparse_file_of_a_terabyte(folder: Path) -> None:
    real = b"%d" % TERABYTE
    _write(
        folder, pax(GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__realsize=real), member("a.txt", "x")
    )


@case(pipeline="tar-corrupt")
def size_below_zero(folder: Path) -> None:
    _write(folder, header(b"a.txt", 0, size_field=b"\xff" * 11 + b"\0"))


@case(pipeline="tar-corrupt")
def pax_header_of_digits(folder: Path) -> None:
    _write(folder, member("PaxHeaders/0", b"1" * 900_000, b"x"))


@case(pipeline="2 captions")
def twenty_thousand_pax_headers_in_a_row(folder: Path) -> None:
    _write(folder, member("PaxHeaders/0", pax_record(b"comment", b"x"), b"x") * 20_000, member("a.txt", "text"))


@case(pipeline="key-unsafe")
def names_that_lead_out(folder: Path) -> None:
    names = ("../../etc/cron.d/x.txt", "/etc/passwd.txt", "a/../../b.txt", "a\nb.txt", "\x1b[2Jc.txt")
    _write(folder, *(member(name, "text") for name in names))


@case(pipeline="member-not-a-file")
def links_and_devices(folder: Path) -> None:
    _write(folder, *(header(b"%d.txt" % n, 0, b"%d" % n, link=b"/etc/passwd") for n in (1, 2, 3, 4, 6)))


@case(pipeline="caption-not-utf8")
def pickles_among_the_members(folder: Path) -> None:
    """Readers that choose a decoder by a member's extension run them."""
    _write(folder, *(member(f"a.{kind}", PICKLE) for kind in ("pkl", "pyd", "pth", "npy", "txt", "json", "jpg")))


@case(pipeline="json-invalid")
def json_nested_a_million_deep(folder: Path) -> None:
    _write(folder, member("a.json", b'{"caption":' + b"[" * 2_000_000))


@case(pipeline="caption-not-text")
def json_number_of_four_million_digits(folder: Path) -> None:
    _write(folder, member("a.json", b'{"caption":' + b"9" * 4_000_000 + b"}"))


@case(pipeline="caption-missing")
def json_of_a_million_empty_lists(folder: Path) -> None:
    _write(folder, member("a.json", b'{"x":[' + b"[]," * 1_390_000 + b"[]]}"))


@case(pipeline="caption-too-large")
def caption_of_one_word_of_four_megabytes(folder: Path) -> None:
    _write(folder, member("a.txt", b"a" * 4_000_000))


def _png(width: int, height: int, data: bytes, *before: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@case(pipeline="image-too-large")
def picture_of_2_500_megapixels(folder: Path) -> None:
    _write(folder, member("a.png", _png(50_000, 50_000, zlib.compress(bytes(10**6)))))


@case(pipeline="image-undecodable")
def picture_with_a_text_that_inflates_to_a_gigabyte(folder: Path) -> None:
    squeezer = zlib.compressobj(9)
    bomb = b"".join(squeezer.compress(bytes(2**20)) for _ in range(1024)) + squeezer.flush()
    content = b"Comment\0\0" + bomb
    text = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    _write(folder, member("a.png", _png(64, 64, zlib.compress(bytes(64 * 193)), text)))


@case(pipeline="image-undecodable")
def jpeg_of_a_hundred_thousand_scans(folder: Path) -> None:
    """Every scan is a pass over 16 megapixels: half a day, if all were made."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((4000, 4000, 3), np.uint8)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    _write(folder, member("a.jpg", data[:last] + data[last:-2] * 100_000 + data[-2:]))
