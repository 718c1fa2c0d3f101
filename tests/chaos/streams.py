"""What one channel was sent, as it came: kept by the clients, looked at by the checker.

A stretch is what came without a gap: from a subscription, a gap or a snapshot to the next of them.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from chaos.schema import COLUMNS, KEYS, SAID, Subject
from chaos.truth import Look
from rowcast.model.position import Position, PositionError

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of ``postgres_changes``, or messages, where ``table`` is SAID.

    ``columns`` are those it selects; ``snapshot`` its rows a batch.
    """

    table: str
    event: str = "*"
    filter: str | None = None
    condition: str = "true"
    columns: tuple[str, ...] = COLUMNS
    snapshot: int | None = None
    leave: bool = False
    truncate: bool = False

    @property
    def kinds(self) -> frozenset[str]:
        """The types of changes that it hears."""
        heard = {"INSERT", "UPDATE", "DELETE"} if self.event == "*" else {self.event}
        heard |= {"LEAVE"} if self.leave and "UPDATE" in heard else set()
        return frozenset(heard | ({"TRUNCATE"} if self.truncate and self.event == "*" else set()))

    @property
    def copies(self) -> bool:
        """Whether it is enough to keep a copy of what it looks at."""
        return self.snapshot is not None and self.kinds >= {"INSERT", "UPDATE", "DELETE", "LEAVE", "TRUNCATE"}

    def look(self, subject: Subject) -> Look:
        return Look(self.table, subject, self.condition)

    def wire(self) -> dict[str, Any]:
        """The entry as a join has it."""
        said: dict[str, Any] = {"event": self.event, "schema": "public", "table": self.table}
        said |= {"filter": self.filter} if self.filter else {}
        said |= {"select": list(self.columns)} if self.columns != COLUMNS else {}
        said |= {"snapshot": {"batch": self.snapshot}} if self.snapshot else {}
        said |= {"leave": True} if self.leave else {}
        return said | ({"truncate": True} if self.truncate else {})


@dataclass(frozen=True, slots=True)
class Profile:
    """What a channel asks for. ``token`` is how long its tokens live, in seconds."""

    subject: Subject
    entries: tuple[Entry, ...]
    group: bool = False
    token: float = 3600.0

    @property
    def messages(self) -> int | None:
        """The number of the entry that stands for messages, if it hears them: the last."""
        return next((n for n, entry in enumerate(self.entries) if entry.table == SAID), None)

    @property
    def topic(self) -> str | None:
        """The topic's name, where it matters."""
        return None if self.messages is None else SAID

    def wire(self) -> list[dict[str, Any]]:
        """The ``postgres_changes`` of its join."""
        return [entry.wire() for entry in self.entries if entry.table != SAID]

    @property
    def snapshots(self) -> int:
        return sum(entry.snapshot is not None for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Heard:
    """One change of a message. ``message`` counts the messages of the channel; ``whole`` is a group's end.

    ``at`` is when it came, in seconds of the monotonic clock; ``commit`` None for what does not tell.
    """

    kind: str
    table: str
    entries: tuple[int, ...]
    record: Row
    old: Row
    seq: int
    commit: str | None
    message: int
    position: str
    whole: bool = True
    at: float = 0.0

    @property
    def uid(self) -> str | None:
        """The row's ``uid``; None for TRUNCATE."""
        value = (self.record or self.old).get("uid")
        return None if value is None else str(value)

    @property
    def n(self) -> int | None:
        """The row's counter after the change; of a DELETE or LEAVE only where the old image is whole."""
        value = (self.record or self.old).get("n")
        return None if value is None else int(value) + (self.kind == "LEAVE")


@dataclass(slots=True)
class Stretch:
    """``start`` is None until it is known; ``rows`` are a snapshot's, by entry; ``beats`` the positions of
    heartbeats, with how much had been heard by then. ``ended_at`` is the position that a gap left behind,
    ``resumed_at`` how much had been heard at the first resume."""

    start: str | None = None
    rows: dict[int, list[Row]] = field(default_factory=lambda: defaultdict(list))
    heard: list[Heard] = field(default_factory=list)
    beats: list[tuple[int, str]] = field(default_factory=list)
    resumes: int = 0
    resumed_at: int | None = None
    ended_at: str | None = None
    gap: str | None = None

    @property
    def positions(self) -> Sequence[str]:
        """Every position that it was told."""
        told = [self.start, *(change.position for change in self.heard), *(text for _, text in self.beats)]
        return [text for text in told if text is not None]


@dataclass(slots=True)
class Stream:
    """All that a channel was sent, and what the client itself found wrong with it.

    ``heard_since`` and ``heard_until`` say when it was subscribed and when not, by the monotonic clock;
    ``told`` is what it was told but changes, and how many of those it had by then.
    """

    name: str
    profile: Profile
    stretches: list[Stretch] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    caught_up: bool = False
    heard_since: list[float] = field(default_factory=list)
    heard_until: list[float] = field(default_factory=list)
    told: list[tuple[float, str]] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Keep what it was told, for whoever looks for a cause."""
        heard = sum(len(stretch.heard) for stretch in self.stretches)
        self.told.append((time.monotonic(), f"after {heard} changes: {what}"))

    @property
    def open(self) -> Stretch:
        """The stretch that goes on."""
        if not self.stretches:
            self.stretches.append(Stretch())
        return self.stretches[-1]


def copy_of(stretch: Stretch, number: int, entry: Entry) -> dict[tuple[Any, ...], Row]:
    """The entry's rows by their key, as who applies what came has them."""
    keys = KEYS[entry.table]

    def key(row: Row) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in keys)

    copy = {key(row): row for row in stretch.rows[number]}
    for change in stretch.heard:
        if number not in change.entries:
            continue
        if change.kind == "TRUNCATE":
            copy.clear()
            continue
        if change.old:
            copy.pop(key(change.old), None)
        if change.record:
            copy[key(change.record)] = change.record
    return copy


@lru_cache(maxsize=4096)
def decode(text: str | None) -> Position | None:
    """The position, or None for a text that is none."""
    try:
        return None if text is None else Position.decode(text)
    except PositionError:
        return None
