"""Golden tars whose members have awkward names, types and dialects."""

from __future__ import annotations

from tests.golden.hell_tar import HellTar
from tests.golden.tar_bytes import (
    BLOCK,
    END,
    GNU,
    V7,
    base256,
    gnu_long_name,
    header,
    member,
    octal,
    padded,
    pax,
    sample,
)

_LONG = "folder/" + "long" * 40
_UMLAUT = "größe/größe"

NAMES = (
    HellTar(
        "same_base_name",
        sample("x/0001", "in x") + sample("y/0001", "in y") + sample("0001", "in none") + END,
        {"txt": ["in x", "in y", "in none"]},
        ["x/0001", "y/0001", "0001"],
    ),
    HellTar(
        "dots",
        member("v1.0/0001.txt", "dot in the folder")
        + member("0002.seg.txt", "a field of its own")
        + member("0002.txt", "the caption")
        + member("./0003.TXT", "capitals")
        + member("././x/0004.txt", "two dots")
        + member("0005..txt", "two in a row")
        + END,
        {
            "txt": ["dot in the folder", "the caption", "capitals", "two dots", None],
            "seg.txt": [None, "a field of its own", None, None, None],
        },
        ["v1.0/0001", "0002", "0003", "x/0004", "0005"],
        faults={
            "txt": [("caption-missing", "0005")],
            "seg.txt": [("caption-missing", key) for key in ("v1.0/0001", "0003", "x/0004", "0005")],
        },
    ),
    HellTar(
        "unsafe_names",
        member("../up.txt", "up")
        + member("/absolute.txt", "absolute")
        + member("a//b.txt", "empty segment")
        + member("a/./b.txt", "dot segment")
        + member("a/../../b.txt", "up again")
        + member("a/..", "only dots")
        + member("new\nline.txt", "control character")
        + member("", "no name")
        + member("caf\xe9.txt".encode("latin-1"), "not UTF-8")
        + member("..good.txt", "hidden")
        + sample("good", "kept")
        + END,
        {"txt": ["kept"]},
        ["good"],
        refused=[
            *[("key-unsafe", None)] * 8,
            ("key-not-utf8", None),
            ("member-without-field", None),
        ],
    ),
    HellTar(
        "names_without_field",
        member("README", "no extension")
        + member("x/.txt", "hidden")
        + member("._0001.txt", "what macOS leaves")
        + member("0001.", "ends with the dot")
        + sample("0001", "kept")
        + END,
        {"txt": ["kept"]},
        ["0001"],
        refused=[("member-without-field", None)] * 4,
    ),
    HellTar(
        "links_and_folders",
        member("x/", typeflag=b"5")
        + member("x/a.jpg", "A")
        + member("x/a.txt", typeflag=b"2", link=b"../b.txt")
        + member("b.txt", typeflag=b"1", link=b"x/a.jpg")
        + member("c.txt", typeflag=b"3")
        + member("d.txt", typeflag=b"6")
        + member("e.txt", "of an unknown type", typeflag=b"Z")
        + sample("f", "kept")
        + END,
        {"txt": [None, "kept"]},
        ["x/a", "f"],
        refused=[("member-not-a-file", key) for key in ("x/a", "b", "c", "d", "e")],
        faults={"txt": [("caption-missing", "x/a")]},
    ),
    HellTar(
        "ustar_prefix",
        member("0001.txt", "joined", prefix=b"some/folders")
        + member("0002.txt", "GNU keeps a time there", magic=GNU, tail=b"1" * 24)
        + END,
        {"txt": ["joined", "GNU keeps a time there"]},
        ["some/folders/0001", "0002"],
    ),
    HellTar(
        "v7",
        member("x/", typeflag=b"\0", magic=V7)
        + member("x/a.txt", "of 1979", typeflag=b"\0", magic=V7)
        + member("größe.txt", "checksum over signed bytes", typeflag=b"\0", magic=V7, signed=True)
        + END,
        {"txt": ["of 1979", "checksum over signed bytes"]},
        ["x/a", "größe"],
    ),
    HellTar(
        "contiguous",
        member("a.txt", "a contiguous file is a file", typeflag=b"7") + END,
        {"txt": ["a contiguous file is a file"]},
        ["a"],
    ),
    HellTar(
        "base256_size",
        header(b"a.txt", 0, size_field=base256(7, 12)) + padded(b"base256") + sample("b", "after it") + END,
        {"txt": ["base256", "after it"]},
        ["a", "b"],
    ),
    HellTar(
        "gnu_long_names",
        gnu_long_name(b"target" * 30, b"K")
        + gnu_long_name(f"{_LONG}.txt".encode())
        + member(f"{_LONG}.txt", "long", magic=GNU)
        + member("short.txt", "short", magic=GNU)
        + END,
        {"txt": ["long", "short"]},
        [_LONG, "short"],
    ),
    HellTar(
        "pax_names",
        pax(path=f"{_LONG}.txt".encode(), mtime=b"1.5")
        + member(f"{_LONG}.txt", "long")
        + pax(path=f"{_UMLAUT}.txt".encode())
        + member("gr??e/gr??e.txt", "not ASCII")
        + pax(size=b"9")
        + header(b"sized.txt", 0)
        + padded(b"pax sized")
        + pax(mtime=b"0")
        + member("short.txt", "short")
        + END,
        {"txt": ["long", "not ASCII", "pax sized", "short"]},
        [_LONG, _UMLAUT, "sized", "short"],
    ),
    HellTar(
        "pax_global",
        pax(b"g", comment=b"written by git archive") + sample("a", "one") + sample("b", "two") + END,
        {"txt": ["one", "two"]},
        ["a", "b"],
    ),
    HellTar(
        "sparse",
        member("old.jpg", b"data", b"S", magic=GNU, tail=bytes(137) + b"\1")[:BLOCK]
        + bytes(BLOCK)[:504]
        + b"\1"
        + bytes(7)
        + bytes(BLOCK)
        + padded(b"data")
        + member("old.txt", "after a map of two more blocks")
        + pax(GNU__sparse__major=b"1", GNU__sparse__name=b"new.txt")
        + member("GNUSparseFile.0/new.txt", octal(0, 12))
        + END,
        {"txt": ["after a map of two more blocks", None]},
        ["old", "new"],
        faults={"txt": [("caption-sparse", "new")]},
    ),
)
