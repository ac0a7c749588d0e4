"""How much a stored object may ask of whoever reads it: SPEC.md section 9, in one place.

What is read may have been written by a stranger. Every size that an object declares is held against one of these before
memory is taken for it, so that a hostile object costs an error and not the machine. They are far above what an honest
object needs, and a writer never writes what they refuse.
"""

from __future__ import annotations

from typing import Final

_KIB: Final = 1024
_MIB: Final = 1024**2
_GIB: Final = 1024**3

MAX_DOCUMENT_BYTES: Final = 16 * _MIB
"""A manifest, ledger record or quarantine note. A record of 100,000 chunks has 10 MB. Parsed JSON may take 25 times its
bytes in memory."""

MAX_INDEX_BYTES: Final = 4 * _GIB
"""`index.arrow` as stored. A million shards of 10,000 rows take about 2 GB."""

MAX_INDEX_RATIO: Final = 64
"""Bytes of an index's columns by its stored bytes. Ledger records are half digests, which do not compress: 2 to 4.
Those of shards without a row differ in little but their names and checksums: up to 45."""

MAX_REJECTS: Final = 1_000_000
"""Lines of a rejects file. Each takes about 1 KB once it is read."""

MAX_REJECTS_BYTES: Final = 1 * _GIB
"""A rejects file. A reject takes 150 to 900 bytes."""

MAX_SHARD_ROWS: Final = 4_000_000
"""Rows of a shard. Their keys are in memory while it is encoded, and while it is validated at level values."""

MAX_ROW_BYTES: Final = 64 * _MIB
"""The tensors of one row, by the identity. SD3's three encoders take 0.9 to 2.7 MB in bfloat16, a picture of
2048 x 2048 pixels 12 MB."""

MAX_CHUNK_ROWS: Final = 2**20
"""`layout.chunk_rows`."""

MAX_CHUNK_BYTES: Final = 2 * _GIB
"""A chunk, as stored and as decoded: `layout.chunk_rows` times the row's tensors must fit. Usual ones have 16 to
32 MiB; each decoding thread of a reader holds one."""

MAX_KEY_BYTES: Final = 4096
"""A key, in UTF-8: the longest path Linux knows."""

MAX_CAPTION_BYTES: Final = 64 * _KIB
"""A caption, in UTF-8. Encoders read some hundred tokens; a chunk holds the captions of all its rows."""

MAX_SHARD_BYTES: Final = 512
"""The name of a shard, in UTF-8."""

MAX_SHARD_SEGMENT_BYTES: Final = 200
"""A segment of a shard's name. A file name may have 255 bytes; a record's has a suffix, a temporary one while it is
written."""

MAX_BUCKETS: Final = 4096
"""Image sizes of an identity: every image's is looked up among them."""

MAX_PART_HEAD_BYTES: Final = _MIB
"""What may stand before a part's first chunk: a schema, some 4 KB."""

MAX_ROW_OVERHEAD_BYTES: Final = 4 * _KIB
"""What Arrow adds to a row's tensors, key and caption, once decoded: offsets, numbers, validity, padding."""
