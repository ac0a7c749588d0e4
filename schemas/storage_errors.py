"""What is said when an object is not as it should be, by name and with a remedy."""

from __future__ import annotations

import errno

from schemas.errors import DamagedDataError, MissingObjectError, StorageError, StorageFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_ANSWERS = ("QuotaExceeded", "InsufficientStorage", "StorageFull", "507 Insufficient", "No space left on device")
"""Of Ceph's gateway and others, RFC 4918, MinIO (`XMinioStorageFull`), a local disk below obstore."""


def failed(name: str, error: BaseException) -> StorageError:
    """A store that did not do what was asked of it, after all retries."""
    said = first_line(error)
    actual = f"{type(error).__name__}: {said}"
    if is_without_room(error) or any(answer in said for answer in _FULL_ANSWERS):
        return StorageFullError(
            "storage-full",
            where=name,
            expected="room for what is written",
            actual=actual,
            remedy="make room or raise the quota; then run the same command again, nothing is lost",
        )
    return StorageError(
        "storage-failed",
        where=name,
        expected="the store to answer within the retries (about five minutes)",
        actual=actual,
        remedy="check the store's health, the credentials and free space; then run the same command again",
    )


def is_without_room(error: BaseException) -> bool:
    """Whether the operating system says that a disk is full or a quota used up."""
    return isinstance(error, OSError) and error.errno in _FULL


def missing(name: str) -> MissingObjectError:
    """An object that does not exist."""
    return MissingObjectError(
        "object-missing",
        where=name,
        expected="the object to exist",
        actual="not found",
        remedy="check the URL; if the dataset once had it, restore it, or delete its ledger record and encode again",
    )


def bucket_missing(name: str) -> StorageError:
    """A bucket that does not exist."""
    return StorageError(
        "bucket-missing",
        where=name,
        expected="the bucket to exist",
        actual="the store knows none of this name",
        remedy="check the URL, the endpoint and the region, or make the bucket: encode-once never makes one",
    )


def too_short(name: str, offset: int, expected: int, actual: int) -> DamagedDataError:
    """An object that ends before a range that was asked for."""
    return DamagedDataError(
        "object-too-short",
        where=f"{name} at byte {offset}",
        expected=f"{expected} bytes",
        actual=f"{actual} bytes",
        remedy="the object was cut short: restore it, or delete it and its ledger record and encode the shard again",
    )


def too_large(name: str, expected: int, actual: int) -> DamagedDataError:
    """An object that is larger than any honest one of its kind."""
    return DamagedDataError(
        "object-too-large",
        where=name,
        expected=f"at most {expected} bytes",
        actual=f"{actual} bytes",
        remedy="no honest object of this kind is so large: restore it from a copy, or find out who wrote it",
    )


def first_line(error: BaseException) -> str:
    """What a backend's error says, without the request and the stack that obstore adds."""
    return str(error).split("\n\n", 1)[0].replace("\n", " ")[:500]
