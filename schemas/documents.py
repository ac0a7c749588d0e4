"""JSON documents that carry their own checksum: manifest and ledger records.

A document is stored in one canonical spelling, with the SHA-256 of everything else in its `sha256` field. Reading
checks both the digest and the spelling, so that any changed byte is found, even one that JSON would ignore.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from schemas.errors import ContractError, DamagedDataError
from schemas.limits import MAX_DOCUMENT_BYTES


def canonical(body: object) -> bytes:
    """The one spelling that digests are taken over: sorted keys, no spaces, UTF-8."""
    return json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def digest(body: object) -> str:
    """SHA-256 of the canonical spelling, in hex."""
    return hashlib.sha256(canonical(body)).hexdigest()


def seal(body: dict[str, Any], *, for_people: bool = False) -> bytes:
    """The bytes to store: `body` with its digest in `sha256`; indented if people are to read it.

    Raises:
        ContractError: It is larger than a reader accepts.
    """
    assert "sha256" not in body
    data = _spell({**body, "sha256": digest(body)}, for_people)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ContractError(
            "document-too-large",
            where=f"the document of {', '.join(map(repr, sorted(body)[:8]))}",
            expected=f"at most {MAX_DOCUMENT_BYTES} bytes",
            actual=f"{len(data)} bytes",
            remedy="split the tar into smaller ones, or encode it with larger chunks (--chunk-rows)",
        )
    return data


def unseal(data: bytes, *, where: str) -> dict[str, Any]:
    """Reads what `seal` wrote and returns it without `sha256`.

    Raises:
        DamagedDataError: Not JSON, not an object, another spelling, or the digest does not match.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise _damaged(where, f"at most {MAX_DOCUMENT_BYTES} bytes", f"{len(data)} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(where, "a JSON document", f"{type(error).__name__}: {str(error)[:200]}") from error
    if not isinstance(document, dict) or not isinstance(document.get("sha256"), str):
        raise _damaged(where, "a JSON object with a sha256 field", str(data[:80]))
    stored = document.pop("sha256")
    try:
        actual = digest(document)
        spelled = data in (_spell({**document, "sha256": stored}, people) for people in (False, True))
    except (ValueError, RecursionError) as error:
        raise _damaged(where, "finite numbers, valid text, and no deep nesting", str(error)[:200]) from error
    if stored != actual:
        raise _damaged(where, f"sha256 {stored}", f"sha256 {actual}")
    if not spelled:
        raise _damaged(where, "the canonical spelling", "other white space, key order or escapes")
    return document


def _spell(document: dict[str, Any], for_people: bool) -> bytes:
    if for_people:
        return (json.dumps(document, sort_keys=True, ensure_ascii=False, indent=2) + "\n").encode()
    return canonical(document) + b"\n"


def _damaged(where: str, expected: str, actual: str) -> DamagedDataError:
    return DamagedDataError(
        "document-damaged",
        where=where,
        expected=expected,
        actual=actual,
        remedy="restore the object from a copy; a damaged ledger record can also be deleted: encode its shard again",
    )
