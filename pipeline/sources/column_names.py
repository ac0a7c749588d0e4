"""Which names caption columns may have."""

from __future__ import annotations

import re
from collections.abc import Sequence

from schemas.errors import ConfigError
from schemas.latent_manifest import LATENTS_GROUP

_COLUMN = re.compile(r"json\.[A-Za-z0-9_.-]+|(?!json\.)[a-z0-9_][a-z0-9_.-]*")


def checked_columns(columns: Sequence[str], *, may_be_none: bool = False) -> Sequence[str]:
    """The columns as they are, if each is the name of a caption column and none stands twice.

    Args:
        columns: Names.
        may_be_none: Whether there may be no column at all, as something else is encoded.

    Raises:
        ConfigError: Code `column-invalid`.
    """
    wrong = [
        column
        for column in columns
        if not _COLUMN.fullmatch(column) or columns.count(column) > 1 or column == LATENTS_GROUP
    ]
    if wrong or not (columns or may_be_none):
        raise ConfigError(
            "column-invalid",
            where="--columns",
            expected="different names: a member extension in lower case such as txt or caption, or json.FIELD",
            actual=", ".join(map(repr, wrong)) or "no column",
            remedy="correct --columns; extensions are compared in lower case, JSON fields exactly"
            + ("; images are encoded with --latents" if LATENTS_GROUP in wrong else ""),
        )
    return columns
