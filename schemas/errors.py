"""The errors every part of encode-once raises for something a user can mend.

Each carries the same five facts, so that a log line is enough to act on: a stable code, where it happened,
what was expected, what was found, and what to do.
"""

from __future__ import annotations

from schemas.printable import printable, printable_lines


class EncodeOnceError(ValueError):
    """Base of all errors meant for users.

    Args:
        code: Stable identifier, kebab-case; never reused for another meaning.
        where: File, object, row or option at fault.
        expected: What the contract asks for.
        actual: What was found.
        remedy: What the user can do.
    """

    def __init__(self, code: str, *, where: str, expected: str, actual: str, remedy: str) -> None:
        self.code = code
        self.where = where
        self.expected = expected
        self.actual = actual
        self.remedy = remedy
        super().__init__(code, where, expected, actual, remedy)

    def __str__(self) -> str:
        # They quote names and values that strangers chose.
        facts = (("expected", self.expected), ("actual", self.actual), ("remedy", self.remedy))
        lines = [f"  {f'{name}:':<10}{printable_lines(fact)}" for name, fact in facts]
        return "\n".join([f"[{self.code}] {printable(self.where)}", *lines])

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and errors cross process boundaries in a Ray job.
        return _rebuild, (type(self), self.code, self.where, self.expected, self.actual, self.remedy)


def _rebuild(
    cls: type[EncodeOnceError], code: str, where: str, expected: str, actual: str, remedy: str
) -> EncodeOnceError:
    return cls(code, where=where, expected=expected, actual=actual, remedy=remedy)


class StorageError(EncodeOnceError):
    """An object store or file system did not do what was asked of it."""


class StorageFullError(StorageError):
    """There is no room left, or a quota is used up: nobody else could write there either."""

    stops_job = True


class MissingObjectError(StorageError):
    """An object that should exist does not."""


class DamagedDataError(EncodeOnceError):
    """Stored bytes are not what was written: wrong checksum, wrong length, unreadable structure."""


class ContractError(EncodeOnceError):
    """A dataset, document or value does not follow SPEC.md."""


class IdentityMismatchError(EncodeOnceError):
    """Two encodings that may not be mixed were about to be."""


class ConfigError(EncodeOnceError):
    """An option, a path or a combination of options cannot be used."""
