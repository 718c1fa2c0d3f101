"""Rows: the rows of a table that a role can see and a filter lets through, kept as they change.

A snapshot fills it, changes keep it, and after a gap another snapshot takes its place in one step: who reads
never meets a state between two. What changed is told to those who iterate, one pending change for each key at
most, so that a slow reader costs no more memory than the table.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from .change import Change
from .errors import ClientClosed, RowcastError, RowsError, TimedOut, UsageError
from .snapshot import Snapshot
from .states import ChannelState
from .waiters import Waiters

if TYPE_CHECKING:
    from .channel import Channel

Row = dict[str, Any]

_NO_KEY = "give the table a primary key that the role may read, or name the columns with key="


@dataclass(frozen=True, slots=True)
class RowChange:
    """A row that appeared (``old`` is None), changed, or went (``new`` is None)."""

    key: Any
    old: Row | None
    new: Row | None


class RowChanges(AsyncIterator[RowChange]):
    """The changes since it was made. Several of one key that nobody has taken yet become one."""

    def __init__(self) -> None:
        self._pending: dict[Hashable, RowChange] = {}
        self._changed = asyncio.Event()
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RowChange:
        while not self._pending:
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._pending.pop(next(iter(self._pending)))

    def _add(self, change: RowChange) -> None:
        earlier = self._pending.pop(change.key, None)
        old = change.old if earlier is None else earlier.old
        if old != change.new:
            self._pending[change.key] = RowChange(change.key, old, change.new)
        self._changed.set()

    def _end(self) -> None:
        self._ended = True
        self._changed.set()


class Rows(Mapping[Any, Row]):
    """Rows by key: the value of the key's column, or a tuple of its columns' values in the key's order.

    Made by ``channel.rows(table)``. It is what the server has told so far; while there is no connection it
    stays as it was. The dicts in it are its own: copy one before changing it.
    """

    def __init__(self, channel: "Channel", schema: str, table: str, key: Sequence[str] | None) -> None:
        self.schema = schema
        self.table = table
        self.key: tuple[str, ...] = tuple(key or ())
        """The columns of the key; as the server names them, once a snapshot came."""
        self._named = key is not None
        self._channel = channel
        self._rows: dict[Any, Row] = {}
        self._next: dict[Any, Row] = {}
        self._complete = self._over = False
        self._fault: RowcastError | None = None
        self._waiters = Waiters()
        self._iterators: weakref.WeakSet[RowChanges] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<Rows of {self.schema}.{self.table}, {len(self._rows)}>"

    def __getitem__(self, key: Any) -> Row:
        return self._rows[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __aiter__(self) -> RowChanges:
        """What changes from now on. It ends when the channel is unsubscribed or the client closed."""
        changes = RowChanges()
        if self._over and self._channel.state is ChannelState.CLOSED:
            changes._end()
        self._iterators.add(changes)
        return changes

    async def ready(self, *, timeout: float | None = 30.0) -> Self:
        """Wait until the first snapshot is whole. Not for a callback of the same channel: it would wait for
        itself.

        Raises what the server refuses the channel or the snapshot with (it is tried again all the same),
        RowsError where rows cannot be kept, ClientClosed, or TimedOut after so many seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self._complete or self._fault is not None:
                    if self._fault is not None:
                        raise self._fault
                    if self._channel.state is ChannelState.CLOSED:
                        name = self._channel.name
                        raise UsageError(f"channel {name!r} is not subscribed", hint="call subscribe() first")
                    await self._waiters.next()
        except TimeoutError:
            raise TimedOut(f"the rows of {self.schema}.{self.table} were not there in time") from None
        return self

    def _batch(self, snapshot: Snapshot) -> None:
        if snapshot.first:
            self._next, self._fault = {}, None
        if self._fault is not None:
            return
        if not self._named and snapshot.key:
            self.key = snapshot.key
        if not self.key:
            self._break("the server names no key for the rows", _NO_KEY)
            return
        self._check_whole(snapshot.errors)
        for row in snapshot.rows:
            if (key := self._key_of(row)) is None:
                self._break("a row came without all columns of the key", _NO_KEY)
                return
            self._next[key] = row
        if snapshot.last:
            self._swap()

    def _swap(self) -> None:
        before, self._rows, self._next = self._rows, self._next, {}
        self._complete = True
        for key in before.keys() - self._rows.keys():
            self._tell(key, before[key], None)
        for key, row in self._rows.items():
            if (old := before.get(key)) != row:
                self._tell(key, old, row)
        self._waiters.release()

    def _change(self, change: Change) -> None:
        if self._fault is not None or not self._complete:
            return
        if change.eventType == "TRUNCATE":
            for key, row in self._rows.items():
                self._tell(key, row, None)
            self._rows = {}
            return
        old, new = self._key_of(change.old), self._key_of(change.new)
        if change.eventType in ("DELETE", "LEAVE") and old is None:
            self._break("a row went, and its key was not told", "its replica identity must hold the key")
            return
        self._check_whole(change.errors)
        if change.eventType in ("DELETE", "LEAVE") or (new is not None and old not in (None, new)):
            self._put(old, None)
        if new is not None:
            self._put(new, change.new)

    def _put(self, key: Any, row: Row | None) -> None:
        old = self._rows.pop(key, None) if row is None else self._rows.get(key)
        if row is not None:
            self._rows[key] = row
        if old != row:
            self._tell(key, old, row)

    def _key_of(self, row: Row) -> Any:
        try:
            values = tuple(_frozen(row[name]) for name in self.key)
        except KeyError:
            return None
        return values[0] if len(values) == 1 else values

    def _tell(self, key: Any, old: Row | None, new: Row | None) -> None:
        for iterator in self._iterators:
            iterator._add(RowChange(key, old, new))

    def _check_whole(self, errors: list[str] | None) -> None:
        if errors:
            why = f"a row of {self.schema}.{self.table} is not whole: {', '.join(map(str, errors))}"
            self._channel._client._report(RowsError(why))

    def _break(self, why: str, hint: str) -> None:
        error = RowsError(f"the rows of {self.schema}.{self.table} cannot be kept: {why}", hint=hint)
        self._fault = error
        self._channel._client._report(error)
        self._refuse(error)

    def _refuse(self, error: RowcastError) -> None:
        self._waiters.refuse(error)

    def _closed(self) -> None:
        self._over = True
        for iterator in self._iterators:
            iterator._end()
        self._waiters.refuse(ClientClosed(f"channel {self._channel.name!r} was closed"))


def _frozen(value: Any) -> Hashable:
    """A value as a part of a key."""
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple(sorted((name, _frozen(part)) for name, part in value.items()))
    return value  # type: ignore[no-any-return]
