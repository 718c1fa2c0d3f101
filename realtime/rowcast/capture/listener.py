"""The session that listens, and that holds the flag's lock when this node owns it.

NOTIFY only wakes; it carries no data. The session is never in a transaction for longer than a statement, and
it is asked something every second, so that a dead TCP connection is noticed. The flag is set on this session
alone: while a statement runs on it, the lock is held. Behind a pooler of transactions there is no such
session: nothing is heard, no flag is ever raised, and the reader polls.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import asyncpg

from rowcast.capture.waker import LEASE_SECONDS, RENEW_SECONDS, WINDOW, Mode, Waker
from rowcast.db.connection import ADVISORY_NODE, ADVISORY_WAKER, connect

CHANNEL: Final = "rowcast"
#: Payloads: a writer's wake-up is empty, an owner's wake-up of other nodes, and news of the catalog.
FROM_NODE: Final = "node"
CATALOG: Final = "catalog"

# Its statements are all short.
_STATEMENT_SECONDS: Final = 10.0
_TICK: Final = 0.25
_COALESCE: Final = 0.005
_CALM_TICK: Final = 1.0

_RAISE = f"""select setval('rowcast.asleep_until',
  (extract(epoch from clock_timestamp()) + {LEASE_SECONDS})::bigint)"""
_RENEW = f"""select f.last_value > extract(epoch from clock_timestamp()) as held,
  setval('rowcast.asleep_until',
  (extract(epoch from clock_timestamp()) + {LEASE_SECONDS})::bigint) from rowcast.asleep_until as f"""
_LOWER = "select setval('rowcast.asleep_until', 0)"
_DRAW = "select pg_current_xact_id()::text::bigint"
_ASLEEP = "select last_value > extract(epoch from clock_timestamp()) from rowcast.asleep_until"
_NODES = """select count(distinct pid) from pg_locks where locktype = 'advisory' and mode = 'ShareLock'
  and database = (select oid from pg_database where datname = current_database())
  and classid = ($1::bigint >> 32)::oid and objid = ($1::bigint & 4294967295)::oid and objsubid = 1"""


class Listener:
    """Runs the waker's rules against the database. ``wake`` is set when there may be something to read."""

    def __init__(
        self,
        dsn: str,
        waker: Waker,
        wake: asyncio.Event,
        on_catalog: Callable[[], None],
        on_ready: Callable[[], None],
        patience: float,
    ) -> None:
        self._dsn = dsn
        self._patience = min(patience, _STATEMENT_SECONDS)
        self._waker = waker
        self._wake = wake
        self._on_catalog = on_catalog
        self._on_ready = on_ready
        self._changed = asyncio.Event()
        self._others = False
        self._tell_others = False

    def read(self, changes: int, xmin: int) -> None:
        """The reader read; called after every read."""
        now = time.monotonic()
        self._waker.read(changes, xmin, now)
        if changes and self._others and self._waker.mode in (Mode.AWAKE, Mode.FALLING):
            self._tell_others = True
            self._changed.set()
        elif self._waker.mode is Mode.ASLEEP and changes:
            self._changed.set()

    async def run(self) -> None:
        """Listen until the connection is lost; raises then. Call again to go on."""
        connection = await connect(self._dsn, purpose="listener", patience=self._patience)
        try:
            await connection.add_listener(CHANNEL, self._heard)
            await connection.execute("select pg_advisory_lock_shared($1)", ADVISORY_NODE)
            prepared = await connection.fetchval("select current_setting('max_prepared_transactions')::int")
            self._waker.sleeps = prepared == 0
            # What was notified before LISTEN stood is read now.
            self._wake.set()
            self._on_ready()
            await self._tend(connection)
        finally:
            self._waker.disown()
            self._wake.set()
            connection.terminate()

    async def poll(self) -> None:
        """Listen to nothing, and keep the reader's pace, until cancelled."""
        self._waker.sleeps = False
        self._waker.own(time.monotonic())
        self._wake.set()
        self._on_ready()
        while True:
            self._waker.wants(time.monotonic())
            await asyncio.sleep(WINDOW)

    def _heard(self, _: object, pid: int, channel: str, payload: object) -> None:
        if payload == CATALOG:
            self._on_catalog()
        self._wake.set()

    async def _tend(self, connection: asyncpg.Connection) -> None:
        checked = renewed = 0.0
        while True:
            if connection.is_closed():
                raise ConnectionResetError("the listening connection was closed")
            now = time.monotonic()
            if self._waker.mode is Mode.FOLLOWING:
                await self._try_to_own(connection)
            elif now - renewed >= RENEW_SECONDS:
                renewed = now
                await self._renew(connection)
            if now - checked >= RENEW_SECONDS:
                checked = now
                self._others = await connection.fetchval(_NODES, ADVISORY_NODE) > 1
            await self._change_mode(connection)
            if self._tell_others:
                self._tell_others = False
                await connection.execute("select pg_notify($1, $2)", CHANNEL, FROM_NODE)
            await self._rest()

    async def _rest(self) -> None:
        """At most one turn in 5 ms, at least one in a quarter of a second."""
        follows_a_sleeper = self._waker.mode is Mode.FOLLOWING and self._waker.leader_sleeps
        try:
            async with asyncio.timeout(_CALM_TICK if follows_a_sleeper else _TICK):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(_COALESCE)
        self._changed.clear()

    async def _try_to_own(self, connection: asyncpg.Connection) -> None:
        # Tried for, never waited for: a statement that waits holds a snapshot, and with it vacuum.
        if await connection.fetchval("select pg_try_advisory_lock($1)", ADVISORY_WAKER):
            await connection.execute(_LOWER)
            self._waker.own(time.monotonic())
            self._wake.set()
        else:
            self._waker.leader_sleeps = await connection.fetchval(_ASLEEP)

    async def _renew(self, connection: asyncpg.Connection) -> None:
        if self._waker.mode not in (Mode.FALLING, Mode.ASLEEP):
            return
        # A lease that ran out let writers pass without a NOTIFY: fall asleep anew.
        if not await connection.fetchval(_RENEW):
            await self._raise(connection)

    async def _change_mode(self, connection: asyncpg.Connection) -> None:
        match self._waker.wants(time.monotonic()):
            case Mode.FALLING:
                await self._raise(connection)
            case Mode.AWAKE:
                await connection.execute(_LOWER)
                self._waker.lowered(time.monotonic())
                self._wake.set()

    async def _raise(self, connection: asyncpg.Connection) -> None:
        # Two statements: the xid must be drawn after the flag is up.
        await connection.execute(_RAISE)
        self._waker.raised(await connection.fetchval(_DRAW))
        self._wake.set()
