"""Listeners: what a channel was asked to listen to, and whom to call with what came."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ._core.presence import Roster
from ._core.wants import Batch, Deliver, Hear, Item, Miss, Part, Present, System
from .broadcast import read_broadcast
from .callbacks import (
    BroadcastCallback,
    ChangeCallback,
    GapCallback,
    PresenceCallback,
    SnapshotCallback,
    SystemCallback,
    TransactionCallback,
)
from .change import Change, read_change
from .errors import UsageError
from .snapshot import read_snapshot
from .transaction import Transaction
from .values import convert

Call = tuple[Callable[..., object], object]


@dataclass(frozen=True, slots=True)
class _Change:
    binding: int
    callback: ChangeCallback


@dataclass(frozen=True, slots=True)
class _Snapshot:
    binding: int
    callback: SnapshotCallback


@dataclass(frozen=True, slots=True)
class _Transaction:
    bindings: frozenset[int] | None
    callback: TransactionCallback


class Listeners:
    """One channel's bindings, each once, and the callbacks for them."""

    def __init__(self) -> None:
        self.bindings: list[dict[str, Any]] = []
        self.gaps: list[GapCallback] = []
        self.system: list[SystemCallback] = []
        #: With the event that each is for, None for all.
        self.broadcasts: list[tuple[str | None, BroadcastCallback]] = []
        self.presences: list[tuple[str | None, PresenceCallback]] = []
        self.roster = Roster()
        self._changes: list[_Change] = []
        self._snapshots: list[_Snapshot] = []
        self._transactions: list[_Transaction] = []
        self._parted = False

    @property
    def group(self) -> bool:
        """Whether somebody listens to whole transactions."""
        return bool(self._transactions)

    @property
    def broadcast(self) -> bool:
        """Whether somebody listens to broadcasts."""
        return bool(self.broadcasts)

    @property
    def presence(self) -> bool:
        """Whether somebody listens to presence."""
        return bool(self.presences)

    def change(
        self, binding: dict[str, Any], callback: ChangeCallback, on_snapshot: SnapshotCallback | None
    ) -> None:
        """Call for changes of this binding, and for the batches of its snapshot."""
        index = self._index(binding)
        self._changes.append(_Change(index, callback))
        if on_snapshot is not None:
            self._snapshots.append(_Snapshot(index, on_snapshot))

    def transaction(self, bindings: Sequence[dict[str, Any]] | None, callback: TransactionCallback) -> None:
        """Call for transactions with changes of these bindings, or of any."""
        indices = None if bindings is None else frozenset(map(self._index, bindings))
        self._transactions.append(_Transaction(indices, callback))

    def calls(self, item: Item) -> list[Call]:
        """Whom to call with what, in order. Raises ProtocolError for what cannot be read."""
        return list(self._calls(item))

    def _calls(self, item: Item) -> Iterator[Call]:
        match item:
            case Deliver(_, bindings, data):
                yield from self._of(read_change(data), bindings)
            case Part():
                yield from self._of_part(item)
            case Batch(_, bindings, data, first):
                snapshot = read_snapshot(data, first)
                for to in self._snapshots:
                    if to.binding in bindings:
                        yield to.callback, snapshot
            case Miss(_, gap):
                self._parted = False
                for callback in self.gaps:
                    yield callback, gap
            case System(_, payload):
                for heard in self.system:
                    yield heard, payload
            case Hear():
                broadcast = read_broadcast(item)
                for of, hears in self.broadcasts:
                    if of in (None, broadcast.event):
                        yield hears, broadcast
            case Present():
                for event in self.roster.told(item):
                    for kind, sees in self.presences:
                        if kind in (None, event.event):
                            yield sees, event

    def _of(self, change: Change, bindings: Sequence[int]) -> Iterator[Call]:
        for listener in self._changes:
            if listener.binding in bindings:
                yield listener.callback, change

    def _of_part(self, part: Part) -> Iterator[Call]:
        changes = [(bindings, read_change(data)) for bindings, data in part.changes]
        for bindings, change in changes:
            yield from self._of(change, bindings)
        stamp = convert(part.commit_timestamp, "timestamptz")
        stamp = stamp if isinstance(stamp, datetime) else None
        # Who was given a part is given the last one, too, also where it holds nothing more for it.
        ends, self._parted = part.last and self._parted, not part.last
        for to in self._transactions:
            mine = tuple(
                change
                for bindings, change in changes
                if bindings and (to.bindings is None or not to.bindings.isdisjoint(bindings))
            )
            if mine or ends:
                yield to.callback, Transaction(mine, stamp, part.position, part.last)

    def _index(self, binding: dict[str, Any]) -> int:
        if binding in self.bindings:
            return self.bindings.index(binding)
        if "snapshot" in binding and any(
            "snapshot" in other and _apart(other) == _apart(binding) for other in self.bindings
        ):
            raise UsageError(
                "two entries of a channel differ in their snapshots only", hint="use a channel for each"
            )
        self.bindings.append(binding)
        return len(self.bindings) - 1


def _apart(binding: dict[str, Any]) -> dict[str, Any]:
    """What the server tells bindings apart by."""
    return {key: value for key, value in binding.items() if key != "snapshot"}
