"""Python runs this at its start on a host whose PYTHONPATH names this folder: its encoder is slow, or cut off.

`ENCODE_ONCE_PACE`: a file that says how many seconds longer a shard takes, and may be changed meanwhile.
`ENCODE_ONCE_HOLD`: a folder. The first commit that gets there stops between its look at the ledger and its record, says
so in `held`, and goes on when `release` is there; what it writes differs from what anybody else would write.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


class _Changed(importlib.abc.MetaPathFinder):
    """Changes a module once it is loaded."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._change = change

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        load: Any = spec.loader
        original = load.exec_module

        def exec_module(module: ModuleType) -> None:
            original(module)
            self._change(module)

        load.exec_module = exec_module
        return spec


def _slow(module: ModuleType) -> None:
    original = module.ShardEncoder.encode
    pace = Path(os.environ["ENCODE_ONCE_PACE"])

    def encode(self: Any, tar: Any, groups: Any, attempt: int) -> Any:
        since = time.monotonic()
        while time.monotonic() - since < float(pace.read_text()):
            time.sleep(0.05)
        return original(self, tar, groups, attempt)

    module.ShardEncoder.encode = encode


def _held(module: Any) -> None:
    folder = Path(os.environ["ENCODE_ONCE_HOLD"])
    original = module.commit

    def commit(store: Any, record: Any, rejects: Any) -> bool:
        inner: Any = importlib.import_module("schemas.commit")
        if (folder / "held").exists():
            return bool(original(store, record, rejects))
        # Where nothing but the record is left to write.
        look = inner._require_stored

        def wait(*arguments: Any) -> None:
            look(*arguments)
            inner._require_stored = look
            (folder / "held").write_text(f"{record.group}/{record.shard}")
            while not (folder / "release").exists():
                time.sleep(0.05)

        inner._require_stored = wait
        data = rejects.data.replace(b"caption", b"CAPTION")
        entry = record.rejects and inner.RejectsObject(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        other = inner.StoredRejects(data, entry)
        won = bool(original(store, record.model_copy(update={"rejects": entry}), other))
        (folder / "ended").write_text(f"committed: {won}")
        return won

    module.commit = commit


def _change(module: ModuleType) -> None:
    if "ENCODE_ONCE_PACE" in os.environ:
        _slow(module)
    if "ENCODE_ONCE_HOLD" in os.environ:
        _held(module)


sys.meta_path.insert(0, _Changed("pipeline.shard_encoder", _change))
