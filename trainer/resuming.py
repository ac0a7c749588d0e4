"""Whether a run may go on with another configuration than it had."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from schemas.errors import ConfigError

_FIXED = (
    "seed",
    "model.",
    "conditioning.left_out",
    "conditioning.t5_tokens",
    "ema.enabled",
    "stream.captions",
    "stream.caption_weights",
    "stream.dataset_weights",
    "stream.shuffle",
    "stream.num_streams",
    "stream.block_chunks",
    "stream.holdout_rows",
)


def resolved(config: Any) -> dict[str, Any]:
    """A configuration as JSON has it, defaults and all."""
    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return found


def changes(stored: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, str]:
    """What differs, by dotted name: `then -> now`."""
    then, now = _flat(stored), _flat(current)
    names = [*then, *(name for name in now if name not in then)]
    return {name: f"{then.get(name)!r} -> {now.get(name)!r}" for name in names if then.get(name) != now.get(name)}


def require_resumable(changed: Mapping[str, str], *, where: str) -> None:
    """Refuses changes of what decides the order of samples, or the model.

    Raises:
        ConfigError: With each of these changes.
    """
    fixed = [f"{name}: {change}" for name, change in changed.items() if name.startswith(_FIXED)]
    if fixed:
        raise ConfigError(
            "resume-changed",
            where=where,
            expected="the options that decide the order of samples and the model, as the run began with them",
            actual="these differ (checkpoint -> this command):\n    " + "\n    ".join(fixed),
            remedy="use the options of the run, or begin another one with another --output",
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in values.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return out
