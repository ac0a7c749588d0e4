"""Ray's private folder where there is none to be had."""

from __future__ import annotations

import tempfile

import pytest

from pipeline.job.folder import private_folder
from schemas.errors import ConfigError


def test_no_temporary_folder_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", full)
    with (
        pytest.raises(ConfigError, match=r"no-temporary-folder(.|\n)*No usable temporary directory(.|\n)*TMPDIR"),
        private_folder(),
    ):
        pass
