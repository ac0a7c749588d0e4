"""Golden tars that are whole; what is odd is how samples, captions and JSON lie in them."""

from __future__ import annotations

import json

from tests.golden.hell_tar import HellTar
from tests.golden.tar_bytes import END, member, sample

_DEEP = '{"caption": "a", "x": ' + "[" * 100 + "]" * 100 + "}"
_BOM = b"\xef\xbb\xbf"


def _json(**fields: object) -> str:
    return json.dumps(fields)


SAMPLES = (
    HellTar(
        "plain",
        sample("0001", "a dog") + sample("0002", "ein Hund, 狗 🐕") + END,
        {"txt": ["a dog", "ein Hund, 狗 🐕"]},
        ["0001", "0002"],
    ),
    HellTar("empty_archive", bytes(10240), {"txt": []}, []),
    HellTar(
        "interleaved",
        member("a.jpg", "A")
        + member("b.txt", "second")
        + member("c.jpg", "C")
        + member("a.txt", "first")
        + member("b.jpg", "B")
        + member("c.txt", "third")
        + END,
        {"txt": ["first", "second", "third"]},
        ["a", "b", "c"],
    ),
    HellTar(
        "duplicates",
        member("a.txt", "one")
        + member("a.txt", "adjacent")
        + member("a.jpg", "A")
        + sample("b", "two")
        + member("./a.txt", "far, and spelled with a dot")
        + member("a.TXT", "in capitals")
        + member("a.jpg", "A again")
        + END,
        {"txt": ["one", "two"]},
        ["a", "b"],
        refused=[("duplicate-member", "a")] * 4,
    ),
    HellTar(
        "captions_missing",
        member("a.jpg", "A")
        + sample("b", "two")
        + member("c.jpg", "C")
        + member("c.json", _json(caption="only in the JSON"))
        + member("d.txt", "no image")
        + END,
        {"txt": [None, "two", None, "no image"], "json.caption": [None, None, "only in the JSON", None]},
        ["a", "b", "c", "d"],
        faults={
            "txt": [("caption-missing", "a"), ("caption-missing", "c")],
            "json.caption": [("caption-missing", "a"), ("caption-missing", "b"), ("caption-missing", "d")],
        },
    ),
    HellTar(
        "several_captions",
        sample("a", "from txt")
        + member("a.caption", "from caption")
        + member(
            "a.json", _json(cogvlm="from cogvlm", nested={"llava": "from llava"}, **{"x.y": "exact", "x": {"y": "no"}})
        )
        + member("b.json", _json(cogvlm="b from cogvlm", nested={}, x={"y": "deep"}))
        + member("b.caption", "b from caption")
        + END,
        {
            "txt": ["from txt", None],
            "caption": ["from caption", "b from caption"],
            "json.cogvlm": ["from cogvlm", "b from cogvlm"],
            "json.nested.llava": ["from llava", None],
            "json.x.y": ["exact", "deep"],
        },
        ["a", "b"],
        faults={"txt": [("caption-missing", "b")], "json.nested.llava": [("caption-missing", "b")]},
    ),
    HellTar(
        "odd_texts",
        member("empty.txt", "")
        + member("mark.txt", _BOM + b"after a byte order mark")
        + member("only_mark.txt", _BOM)
        + member("spaces.txt", "  kept as it is \r\n")
        + member("zero.txt", "nul \0 inside")
        + member("latin1.txt", "caf\xe9".encode("latin-1"))
        + member("utf16.txt", "wide".encode("utf-16"))
        + member("surrogate.txt", b"half \xed\xa0\xbd")
        + END,
        {"txt": ["", "after a byte order mark", "", "  kept as it is \r\n", "nul \0 inside", None, None, None]},
        ["empty", "mark", "only_mark", "spaces", "zero", "latin1", "utf16", "surrogate"],
        faults={"txt": [("caption-not-utf8", key) for key in ("latin1", "utf16", "surrogate")]},
    ),
    HellTar(
        "json_faults",
        member("good.json", '{"caption": "fine", "nan": NaN, "n": 1e999}')
        + member("mark.json", _BOM + b'{"caption": "marked"}')
        + member("huge_number.json", '{"n": ' + "9" * 5000 + ', "caption": "still fine"}')
        + member("repeated_elsewhere.json", '{"id": 1, "id": 2, "caption": "not my field"}')
        + member("wide.json", _json(caption="many boxes", boxes=[[1, {}]] * 100))
        + member("cut.json", '{"caption": "no end')
        + member("empty.json", "")
        + member("deep.json", _DEEP)
        + member("deepest.json", '{"caption": "a", "x": ' + "[" * 5_000 + "]" * 5_000 + "}")
        + member("array.json", '["caption"]')
        + member("string.json", '"caption"')
        + member("number.json", _json(caption=5))
        + member("null.json", _json(caption=None))
        + member("list.json", _json(caption=["a", "b"]))
        + member("repeated.json", '{"caption": "one", "caption": "two"}')
        + member("surrogate.json", r'{"caption": "half \ud83d"}')
        + member("pair.json", r'{"caption": "whole \ud83d\ude00"}')
        + member("latin1.json", b'{"caption": "caf\xe9"}')
        + member("other.json", _json(title="no caption"))
        + END,
        {
            "json.caption": [
                *("fine", "marked", "still fine", "not my field", "many boxes"),
                *[None] * 11,
                "whole \N{GRINNING FACE}",
                *[None] * 2,
            ]
        },
        [
            *(
                "good",
                "mark",
                "huge_number",
                "repeated_elsewhere",
                "wide",
                "cut",
                "empty",
                "deep",
                "deepest",
                "array",
                "string",
            ),
            *("number", "null", "list", "repeated", "surrogate", "pair", "latin1", "other"),
        ],
        faults={
            "json.caption": [
                *(("json-invalid", key) for key in ("cut", "empty", "deep", "deepest", "array", "string")),
                *(("caption-not-text", key) for key in ("number", "null", "list")),
                ("json-invalid", "repeated"),
                ("caption-not-utf8", "surrogate"),
                ("caption-not-utf8", "latin1"),
                ("caption-missing", "other"),
            ]
        },
    ),
    HellTar(
        "concatenated",
        sample("a", "in the first")
        + END
        + bytes(8192)
        + sample("b", "in the second")
        + END
        + sample("c", "third")
        + END,
        {"txt": ["in the first", "in the second", "third"]},
        ["a", "b", "c"],
    ),
)
