"""Python runs this at its start in every process of a run whose PYTHONPATH names this folder: inputs become poisonous.

A shard whose name has `kill` in it kills the process that encodes it, as a fault in native code would; `raise` raises;
`hang` never ends.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_MODULE = "pipeline.shard_encoder"


class _Poison(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        load: Any = spec.loader
        original = load.exec_module

        def exec_module(module: ModuleType) -> None:
            original(module)
            _poison(module)

        load.exec_module = exec_module
        return spec


def _poison(module: ModuleType) -> None:
    original = module.ShardEncoder.encode

    def encode(self: Any, tar: Any, groups: Any, attempt: int) -> Any:
        if "kill" in tar.shard:
            os.kill(os.getpid(), signal.SIGKILL)
        if "raise" in tar.shard:
            raise RuntimeError(f"cannot encode {tar.shard}, attempt {attempt}")
        while "hang" in tar.shard:
            time.sleep(60)
        return original(self, tar, groups, attempt)

    module.ShardEncoder.encode = encode


sys.meta_path.insert(0, _Poison())
