"""The stable codes of everything in a tar that could not be encoded, with what each means."""

from __future__ import annotations

from typing import Final

CAPTION_CODES: Final[dict[str, str]] = {
    "caption-missing": "the sample has no such member, or its JSON no such field",
    "caption-not-utf8": "the bytes, or an escape in the JSON, are not valid Unicode text",
    "caption-not-text": "the JSON field is not a string (a number, a list, null)",
    "caption-too-large": "the member is larger than 4 MiB, or the caption in it than 64 KiB",
    "caption-cut-off": "the tar ends, or is overwritten, before the member does",
    "caption-sparse": "the member is stored as a sparse file, which captions never are",
    "json-invalid": "not a JSON object, nested too deeply, or the field stands in it twice",
}
"""Of one column; a null row stands for the caption, so that all columns of a shard stay aligned."""

IMAGE_CODES: Final[dict[str, str]] = {
    "image-missing": "the sample has no member jpg, jpeg, png or webp",
    "image-cut-off": "the tar ends, or is overwritten, before the member does",
    "image-sparse": "the member is stored as a sparse file",
    "image-too-large": "the member is larger than 64 MiB, or the image has more pixels than were allowed",
    "image-too-small": "it would have to be enlarged more than was allowed",
    "image-undecodable": "not an image of these kinds, or a damaged or truncated one",
}
"""Of the image of a sample; a null row stands for it in the group `latents`."""

MEMBER_CODES: Final[dict[str, str]] = {
    "duplicate-member": "a member of this name came before; the first one counts",
    "key-not-utf8": "the member's name is not UTF-8",
    "key-unsafe": "the name has `..`, an empty segment, a leading slash or control characters, or is too long",
    "member-name-lost": "the extended header that held the member's full name is damaged",
    "member-not-a-file": "a link, a device or another special file",
    "member-without-field": "the name has no extension after its key, or begins with a dot",
}
"""Of the tar; the member has no row of its own, and stands in the rejects of every column."""

DAMAGE_CODES: Final[dict[str, str]] = {
    "tar-compressed": "the object is compressed or another kind of archive; nothing of it was read",
    "tar-corrupt": "bytes that are no part of a tar were skipped; reading went on at the next sound header",
    "tar-no-end": "the end-of-archive blocks are missing: the tar was cut between two members",
    "tar-truncated": "the tar ends inside a header or a member",
    "tar-zero-bytes": "the object is empty",
}
"""Of the tar itself; not counted among the rejects, since nobody knows how many inputs were lost."""
