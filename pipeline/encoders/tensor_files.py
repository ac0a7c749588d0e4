"""Tensors of a checkpoint, read one at a time and never through a pickle that can run code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from schemas.errors import ConfigError

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


class TensorFiles:
    """The tensors of one or more weight files under one set of names.

    safetensors files are mapped, and a tensor is read when asked for. torch files are read with `weights_only=True`
    (data only, no code) and mapped too where their format allows it. Names lose a leading "module.", which training
    wrappers add.

    Args:
        paths: Weight files; their names must not overlap in the tensors that are asked for.

    Raises:
        ConfigError: A file cannot be read as weights.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._readers: dict[str, tuple[Any, str]] = {}
        files = tuple(paths)
        self.where = ", ".join(str(path) for path in files)
        for path in files:
            reader = _open_safetensors(path) if path.suffix == ".safetensors" else _open_torch(path)
            for stored in reader.keys():  # noqa: SIM118 a safetensors file is no mapping
                self._readers[stored.removeprefix("module.")] = (reader, stored)

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._readers)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading its values."""
        reader, stored = self._readers[name]
        return tuple(reader[stored].shape if isinstance(reader, Mapping) else reader.get_slice(stored).get_shape())

    def read(self, name: str) -> torch.Tensor:
        """The tensor as stored, on the CPU."""
        reader, stored = self._readers[name]
        tensor = reader[stored] if isinstance(reader, Mapping) else reader.get_tensor(stored)
        assert isinstance(tensor, torch.Tensor)
        return tensor


class WeightsDigest:
    """Digest of a set of tensors that does not depend on the file format they were stored in, nor on their order.

    Each tensor gives a line `name dtype d0,d1,... sha256`, where the last is the hash of its values, row-major and
    little-endian; `name` is the parameter's name in the text tower (without "text." or "module.") and `dtype` torch's
    ("bfloat16"). The digest is the sha256 of the lines, sorted and joined by newlines. A tensor is hashed in the
    background while the next one is read, and not kept.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="weights-digest")
        self._lines: list[Future[str]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Adds a tensor as stored; blocks while more than a few wait to be hashed."""
        if len(self._lines) >= 4:
            self._lines[-4].result()
        self._lines.append(self._pool.submit(_digest_line, name, tensor))

    def hexdigest(self) -> str:
        """Waits for the hashes and closes the digest."""
        lines = sorted(line.result() for line in self._lines)
        self._pool.shutdown()
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _digest_line(name: str, tensor: torch.Tensor) -> str:
    values = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    shape = ",".join(str(size) for size in tensor.shape)
    return f"{name} {str(tensor.dtype).removeprefix('torch.')} {shape} {hashlib.sha256(values.data).hexdigest()}"


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error, "a safetensors file; a download that was cut short looks like this") from error


def _open_torch(path: Path) -> Mapping[str, torch.Tensor]:
    if path.suffix not in _PICKLE_SUFFIXES:
        raise _unreadable(path, ValueError(f"suffix {path.suffix!r}"), f".safetensors or {', '.join(_PICKLE_SUFFIXES)}")
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files from before torch 1.6 cannot be mapped
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        expected = "a torch file that holds tensors only (it is read with weights_only=True, so that no code can run)"
        raise _unreadable(path, error, expected) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise _unreadable(path, ValueError(f"a {type(content).__name__}"), "a torch file that holds a state dict")
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _unreadable(path: Path, error: Exception, expected: str) -> ConfigError:
    return ConfigError(
        "weights-unreadable",
        where=str(path),
        expected=expected,
        actual=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        remedy="fetch the file again, or convert it to safetensors on a machine you trust",
    )
