"""The files of a source, in a local folder or on the Hugging Face hub, behind one small interface."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from schemas.errors import ConfigError

MAX_CONFIG_BYTES = 16 * 1024**2
"""Largest config or index that is read. The index of a model of 10,000 tensors has 1 MB."""

# A local folder is listed this deep: the folder itself and its direct subfolders.
_MAX_ENTRIES = 20_000


class FileTree(ABC):
    """Files of one source by relative path with forward slashes.

    Attributes:
        where: The source, for messages.
        revision: Resolved commit; None for a local folder.
        files: Relative paths.
    """

    where: str
    revision: str | None = None
    files: frozenset[str] = frozenset()

    @abstractmethod
    def fetch(self, names: Iterable[str]) -> Path:
        """Makes these files present and returns the folder their relative paths start from."""

    def names_in(self, folder: str) -> frozenset[str]:
        """Names of the files directly in a folder ("" = the root)."""
        prefix = f"{folder}/" if folder else ""
        rests = (path.removeprefix(prefix) for path in self.files if path.startswith(prefix))
        return frozenset(rest for rest in rests if "/" not in rest)

    def read_json(self, path: str) -> dict[str, Any]:
        """A JSON document of the source.

        Raises:
            ConfigError: It is no JSON object.
        """
        file = self.fetch([path]) / path
        try:
            num_bytes = file.stat().st_size
            if num_bytes > MAX_CONFIG_BYTES:
                raise ValueError(f"{num_bytes} bytes, more than {MAX_CONFIG_BYTES}")
            content = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError(f"a JSON {type(content).__name__}")
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(
                "config-unreadable",
                where=str(file),
                expected="a JSON object",
                actual=f"{type(error).__name__}: {error}",
                remedy="fetch the file again",
            ) from error
        return content


class LocalTree(FileTree):
    """A local folder and its direct subfolders."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = str(folder)
        found: list[str] = []
        for parent, subfolders, names in os.walk(folder, followlinks=True):
            prefix = Path(parent).relative_to(folder).as_posix()
            found += [name if prefix == "." else f"{prefix}/{name}" for name in names]
            if prefix != "." or len(found) > _MAX_ENTRIES:
                subfolders.clear()
        self.files = frozenset(found)

    def fetch(self, names: Iterable[str]) -> Path:  # noqa: ARG002 all are there
        """The folder itself."""
        return self._folder


class HubTree(FileTree):
    """A Hugging Face repository; only the files that are asked for are downloaded.

    Works without network from the hub's cache (HF_HUB_OFFLINE, or when the hub cannot be reached).

    Raises:
        ConfigError: There is no such repository or revision, or it is neither reachable nor cached.
    """

    def __init__(self, repository: str, revision: str | None, option: str) -> None:
        self._repository, self._requested, self._option = repository, revision, option
        self.where = f"https://huggingface.co/{repository}" + (f" at {revision}" if revision else "")
        self._offline: Path | None = None
        try:
            info = HfApi().model_info(repository, revision=revision)
            self.revision = info.sha
            self.files = frozenset(sibling.rfilename for sibling in info.siblings or ())
        except HFValidationError as error:
            raise self._unavailable(error) from error
        except HfHubHTTPError as error:
            if error.response.status_code < 500:
                raise self._unavailable(error) from error
            self._use_cache(revision, error)
        except (OfflineModeIsEnabled, OSError) as error:
            self._use_cache(revision, error)
        except Exception as error:
            # The HTTP client's connection errors share no base class with the standard library's.
            if "connect" not in type(error).__name__.lower() and "timeout" not in type(error).__name__.lower():
                raise
            self._use_cache(revision, error)

    def fetch(self, names: Iterable[str]) -> Path:
        """Downloads the files into the hub's cache."""
        if self._offline:
            return self._offline
        patterns = sorted(names)
        try:
            # By the name the user gave, so that the cache remembers it and the same options work without network ...
            folder = Path(snapshot_download(self._repository, revision=self._requested, allow_patterns=patterns))
            if folder.name == self.revision:
                return folder
            # ... but never another commit than the one that was listed, if the branch has moved meanwhile.
            return Path(snapshot_download(self._repository, revision=self.revision, allow_patterns=patterns))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise self._unavailable(error) from error

    def _use_cache(self, revision: str | None, cause: Exception) -> None:
        try:
            folder = Path(snapshot_download(self._repository, revision=revision, local_files_only=True))
        except IncompleteSnapshotError as error:
            # The files of another encoder, or of the image model, may well be missing: what is needed is checked later.
            folder = Path(error.snapshot_path)
        except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
            raise self._unavailable(cause) from error
        self._offline = folder
        self.revision = folder.name
        self.files = frozenset(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def _unavailable(self, error: Exception) -> ConfigError:
        return ConfigError(
            "source-unavailable",
            where=self.where,
            expected=f"{self._option} to name a local folder or file, or a Hugging Face repository that can be reached",
            actual=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
            remedy="check the spelling, the revision and the access token, or give a local folder",
        )


def open_tree(source: str, revision: str | None, option: str) -> FileTree:
    """The files of a folder or of a Hugging Face id.

    Args:
        source: A folder that exists, or `owner/name`.
        revision: Only for an id.
        option: Command-line option that named the source, for messages.

    Raises:
        ConfigError: Neither a folder nor a repository.
    """
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        require_no_revision(source, revision, option)
        return LocalTree(folder)
    if not source or source.startswith(("/", ".", "~")) or source.count("/") > 1 or "\\" in source:
        raise ConfigError(
            "source-not-found",
            where=f"{option} {source}",
            expected="a folder or file that exists, or a Hugging Face id (owner/name)",
            actual="no such folder or file",
            remedy="check the path",
        )
    return HubTree(source, revision, option)


def require_no_revision(source: str, revision: str | None, option: str) -> None:
    """Refuses a revision for something that has none, rather than ignore it.

    Raises:
        ConfigError: A revision is given.
    """
    if revision is not None:
        raise ConfigError(
            "revision-without-repository",
            where=f"{option} {source}",
            expected="no revision: this is not a Hugging Face id",
            actual=f"revision {revision!r}",
            remedy="leave the revision out",
        )
