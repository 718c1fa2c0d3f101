"""What keeps the outbox small: the lease of capture, marks, and the rotation of its tables. And what has
``realtime.messages`` have a partition for each day.

Only a node that owns the flag does this, or one that cannot own it, behind a pooler of transactions: so each
step is a transaction that no other node has one beside. Nothing is ever deleted row by row: a table is
truncated when all its writers had ended a retention ago, under a lock timeout of 5 ms, since a TRUNCATE that
waits stalls readers.
"""

import statistics
import time
from collections import deque
from datetime import timedelta
from typing import Any, Final

import asyncpg
import structlog

from rowcast.db.connection import ADVISORY_KEEPER, LOST

_LOCK_TIMEOUT: Final = "5ms"
_MARK_EVERY: Final = 1.0
_LEASE_EVERY: Final = 60.0
_COMMITS: Final = 15
_MESSAGES_EVERY: Final = 600.0
_MESSAGES_AGE: Final = timedelta(hours=72)
_STOP_AT: Final = 2

# One statement: what may be trimmed is looked up, and no other node trims it in between.
_TRIM: Final = """select t.outbox from rowcast.trimmable($1) as t (outbox), rowcast.trim(t.outbox)
where t.outbox is not null"""
_WAITS: Final = """select exists (
  select from rowcast.rotation as r, rowcast.current_outbox as c where r.outbox <> c.last_value)"""
_STOPPED: Final = "select last_value <= extract(epoch from clock_timestamp()) from rowcast.lease_until"


log = structlog.get_logger("rowcast.retention")


class Retention:
    """Keeps marks, rotates and trims. Durations in seconds, ``size`` in bytes.

    At ``size`` changes are trimmed before their age; at twice ``size`` triggers stop capturing.

    An ``unlogged`` outbox costs writers less, and a crash of Postgres ends its history.
    """

    def __init__(self, *, age: float, size: int, lease: float, unlogged: bool = False) -> None:
        self._age, self._size, self._lease = age, size, lease
        self._unlogged = unlogged
        self._kept = False
        self._commits: deque[float] = deque(maxlen=_COMMITS)
        self._marked = -_MARK_EVERY
        self._leased = -_LEASE_EVERY
        self._unmarked = True
        self._looked = -_MESSAGES_EVERY
        self._fault = ""

    @property
    def commit_seconds(self) -> float | None:
        """The median time of a commit that is flushed, by the marks; None before the first."""
        return statistics.median(self._commits) if self._commits else None

    def changed(self) -> None:
        """Something was read since the last mark."""
        self._unmarked = True

    async def renew(self, connection: asyncpg.Connection) -> bool:
        """Renew the lease, unless the outbox is full. Returns whether it had run out, and a new epoch
        begins."""
        self._leased = time.monotonic()
        # Triggers stop capturing at that size: nobody trims while no server runs.
        await connection.execute("select rowcast.bound_outbox($1)", _STOP_AT * self._size)
        return bool(await connection.fetchval("select rowcast.renew_lease($1)", int(self._lease)))

    async def tend(self, connection: asyncpg.Connection) -> int | None:
        """Do what is due. Returns the table that was trimmed, if one was."""
        now = time.monotonic()
        if now - self._leased >= min(_LEASE_EVERY, self._lease / 4) or await connection.fetchval(_STOPPED):
            await self.renew(connection)
        if not self._kept:
            self._kept = bool(await self._alone(connection, "select rowcast.keep_outbox($1)", self._unlogged))
        if now - self._looked >= _MESSAGES_EVERY:
            self._looked = now
            await self._keep_messages(connection)
        full = await connection.fetchval("select rowcast.outbox_size()") > self._size
        turned = await self._alone(
            connection, "select rowcast.turn_outbox($1, $2)", timedelta(seconds=self._age / 2), full
        )
        if turned is not None:
            self._unmarked = True
        waits = await connection.fetchval(_WAITS)
        if waits:
            # Also where a server died between the switch and drawing the xid: a later one is as good.
            await self._alone(connection, "select rowcast.left_outbox()")
        if (self._unmarked or waits) and now - self._marked >= _MARK_EVERY:
            await self._mark(connection, now)
        return await self._trim(connection, None if full else timedelta(seconds=self._age)) if waits else None

    async def _keep_messages(self, connection: asyncpg.Connection) -> None:
        """Policies of private channels are asked by a row of today's: there must be a place for it."""
        try:
            if await self._alone(connection, "select rowcast.keep_messages($1)", _MESSAGES_AGE) is None:
                self._looked = -_MESSAGES_EVERY
        except asyncpg.PostgresError as error:
            if isinstance(error, LOST):
                raise
            # Its owner has parts of it in another way: that is for them to keep.
            if self._fault != str(error):
                self._fault = str(error)
                log.warning("messages_not_kept", table="realtime.messages", reason=self._fault)

    async def _mark(self, connection: asyncpg.Connection, now: float) -> None:
        self._marked, self._unmarked = now, False
        await connection.execute("select rowcast.mark()")
        self._commits.append(time.monotonic() - now)

    async def _trim(self, connection: asyncpg.Connection, age: timedelta | None) -> int | None:
        outbox: int | None = await self._alone(connection, _TRIM, age)
        if outbox is not None:
            # What the trimmed changes referred to may be forgotten now.
            await self._alone(connection, "select rowcast.prune_relations()")
        return outbox

    async def _alone(self, connection: asyncpg.Connection, statement: str, *arguments: object) -> Any:
        """Run a step; None where another node is at one, or where a lock that it takes is not had at once."""
        try:
            async with connection.transaction():
                if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", ADVISORY_KEEPER):
                    return None
                await connection.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'")
                return await connection.fetchval(statement, *arguments)
        except asyncpg.LockNotAvailableError:
            return None
