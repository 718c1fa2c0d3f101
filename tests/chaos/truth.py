"""What committed, and what each subscriber must have been sent of it. This module performs no I/O."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from chaos.schema import Subject
from rowcast.model.position import Snapshot

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the audit. ``op``: I, U, D, T (TRUNCATE), or X for each row that a TRUNCATE took."""

    log: int
    xid: int
    op: str
    table: str
    uid: str | None
    n: int
    row: Row


class Look(NamedTuple):
    """What is looked at, by whom, through which filter (as SQL)."""

    table: str
    subject: Subject
    condition: str


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a subscriber must be told. ``uid`` is None for TRUNCATE, whose ``n`` is its number."""

    kind: str
    xid: int
    log: int
    uid: str | None
    n: int
    row: Row


_KINDS: Final = {"I": "INSERT", "U": "UPDATE", "D": "DELETE"}


class Truth:
    """All that committed. ``shown`` says for each look which lines have an image that it lets through."""

    def __init__(self, entries: Iterable[Entry], shown: Mapping[Look, Set[int]]) -> None:
        self.entries = sorted(entries, key=lambda entry: entry.log)
        self._shown = shown
        self._before: dict[int, int] = {}
        self._chains: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        for entry in self.entries:
            if entry.uid is not None:
                self._chains[entry.table][entry.uid].append(entry)
        for chains in self._chains.values():
            for chain in chains.values():
                # Two transactions draw numbers of the log in another order than they commit.
                chain.sort(key=lambda entry: (entry.n, entry.op in "DX"))
                for older, newer in itertools.pairwise(chain):
                    self._before[newer.log] = older.log

    def events(self, look: Look, kinds: Set[str]) -> list[Event]:
        """What a subscriber to these kinds must be told, in an order that keeps each row's."""
        shown = self._shown[look]
        told: list[Event] = []
        for chain in self._chains[look.table].values():
            for entry in chain:
                kind = self._kind(entry, shown)
                if kind in kinds:
                    assert kind is not None
                    told.append(Event(kind, entry.xid, entry.log, entry.uid, entry.n, entry.row))
        if "TRUNCATE" in kinds:
            truncates = [line for line in self.entries if line.op == "T" and line.table == look.table]
            told += [
                Event("TRUNCATE", line.xid, line.log, None, number, {})
                for number, line in enumerate(truncates)
            ]
        return told

    def _kind(self, entry: Entry, shown: Set[int]) -> str | None:
        if entry.op == "X":
            return None
        if entry.log in shown:
            return _KINDS[entry.op]
        left = entry.op == "U" and self._before.get(entry.log) in shown
        return "LEAVE" if left else None

    def rows(self, look: Look, at: Snapshot | None = None) -> dict[str, Row]:
        """What the look sees of its table, by uid: at a snapshot, or at the end."""
        shown = self._shown[look]
        found: dict[str, Row] = {}
        for uid, chain in self._chains[look.table].items():
            ended = [entry for entry in chain if at is None or at.sees(entry.xid)]
            if ended and ended[-1].op not in "DX" and ended[-1].log in shown:
                found[uid] = ended[-1].row
        return found

    def faults(self) -> Sequence[str]:
        """What is wrong with the audit itself: then nothing that was checked against it counts."""
        wrong: list[str] = []
        for table, chains in self._chains.items():
            for uid, chain in chains.items():
                counters = [entry.n for entry in chain if entry.op in "IU"]
                if counters != list(range(len(counters))):
                    wrong.append(f"{table} {uid}: its counters are {counters}")
        return wrong
