"""What a run has to do: which shards of which groups are there, committed, quarantined or missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.sources import Inputs, InputTar
from schemas.ledger import list_committed
from schemas.quarantine import Quarantined, read_quarantined
from schemas.storage import Store


@dataclass(frozen=True)
class Unit:
    """One shard and the groups it still lacks: what a worker is given."""

    tar: InputTar
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The work of a run.

    Attributes:
        columns: The groups asked for.
        num_shards: Tars found.
        todo: By shard, what is left to do, in the order of the inputs.
        num_committed: (shard, group) pairs that are committed already.
        quarantined: Pairs given up by an earlier run and left alone by this one.
        not_in_input: Committed shards whose tar is not among the inputs; they stay.
        committed: The committed shards of each group asked for.
    """

    columns: tuple[str, ...]
    num_shards: int
    todo: dict[str, Unit]
    num_committed: int
    quarantined: tuple[Quarantined, ...]
    not_in_input: tuple[str, ...]
    committed: dict[str, set[str]]

    @property
    def num_todo(self) -> int:
        """(shard, group) pairs left to do."""
        return sum(len(unit.groups) for unit in self.todo.values())

    @property
    def todo_tar_bytes(self) -> int:
        """Bytes of the tars to read."""
        return sum(unit.tar.num_bytes for unit in self.todo.values())


def make_plan(inputs: Inputs, dataset: Store, columns: Sequence[str], *, retry_quarantined: bool) -> Plan:
    """Compares the inputs with the ledger. Reads names only, so 100,000 shards take seconds.

    Args:
        inputs: The tars.
        dataset: The dataset; need not exist yet.
        columns: Groups asked for.
        retry_quarantined: Try again what an earlier run gave up. What it gave up is tried again anyway if the tar is
            another one now.

    Raises:
        DamagedDataError, ContractError: A quarantine note is damaged.
    """
    committed = list_committed(dataset)
    given_up = read_quarantined(dataset)
    todo: dict[str, Unit] = {}
    left_alone: list[Quarantined] = []
    num_committed = 0
    for tar in inputs.tars:
        missing = []
        for group in columns:
            if tar.shard in committed.get(group, ()):
                num_committed += 1
                continue
            note = given_up.get((group, tar.shard))
            if note is not None and not retry_quarantined and _same_tar(note, tar):
                left_alone.append(note)
            else:
                missing.append(group)
        if missing:
            todo[tar.shard] = Unit(tar, tuple(missing))
    known = {tar.shard for tar in inputs.tars}
    asked = {group: committed.get(group, set()) for group in columns}
    strangers = {shard for shards in asked.values() for shard in shards if shard not in known}
    return Plan(
        tuple(columns), len(inputs.tars), todo, num_committed, tuple(left_alone), tuple(sorted(strangers)), asked
    )


def _same_tar(note: Quarantined, tar: InputTar) -> bool:
    return (note.source_bytes, note.source_e_tag) == (tar.num_bytes, tar.e_tag)
