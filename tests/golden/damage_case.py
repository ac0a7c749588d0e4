"""What a golden damage is: what is done, and what the validator must say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from schemas.manifest import Container
from schemas.validator import Level
from tests.golden.damage_dataset import Victim

Damage = Callable[[Victim], None]


@dataclass(frozen=True)
class Case:
    """One damage.

    Attributes:
        name: Its folder.
        damage: Does it.
        codes: Errors and warnings, all of them, at `level`; notes are left out.
        level: The first level at which the damage must be found.
        containers: Which containers can have it.
        is_error: Whether the exit status must be 1.
    """

    name: str
    damage: Damage
    codes: frozenset[str]
    level: Level
    containers: tuple[Container, ...]
    is_error: bool


BOTH: tuple[Container, ...] = ("arrow", "webdataset")


class Cases:
    """Collects the cases of a module."""

    def __init__(self) -> None:
        self.found: list[Case] = []

    def __call__(
        self,
        level: Level,
        *codes: str,
        name: str | None = None,
        containers: tuple[Container, ...] = BOTH,
        is_error: bool = True,
    ) -> Callable[[Damage], Damage]:
        def add(damage: Damage) -> Damage:
            title = name or damage.__name__.strip("_").replace("_", "-")
            self.found.append(Case(title, damage, frozenset(codes), level, containers, is_error))
            return damage

        return add
