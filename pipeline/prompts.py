"""A text file of prompts, as the samples of one shard."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import ConfigError
from schemas.limits import MAX_CAPTION_BYTES
from schemas.rejects import Reject

EMPTY_KEY = "empty"
"""Key of the last row, the empty prompt: what classifier-free guidance and dropout to `empty` are conditioned on."""

MAX_PROMPTS_BYTES = 64 * 1024**2
"""Largest prompts file; what is larger belongs into tars."""

_BYTE_ORDER_MARK = "\ufeff"


class PromptList:
    """Prompts with the keys 000000, 000001, ..., and then the empty prompt.

    Args:
        prompts: In order.
    """

    def __init__(self, prompts: list[str]) -> None:
        self.prompts = [*prompts, ""]
        self.keys = [*(f"{number:06d}" for number in range(len(prompts))), EMPTY_KEY]
        self.damage: list[Reject] = []

    def num_inputs(self, group: str) -> int:  # noqa: ARG002 the same for all
        """All of them."""
        return len(self.keys)

    def rejects_of(self, group: str) -> list[Reject]:  # noqa: ARG002 the same for all
        """None: what could not be read was refused as a whole."""
        return []

    def captions(self, group: str, start: int, stop: int) -> list[str | None]:  # noqa: ARG002 the same for all
        """The prompts of rows `start` to `stop`."""
        return list(self.prompts[start:stop])


def read_prompts(path: Path) -> list[str]:
    """One prompt a line, in UTF-8; white space around it is dropped, and lines of nothing else are left out.

    Raises:
        ConfigError: The file cannot be read, is not UTF-8, is too large, or holds no prompt.
    """
    try:
        num_bytes = path.stat().st_size
        data = path.read_bytes() if num_bytes <= MAX_PROMPTS_BYTES else None
    except OSError as error:
        raise _unusable("prompts-unreadable", str(path), "a file that can be read", _words(error)) from error
    if data is None:
        raise _unusable(
            "prompts-too-large", str(path), f"a file of at most {MAX_PROMPTS_BYTES} bytes", f"{num_bytes} bytes"
        )
    prompts = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            actual = f"byte {error.start} of the line is not UTF-8 ({error.reason})"
            raise _unusable("prompts-not-utf8", f"{path}, line {number}", "UTF-8 text", actual) from error
        prompt = text.removeprefix(_BYTE_ORDER_MARK).strip()
        if (length := len(prompt.encode())) > MAX_CAPTION_BYTES:
            most = f"at most {MAX_CAPTION_BYTES} bytes a prompt"
            raise _unusable("prompts-too-large", f"{path}, line {number}", most, f"{length} bytes")
        prompts.append(prompt)
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise _unusable("prompts-empty", str(path), "one prompt a line", "no line with a prompt")
    return prompts


def _words(error: OSError) -> str:
    return f"{type(error).__name__}: {error.strerror}"


def _unusable(code: str, where: str, expected: str, actual: str) -> ConfigError:
    return ConfigError(code, where=where, expected=expected, actual=actual, remedy="give --prompts another file")
