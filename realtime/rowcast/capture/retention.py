"""What keeps the outbox small: the lease of capture, marks, and the rotation of its tables.

Only the node that owns the flag does this. Nothing is ever deleted row by row: a table is truncated when all
its writers had ended a retention ago, under a lock timeout of 5 ms, since a TRUNCATE that waits stalls
readers.
"""

import statistics
import time
from collections import deque
from datetime import timedelta
from typing import Final

import asyncpg

_LOCK_TIMEOUT: Final = "5ms"
_MARK_EVERY: Final = 1.0
_LEASE_EVERY: Final = 60.0
_COMMITS: Final = 15

_WAITS: Final = """select exists (
  select from rowcast.rotation as r, rowcast.current_outbox as c where r.outbox <> c.last_value)"""


class Retention:
    """Keeps marks, rotates and trims. Durations in seconds, ``size`` in bytes.

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

    @property
    def commit_seconds(self) -> float | None:
        """The median time of a commit that is flushed, by the marks; None before the first."""
        return statistics.median(self._commits) if self._commits else None

    def changed(self) -> None:
        """Something was read since the last mark."""
        self._unmarked = True

    async def renew(self, connection: asyncpg.Connection) -> bool:
        """Renew the lease. Returns whether it had run out, and a new epoch begins."""
        self._leased = time.monotonic()
        return bool(await connection.fetchval("select rowcast.renew_lease($1)", int(self._lease)))

    async def tend(self, connection: asyncpg.Connection) -> int | None:
        """Do what is due. Returns the table that was trimmed, if one was."""
        now = time.monotonic()
        if now - self._leased >= min(_LEASE_EVERY, self._lease / 4):
            await self.renew(connection)
        if not self._kept:
            self._kept = await self._briefly(connection, "select rowcast.keep_outbox($1)", self._unlogged)
        full = await connection.fetchval("select rowcast.outbox_size()") > self._size
        turned = await connection.fetchval(
            "select rowcast.turn_outbox($1, $2)", timedelta(seconds=self._age / 2), full
        )
        if turned is not None:
            self._unmarked = True
        waits = await connection.fetchval(_WAITS)
        if waits:
            # Also where a server died between the switch and drawing the xid: a later one is as good.
            await connection.execute("select rowcast.left_outbox()")
        if (self._unmarked or waits) and now - self._marked >= _MARK_EVERY:
            await self._mark(connection, now)
        return await self._trim(connection, None if full else timedelta(seconds=self._age)) if waits else None

    async def _mark(self, connection: asyncpg.Connection, now: float) -> None:
        self._marked, self._unmarked = now, False
        await connection.execute("select rowcast.mark()")
        self._commits.append(time.monotonic() - now)

    async def _trim(self, connection: asyncpg.Connection, age: timedelta | None) -> int | None:
        outbox: int | None = await connection.fetchval("select rowcast.trimmable($1)", age)
        if outbox is None:
            return None
        if not await self._briefly(connection, "select rowcast.trim($1) is not null", outbox):
            return None
        # What the trimmed changes referred to may be forgotten now.
        await connection.execute("select rowcast.prune_relations()")
        return outbox

    async def _briefly(self, connection: asyncpg.Connection, statement: str, argument: object) -> bool:
        """Run what takes a lock; False where the lock is not had at once."""
        try:
            async with connection.transaction():
                await connection.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'")
                return bool(await connection.fetchval(statement, argument))
        except asyncpg.LockNotAvailableError:
            return False
