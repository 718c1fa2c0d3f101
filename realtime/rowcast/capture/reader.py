"""The reader: every committed change once, by the difference between two snapshots.

Ids and xids are given before commit, so neither tells what is new. The reader keeps the snapshot of its last
read; the next read returns every row whose transaction that snapshot does not see. Three rules make it exact:

- A page is handed out only when the WAL is flushed up to where its snapshot was taken: after a crash,
  Postgres gives unflushed xids out again, and a snapshot kept over that would lose their new owners.
- Order is (maxseq, ord, seq), with maxseq over all rows of the transaction, before any filter.
- A read from snapshot A is good if and only if xmin(A) is above the highest xid that was trimmed.

The reader's place survives its connection: what was handed out is never read again, what was not always is.

Through a pooler of transactions each one may meet another backend, and Postgres may have crashed or have been
replaced in between, with the connection none the wiser. Each read is one transaction then, which asks for the
history first and waits for the flush, or makes it by its own commit.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple

import asyncpg

from rowcast.capture import outbox
from rowcast.model.position import EPOCH_BYTES, Order, Position, Snapshot

_FLUSH_SECONDS: Final = 30.0
_FLUSH_AFTER: Final = 0.005
_FLUSH_POLL: Final = 0.001
_WAL_BLOCK: Final = 8192
# The longer of the two page headers: an insert position within it has nothing before it left to flush.
_WAL_PAGE_HEADER: Final = 40
#: So many transactions of a batch are known at a time.
_LISTED: Final = 20_000
_BY_ORDER: Final = attrgetter("maxseq", "ord", "seq")


class HistoryLost(Exception):
    """What followed the reader's place is gone: trimmed (``retention``), or it is another ``history`` of the
    database that the place belongs to, which ``reason`` says."""

    def __init__(self, text: str, reason: str = "history") -> None:
        super().__init__(text)
        self.reason = reason


class Row(NamedTuple):
    """A row of the outbox, as it was read. ``maxseq`` and ``committed`` are the greatest of its transaction.

    A plain tuple, since one is made for every change, also for those that nobody hears.
    """

    xid: int
    maxseq: int
    ord: int
    seq: int
    relation: int
    op: str
    record: str | None
    old_record: str | None
    committed: datetime

    @property
    def order(self) -> Order:
        """Where the change stands in its batch."""
        return Order(self.maxseq, self.ord, self.seq)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows to hand out, in order, of the batch (``start``, ``end``]. ``changes`` counts all there were;
    ``upto`` is where the last of them stands."""

    start: Snapshot
    end: Snapshot
    rows: Sequence[Row]
    changes: int
    upto: Order


class Reader:
    """Reads the outbox of one database, wherever its connection is.

    ``size`` bounds the rows that are held at once, unless one transaction's page is cut at it too.
    """

    def __init__(self, size: int = 1_000) -> None:
        self._size = size
        self._place: Position | None = None
        self._began = ""
        self._pooled = False
        #: Whether the place is to follow each read at once, also where nothing is new: by a flush of our own.
        self.follow = False
        #: The snapshot of the last statement that read everything, handed out or not.
        self.seen: Snapshot | None = None

    @property
    def place(self) -> Position | None:
        """Up to where changes were handed out; None before the first ``open``."""
        return self._place

    async def open(self, connection: asyncpg.Connection, *, pooled: bool = False) -> None:
        """Begin at this moment, or go on from the place that was kept.

        ``pooled`` says that the connection's session is lent by the transaction.

        Raises HistoryLost, having begun anew, when the kept place belongs to another history of the database.
        """
        self._pooled = pooled
        if not pooled:
            await connection.execute(outbox.SET)
        kept, snapshot = self._place, None
        async with self._transaction(connection):
            epoch = await self._epoch(connection)
            if kept is None or kept.epoch != epoch:
                snapshot = await self._present(connection)
        if snapshot is not None:
            self._begin(epoch, snapshot)
            if kept is not None:
                raise HistoryLost("the database has another history than before")

    def go_to(self, place: Position) -> None:
        """Go on from another place. Raises HistoryLost where it belongs to another history."""
        assert self._place is not None, "open the reader first"
        if place.epoch != self._place.epoch:
            raise HistoryLost("the position is of another history of the database")
        self._place = place

    async def restart(self, connection: asyncpg.Connection) -> None:
        """Give up the place, and begin at this moment."""
        async with self._transaction(connection):
            epoch = await self._epoch(connection)
            snapshot = await self._present(connection)
        self._begin(epoch, snapshot)

    def _begin(self, epoch: bytes, snapshot: Snapshot) -> None:
        self.seen = snapshot
        self._place = Position(epoch, snapshot)

    async def _present(self, connection: asyncpg.Connection) -> Snapshot:
        snapshot = Snapshot.parse(await connection.fetchval(outbox.SNAPSHOT))
        # What the snapshot sees must not come undone in a crash.
        await connection.execute(outbox.FLUSH)
        return snapshot

    async def _epoch(self, connection: asyncpg.Connection) -> bytes:
        identity = str(await connection.fetchval(outbox.LENT if self._pooled else outbox.HISTORY))
        self._began = identity.partition(":")[0]
        return hashlib.blake2b(identity.encode(), digest_size=EPOCH_BYTES).digest()

    def _transaction(self, connection: asyncpg.Connection) -> contextlib.AbstractAsyncContextManager[None]:
        return connection.transaction() if self._pooled else contextlib.nullcontext()

    @contextlib.asynccontextmanager
    async def _steady(self, connection: asyncpg.Connection) -> AsyncIterator[None]:
        """One backend answers, and it has the history that the place belongs to: by itself on a session of
        our own, by a transaction where it is lent."""
        async with self._transaction(connection):
            assert self._place is not None
            if self._pooled and await self._epoch(connection) != self._place.epoch:
                raise ConnectionResetError("the pooler leads to another history of the database")
            yield

    async def read(
        self, connection: asyncpg.Connection, unheard: Collection[int] = ()
    ) -> AsyncGenerator[Page, None]:
        """Pages of what is new, in order. A page counts as handed out when the next one is asked for.

        Rows of the relations ``unheard`` may be left out: nobody wants them, so they need not be sent here.
        """
        assert self._place is not None, "open the reader first"
        if self._place.end is None:
            first = await self._live(connection, unheard)
            if first is not None:
                yield first
                self._place = Position(self._place.epoch, first.end)
                return
        async for page in self._rest(connection, unheard):
            yield page

    async def read_to(
        self, connection: asyncpg.Connection, end: Snapshot, unheard: Collection[int] = ()
    ) -> AsyncGenerator[Page, None]:
        """Pages of what there is up to a snapshot that covers the reader's place, and is flushed."""
        async for page in self._rest(connection, unheard):
            yield page
        assert self._place is not None
        if self._place.start != end:
            self._place = Position(self._place.epoch, self._place.start, end, Order(0, 0, 0))
            async for page in self._rest(connection, unheard):
                yield page

    async def _rest(
        self, connection: asyncpg.Connection, unheard: Collection[int]
    ) -> AsyncGenerator[Page, None]:
        """Pages of what is left of a batch that was begun, if one was."""
        assert self._place is not None
        start, end = self._place.start, self._place.end
        if end is None:
            return
        async for page in self._paged(connection, start, end, unheard):
            yield page
            self._place = replace(self._place, order=page.upto)
        self._place = Position(self._place.epoch, end)

    def handed_out(self, page: Page, order: Order) -> None:
        """A page was handed out only up to here: the next read goes on after it."""
        assert self._place is not None
        self._place = Position(self._place.epoch, page.start, page.end, order)

    async def _live(self, connection: asyncpg.Connection, unheard: Collection[int]) -> Page | None:
        """The new rows in one page; None when there are none, or too many, which ``place`` then says."""
        assert self._place is not None
        start, follow = self._place.start, self.follow
        async with self._steady(connection):
            found = await connection.fetch(outbox.LIVE, *_beyond(start), self._size + 1, list(unheard))
            head = found[0]
            _check(start, head["trimmed"])
            if head["epoch"] != self._began:
                raise HistoryLost("capture stopped, and began anew")
            end = Snapshot.parse(head["snap"])
            wal = _flush_target(head["wal"])
            changes = head["changes"]
            if changes or follow:
                await self._flushed(connection, wal, head["flushed"])
        if not changes:
            if follow or head["flushed"] >= wal:
                self._place = Position(self._place.epoch, end)
            self.seen = end
            return None
        if changes > self._size:
            self._place = Position(self._place.epoch, start, end, Order(0, 0, 0))
            return None
        self.seen = end
        rows = [_row(record) for record in found if record["xid"] is not None]
        return Page(start, end, rows, changes, rows[-1].order if rows else Order(0, 0, 0))

    async def _paged(
        self, connection: asyncpg.Connection, start: Snapshot, end: Snapshot, unheard: Collection[int]
    ) -> AsyncGenerator[Page, None]:
        """What is left of a large batch, by the transactions in it: so many of them at a time."""
        assert self._place is not None
        assert self._place.order is not None
        after = self._place.order
        while True:
            listed = await self._fetch(
                connection,
                start,
                outbox.TRANSACTIONS,
                *_beyond(start),
                str(end),
                after.maxseq,
                _LISTED,
            )
            async for page in self._listed(connection, start, end, listed, after, unheard):
                yield page
            if len(listed) < _LISTED:
                break
            after = _end_of(listed[-1])
        self.seen = end

    async def _listed(
        self,
        connection: asyncpg.Connection,
        start: Snapshot,
        end: Snapshot,
        transactions: Iterable[asyncpg.Record],
        after: Order,
        unheard: Collection[int],
    ) -> AsyncGenerator[Page, None]:
        """Whole small transactions together, a large one by parts."""
        group: list[asyncpg.Record] = []
        held = 0
        for transaction in transactions:
            if transaction["maxseq"] == after.maxseq or transaction["changes"] > self._size:
                if group:
                    yield await self._whole(connection, start, end, group, unheard)
                    group, held = [], 0
                begin = after if transaction["maxseq"] == after.maxseq else Order(0, 0, 0)
                async for page in self._parts(connection, start, end, transaction, begin, unheard):
                    yield page
                continue
            if held + transaction["changes"] > self._size and group:
                yield await self._whole(connection, start, end, group, unheard)
                group, held = [], 0
            group.append(transaction)
            held += transaction["changes"]
        if group:
            yield await self._whole(connection, start, end, group, unheard)

    async def _whole(
        self,
        connection: asyncpg.Connection,
        start: Snapshot,
        end: Snapshot,
        group: Sequence[asyncpg.Record],
        unheard: Collection[int],
    ) -> Page:
        of = {record["xid"]: record for record in group}
        found = await self._fetch(connection, start, outbox.WHOLE, [str(xid) for xid in of], list(unheard))
        rows = [_row(record, of[record["xid"]]) for record in found]
        changes = sum(record["changes"] for record in group)
        return Page(start, end, sorted(rows, key=_BY_ORDER), changes, _end_of(group[-1]))

    async def _parts(
        self,
        connection: asyncpg.Connection,
        start: Snapshot,
        end: Snapshot,
        of: asyncpg.Record,
        after: Order,
        unheard: Collection[int],
    ) -> AsyncGenerator[Page, None]:
        while True:
            found = await self._fetch(
                connection,
                start,
                outbox.PART,
                str(of["xid"]),
                after.ord,
                after.seq,
                self._size,
                list(unheard),
            )
            if not found:
                return
            rows = [_row(record, of) for record in found]
            yield Page(start, end, rows, len(rows), rows[-1].order)
            after = rows[-1].order
            if len(rows) < self._size:
                return

    async def _fetch(
        self, connection: asyncpg.Connection, start: Snapshot, sql: str, *arguments: Any
    ) -> list[asyncpg.Record]:
        async with self._steady(connection):
            found = await connection.fetch(sql, *arguments)
        _check(start, found[0]["trimmed"])
        return [record for record in found if record["xid"] is not None]

    async def _flushed(self, connection: asyncpg.Connection, wal: int, flushed: int) -> None:
        """Wait until the WAL is flushed up to ``wal``, and flush it when nobody else does."""
        async with asyncio.timeout(_FLUSH_SECONDS):
            loop = asyncio.get_running_loop()
            deadline = loop.time() + _FLUSH_AFTER
            while flushed < wal:
                if loop.time() >= deadline:
                    await connection.execute(outbox.FLUSH)
                    if self._pooled:
                        return  # by the commit, on the backend that was read from
                else:
                    await asyncio.sleep(_FLUSH_POLL)
                flushed = await connection.fetchval(outbox.FLUSHED)


def _beyond(start: Snapshot) -> tuple[str, list[str]]:
    return str(start.xmax), [str(xid) for xid in start.xip]


def _check(start: Snapshot, trimmed: int) -> None:
    if start.xmin <= trimmed:
        raise HistoryLost("changes were trimmed before they were read", "retention")


def _end_of(transaction: asyncpg.Record) -> Order:
    """Where a transaction ends: none of its numbers is above this."""
    return Order(transaction["maxseq"], transaction["maxseq"], transaction["maxseq"])


def _flush_target(wal: int) -> int:
    within = wal % _WAL_BLOCK
    return wal - within if within <= _WAL_PAGE_HEADER else wal


def _row(record: asyncpg.Record, transaction: asyncpg.Record | None = None) -> Row:
    of = transaction or record
    return Row(
        record["xid"],
        of["maxseq"],
        record["ord"],
        record["seq"],
        record["relation"],
        record["op"],
        record["record"],
        record["old_record"],
        of["committed"],
    )
