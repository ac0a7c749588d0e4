"""The kinds of findings. `docs/findings.md` is this table for readers; a test holds the two together."""

from __future__ import annotations

from enum import Enum


class Severity(Enum):
    """How bad a finding is."""

    ERROR = "error"
    """The dataset is not what it should be; `validate` exits with 1."""
    WARNING = "warning"
    """All that is committed is right, but something wants a look."""
    NOTE = "note"
    """Something that could not be checked, or that is as it should be while a run is under way."""


_ENCODE_AGAIN = "delete the shard's ledger record of this group and run the same encode command again"
_RESTORE = "restore the object from a copy; or delete it and the shard's ledger record of this group, and encode again"
_REINDEX = "run the encode command again (it rewrites the index from the ledger), or delete index.arrow"
_COLLECT = "run the encode command again: it collects them at its end; or delete the object by hand"


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE


class Code(Enum):
    """A kind of finding: stable name, default severity, meaning, default remedy. Names are never reused."""

    # fmt: off
    # The dataset as a whole
    MANIFEST_MISSING = ("manifest-missing", _E,
        "there are objects of a dataset, but no manifest.json, or for latents no manifest.latents.json",
        "restore the manifest from a copy; or correct the URL")
    MANIFEST_INVALID = ("manifest-invalid", _E,
        "manifest.json or manifest.latents.json is whole but lacks fields or has wrong ones",
        "restore the manifest; it is never edited by hand")
    LAYOUTS_DIFFER = ("layouts-differ", _E,
        "captions and latents have other layouts, so that their chunks do not hold the same samples",
        "delete one of the two manifests and the ledger records of its groups; encode those again")
    FORMAT_VERSION_UNKNOWN = ("format-version-unknown", _E,
        "a format or version this release does not know",
        "use the encode-once release that wrote the dataset, or a later one")
    DOCUMENT_DAMAGED = ("document-damaged", _E,
        "a document (manifest, record, quarantine note) does not match its own sha256 or spelling",
        _RESTORE)
    # The ledger
    RECORD_INVALID = ("ledger-record-invalid", _E,
        "a record is whole but its fields or sums are wrong",
        _ENCODE_AGAIN)
    RECORD_MISPLACED = ("record-misplaced", _E,
        "a record names another group or shard than its path",
        _ENCODE_AGAIN)
    RECORD_IDENTITY = ("record-identity", _E,
        "a record is of another identity: two encodings are mixed",
        "delete the record and encode the shard again with the dataset's options")
    CHUNK_TABLE = ("chunk-table", _E,
        "chunks overlap, leave gaps, reach beyond their part, or do not have chunk_rows rows",
        _ENCODE_AGAIN)
    GROUPS_MISALIGNED = ("groups-misaligned", _E,
        "two groups of a shard have other keys or row counts",
        "delete the ledger records of all groups of the shard and encode them from the same tar")
    # Parts
    PART_NAME = ("part-name", _E,
        "a part's name is not <group>-<index>-<sha256[:16]> and the suffix",
        _ENCODE_AGAIN)
    PART_MISSING = ("part-missing", _E,
        "a ledger record names a part that does not exist",
        _RESTORE)
    PART_SIZE = ("part-size", _E,
        "a part is longer or shorter than its record says (a torn file)",
        _RESTORE)
    PART_HEAD = ("part-head", _E,
        "a part does not begin as a file of its container",
        _RESTORE)
    PART_SCHEMA = ("part-schema", _E,
        "a part states another group, shard, identity or schema: it belongs elsewhere",
        _RESTORE)
    PART_TAIL = ("part-tail", _E,
        "a part does not end as a file of its container",
        _RESTORE)
    PART_CHECKSUM = ("part-checksum", _E,
        "a part's bytes are not those its record's sha256 is of",
        _RESTORE)
    CHUNK_CHECKSUM = ("chunk-checksum", _E,
        "a chunk's bytes are not those its record's xxh3_64 is of",
        _RESTORE)
    OBJECT_MISSING = ("object-missing", _E,
        "an object that was listed is gone",
        _RESTORE)
    OBJECT_TOO_SHORT = ("object-too-short", _E,
        "an object ended before a range that should be in it",
        _RESTORE)
    OBJECT_TOO_LARGE = ("object-too-large", _E,
        "an object is larger than any honest one of its kind can be: it was not read",
        _RESTORE)
    PATH_UNSAFE = ("path-unsafe", _E,
        "a name leads out of the dataset",
        "do not use the dataset: somebody made it to reach other files; find out who can write to it")
    # Rows
    CHUNK_UNDECODABLE = ("chunk-undecodable", _E,
        "a chunk is not a record batch or tar run of the schema",
        _RESTORE)
    CHUNK_ROWS = ("chunk-rows", _E,
        "a chunk holds more or fewer rows than its record says",
        _ENCODE_AGAIN)
    MEMBER_MISMATCH = ("member-mismatch", _E,
        "a webdataset part's member names or .json members disagree with its rows",
        _ENCODE_AGAIN)
    KEY_DUPLICATE = ("key-duplicate", _E,
        "two rows of a shard have the same key",
        _ENCODE_AGAIN)
    KEYS_DIGEST = ("keys-digest", _E,
        "the keys are not those that keys_sha256 is of",
        _ENCODE_AGAIN)
    VALUE_NULL = ("value-null", _E,
        "a value is null that may not be",
        _ENCODE_AGAIN)
    ROW_PARTLY_NULL = ("row-partly-null", _E,
        "a row is null for some encoders and not for others, or has an image but no latents",
        _ENCODE_AGAIN)
    ENCODED_COUNT = ("encoded-count", _E,
        "num_encoded is not the number of rows that are not null",
        _ENCODE_AGAIN)
    NUM_TOKENS = ("num-tokens", _E,
        "num_tokens is below 1 or above max_tokens, or a truncated row has fewer than max_tokens",
        _ENCODE_AGAIN)
    IMAGE_SIZE = ("image-size", _E,
        "an image is of a size that is no bucket of the identity, or its original size or crop cannot be",
        _ENCODE_AGAIN)
    TENSOR_SIZE = ("tensor-size", _E,
        "a tensor's planes do not have the bytes its shape asks for",
        _ENCODE_AGAIN)
    TENSOR_NOT_FINITE = ("tensor-not-finite", _E,
        "a tensor holds NaN or Infinity",
        _ENCODE_AGAIN)
    TENSOR_CONSTANT = ("tensor-constant", _E,
        "a tensor or a token's vector is zero or one repeated value, or all tokens are alike",
        _ENCODE_AGAIN)
    STATS_MISMATCH = ("stats-mismatch", _E,
        "the record's statistics are not those of the rows",
        _ENCODE_AGAIN)
    # Rejects
    REJECTS_MISSING = ("rejects-missing", _E,
        "a record counts rejects, but there is no rejects file",
        _RESTORE)
    REJECTS_SIZE = ("rejects-size", _E,
        "a rejects file is longer or shorter than its record says",
        _RESTORE)
    REJECTS_CHECKSUM = ("rejects-checksum", _E,
        "a rejects file is not the one its record's sha256 is of",
        _RESTORE)
    REJECTS_UNREADABLE = ("rejects-unreadable", _E,
        "a line of a rejects file is not a reject",
        _RESTORE)
    REJECTS_COUNT = ("rejects-count", _E,
        "num_rejects is not the number of lines of the rejects file",
        _ENCODE_AGAIN)
    REJECTS_ROWS = ("rejects-rows", _E,
        "a null row has no reject that says why, or a reject claims a null row that is not there",
        _ENCODE_AGAIN)
    # The index
    INDEX_MISSING = ("index-missing", _W,
        "there is no index.arrow: readers must read the whole ledger",
        "run the encode command again: a run that ends writes the index")
    INDEX_STALE = ("index-stale", _W,
        "the index lacks records that the ledger has",
        _REINDEX)
    INDEX_CONTRADICTION = ("index-contradiction", _E,
        "the index holds a record that the ledger has not, or has otherwise",
        _REINDEX)
    INDEX_DAMAGED = ("index-damaged", _E,
        "index.arrow does not match its own sha256",
        _REINDEX)
    # Objects beside
    ORPHAN = ("orphan", _E,
        "an object that no ledger record refers to; a note while a run is live",
        _COLLECT)
    TEMPORARY_FILE = ("temporary-file", _E,
        "a killed writer's unfinished file; a note while a run is live",
        _COLLECT)
    UNKNOWN_OBJECT = ("unknown-object", _W,
        "an object with a name that no part of a dataset has",
        "move it elsewhere: a dataset's folder is for the dataset alone")
    QUARANTINED = ("quarantined", _W,
        "a shard was given up after several attempts: the dataset lacks it",
        "see the reasons in the note; mend the tar and run the encode command again")
    QUARANTINE_INVALID = ("quarantine-invalid", _E,
        "a quarantine note is whole but its fields are wrong",
        "delete the note: the shard is then tried again")
    RUN_LIVE = ("run-live", _N,
        "a run is writing to the dataset; what it has not committed yet is not judged",
        "validate again when the run has ended")
    RUN_DEAD = ("run-dead", _W,
        "a run ended without finishing: its sign of life is old",
        "run the same encode command again: it resumes and tidies up")
    # The source
    SOURCE_UNREACHABLE = ("source-unreachable", _N,
        "the tar of a shard is not reachable: it was not counted",
        "nothing, if the tars were moved; or validate where they can be reached")
    SOURCE_CHANGED = ("source-changed", _W,
        "the tar has changed since it was encoded: it was not counted",
        "to encode the new content, delete the shard's ledger records and run the encode command again")
    SOURCE_DAMAGED = ("source-damaged", _W,
        "the tar could not be read whole when it was encoded, and is not counted",
        "see source.damage in the ledger record; mend the tar, delete the records and encode it again")
    SOURCE_ROWS = ("source-rows", _E,
        "the tar has other keys than the shard has rows",
        _ENCODE_AGAIN)
    # The check itself
    STORAGE_FAILED = ("storage-failed", _E,
        "the store failed, so that an object could not be checked",
        "check the store's health and the credentials; then validate again")
    CHECK_FAILED = ("check-failed", _E,
        "an object broke its check in a way that has no code of its own",
        "treat the object as damaged, and report this as a bug of the validator")
    # fmt: on

    def __init__(self, code: str, severity: Severity, meaning: str, remedy: str) -> None:
        self.code = code
        self.severity = severity
        self.meaning = meaning
        self.remedy = remedy


BY_NAME: dict[str, Code] = {code.code: code for code in Code}
assert len(BY_NAME) == len(Code)
