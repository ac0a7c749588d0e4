"""Golden tars that are damaged: what lies before and after the damage is read, and the damage is named."""

from __future__ import annotations

from tests.golden.hell_tar import HellTar
from tests.golden.tar_bytes import BLOCK, END, corrupt, gnu_long_name, header, member, padded, pax, sample

_A, _B, _C = sample("a", "one"), sample("b", "two"), sample("c", "three")
_GARBAGE = b"no tar" * 300
_LONG = "folder/" + "long" * 40 + ".txt"
_TWO_GB = 2 * 1024**3

DAMAGED = (
    HellTar("zero_bytes", b"", {"txt": []}, [], damage=[("tar-zero-bytes", 0, 0)]),
    HellTar(
        "cut_in_body",
        _A + header(b"b.jpg", 4) + padded(b"B") + header(b"b.txt", 2000) + b"x" * 1000,
        {"txt": ["one", None]},
        ["a", "b"],
        faults={"txt": [("caption-cut-off", "b")]},
        damage=[("tar-truncated", 3072, 4584)],
    ),
    HellTar(
        "cut_in_image",
        _A + header(b"b.jpg", 4000) + b"B" * 100,
        {"txt": ["one", None]},
        ["a", "b"],
        faults={"txt": [("caption-missing", "b")]},
        damage=[("tar-truncated", 2048, 2660)],
    ),
    HellTar(
        "cut_in_header",
        _A + _B[:200],
        {"txt": ["one"]},
        ["a"],
        damage=[("tar-truncated", 2048, 2248)],
    ),
    HellTar("cut_between_members", _A + _B, {"txt": ["one", "two"]}, ["a", "b"], damage=[("tar-no-end", 4096, 4096)]),
    HellTar(
        "cut_in_padding",
        _A + header(b"b.txt", 3) + b"two",
        {"txt": ["one", "two"]},
        ["a", "b"],
        damage=[("tar-no-end", 2563, 2563)],
    ),
    HellTar("cut_in_end", _A + bytes(BLOCK), {"txt": ["one"]}, ["a"], damage=[("tar-no-end", 2560, 2560)]),
    HellTar(
        "cut_after_concatenation",
        _A + END + _B,
        {"txt": ["one", "two"]},
        ["a", "b"],
        damage=[("tar-no-end", 5120, 5120)],
    ),
    HellTar(
        "declared_2_gb",
        _A
        + header(b"b.txt", _TWO_GB)
        + padded(b"its size is a lie")
        + _C
        + header(b"d.jpg", _TWO_GB)
        + padded(b"so is this")
        + member("d.txt", "four")
        + END,
        {"txt": ["one", None, "three", "four"]},
        ["a", "b", "c", "d"],
        faults={"txt": [("caption-cut-off", "b")]},
        damage=[("tar-corrupt", 2048, 3072), ("tar-corrupt", 5120, 6144)],
    ),
    HellTar(
        "copies_of_cut_members",
        header(b"a.txt", _TWO_GB) + padded(b"cut") + _A + header(b"a.txt", _TWO_GB) + padded(b"cut again") + _B + END,
        {"txt": ["one", "two"]},
        ["a", "b"],
        refused=[("duplicate-member", "a")],
        damage=[("tar-corrupt", 0, 1024), ("tar-corrupt", 3072, 4096)],
    ),
    HellTar(
        "bad_checksum",
        _A + corrupt(_B[:BLOCK]) + _B[BLOCK:] + _C + END,
        {"txt": ["one", "two", "three"]},
        ["a", "b", "c"],
        damage=[("tar-corrupt", 2048, 3072)],
    ),
    HellTar(
        "garbage_in_the_middle",
        _A + padded(_GARBAGE) + _B + END,
        {"txt": ["one", "two"]},
        ["a", "b"],
        damage=[("tar-corrupt", 2048, 4096)],
    ),
    HellTar(
        "garbage_at_the_end",
        _A + END + padded(_GARBAGE),
        {"txt": ["one"]},
        ["a"],
        damage=[("tar-corrupt", 3072, 5120)],
    ),
    HellTar(
        "garbage_before_the_end",
        _A + padded(_GARBAGE) + END,
        {"txt": ["one"]},
        ["a"],
        damage=[("tar-corrupt", 2048, 4096)],
    ),
    HellTar(
        "header_zeroed",
        _A + bytes(BLOCK) + _B[BLOCK:] + _C + END,
        {"txt": ["one", "two", "three"]},
        ["a", "b", "c"],
        damage=[("tar-corrupt", 2048, 2560), ("tar-corrupt", 2560, 3072)],
    ),
    HellTar(
        "negative_size",
        _A + header(b"b.txt", 0, size_field=b"\xff" * 12) + header(b"c.txt", 0, size_field=b"-0000000010\0") + _C + END,
        {"txt": ["one", "three"]},
        ["a", "c"],
        damage=[("tar-corrupt", 2048, 3072)],
    ),
    HellTar(
        "extended_headers_damaged",
        _A
        # The structure holds, the content does not: the next name is not to be trusted.
        + member("PaxHeaders/0", b"999 path=lost.txt\n", b"x")
        + member("lost.txt", "name unknown")
        # The long name's header itself is gone: what follows has 100 bytes of the name.
        + corrupt(gnu_long_name(_LONG.encode())[:BLOCK])
        + gnu_long_name(_LONG.encode())[BLOCK:]
        + member(_LONG, "name cut")
        + _B
        # One that belongs to nothing.
        + pax(path=b"nobody.txt")
        + END,
        {"txt": ["one", "two"]},
        ["a", "b"],
        refused=[("member-name-lost", None)] * 2,
        damage=[("tar-corrupt", 2048, 3072), ("tar-corrupt", 4096, 5120), ("tar-corrupt", 8192, 9216)],
    ),
    HellTar(
        "gzip",
        b"\x1f\x8b\x08\0" + bytes(range(256)) * 8,
        {"txt": []},
        [],
        damage=[("tar-compressed", 0, 2052)],
    ),
    HellTar(
        "zstd",
        b"\x28\xb5\x2f\xfd" + b"short",
        {"txt": []},
        [],
        damage=[("tar-compressed", 0, 9)],
    ),
    HellTar(
        "web_page",
        b"<html>" + b"404 " * 400,
        {"txt": []},
        [],
        damage=[("tar-corrupt", 0, 1606)],
    ),
)
