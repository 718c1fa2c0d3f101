"""Snapshots: the rows that somebody may select and asked for, all as of one moment of the stream.

Each has a connection of its own, which serves nothing else: what policies call is anybody's code. Once
Postgres has read all rows (``capture.cursors``), they are fetched as fast as whoever asked takes them.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final, NamedTuple

import asyncpg
import structlog
from asyncpg.prepared_stmt import PreparedStatement

from rowcast.capture.cursors import Altered, Cursors, Part, Wanted, fetch_one, reason_of, too_long
from rowcast.db.connection import AWAY, LOST, connect, while_alive
from rowcast.db.roles import PATIENCE, end_sessions
from rowcast.errors import DatabaseError
from rowcast.model.binding import Binding
from rowcast.model.claims import Subject
from rowcast.model.position import Position
from rowcast.protocol.snapshots import Outline

#: Who does not take the next batch for so many seconds gives its place to others.
IDLE: Final = 30.0
_TRIES: Final = 3
_END_SECONDS: Final = 5.0
_SESSION: Final = """
select set_config(name, value, false) from (values
  ('jit', 'off'), ('statement_timeout', '0'), ('lock_timeout', '0'), ('synchronous_commit', 'local'),
  ('idle_session_timeout', '0'), ('idle_in_transaction_session_timeout', '0'),
  ('standard_conforming_strings', 'on'), ('max_parallel_workers_per_gather', '0')) as s (name, value)
"""
_POOLED: Final = (
    "snapshots are read in a session of their own, and DATABASE_URL leads to a pooler of transactions: "
    "set ROWCAST_DIRECT_URL to Postgres itself"
)

log = structlog.get_logger("rowcast.snapshots")


class SnapshotError(Exception):
    """A snapshot that cannot be taken, or not be read to its end. The text may go to the client."""


class Batch(NamedTuple):
    """Rows of one binding, by its place among those that wanted a snapshot.

    ``images`` are as ``protocol.snapshots`` takes them with this ``outline``: as many as the binding's batch
    at most, with no more bytes than a message may have, unless it is a single one. ``last`` ends the binding.
    """

    place: int
    binding: Binding
    outline: Outline
    images: list[bytes]
    last: bool


class Taken:
    """A snapshot that was taken. ``position`` is where the stream goes on from it.

    ``faults`` says why there are no rows of some of the bindings, by their places; no text of it holds a row.
    """

    def __init__(
        self, position: Position, faults: dict[int, str], parts: Sequence[Part], held: "_Held"
    ) -> None:
        self.position, self.faults = position, faults
        self._parts, self._held = parts, held

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """All rows, in order, binding after binding; at least one batch for each. To be called once.

        The next batch is fetched when it is asked for. Raises SnapshotError when that took too long, or when
        the connection is lost: the rest is not to be had then.
        """
        if not self._parts:
            self._held.end()
        for part in self._parts:
            row, number = part.first, 1
            while True:
                if row is None or row["n"] != number:
                    raise SnapshotError("rows of it were lost in the database")
                images = [image.encode() for image in row["images"]]
                if row["ends"] and part is self._parts[-1]:
                    self._held.end()
                self._held.wait()
                yield Batch(part.place, part.binding, part.outline, images, row["ends"])
                self._held.go_on()
                if row["ends"]:
                    break
                row, number = await self._held.fetch(part.name), number + 1


class Snapshots:
    """Takes snapshots of one database, at ``dsn``: Postgres itself, or a pooler of sessions.

    Reading the rows of one snapshot may take ``seconds``. ``most`` are taken or handed out at a time; others
    wait for their turn. ``limit`` is how many bytes a message may have. ``search_path`` is what functions of
    policies see. ``idle`` is as IDLE.
    """

    def __init__(
        self,
        dsn: str,
        *,
        search_path: str,
        seconds: float = 60.0,
        most: int = 4,
        limit: int = 1024 * 1024,
        idle: float = IDLE,
    ) -> None:
        self._dsn, self._search_path = dsn, search_path
        self._seconds, self._limit, self._idle = seconds, limit, idle
        self._places = asyncio.Semaphore(most)
        #: Backends that may go on with what they were to give up.
        self._left: list[int] = []
        self._told: set[tuple[str, int, str]] = set()
        #: Whether sessions are lent by the transaction there: then no snapshot can be taken.
        self.pooled = False

    @contextlib.asynccontextmanager
    async def take(self, subject: Subject, wanted: Sequence[Wanted]) -> AsyncIterator[Taken]:
        """Take a snapshot for whoever looks, whose role must be one of this server's.

        Raises SnapshotError where there is none at all, and one of AWAY while the database is away.
        """
        if self.pooled:
            raise SnapshotError(_POOLED)
        await self._places.acquire()
        held = _Held(self._places, self._idle)
        try:
            held.connection = connection = await self._connect()
            pid = connection.get_server_pid()
            try:
                await end_sessions(connection, self._left)
                await connection.execute(_SESSION)
                taken = await while_alive(connection, self._take(held, connection, subject, wanted))
            except BaseException:
                connection.terminate()
                # Something of it may still run, under the role.
                await self._end(pid)
                raise
            held.wait()
            yield taken
        finally:
            held.end()

    async def _connect(self) -> asyncpg.Connection:
        try:
            return await connect(self._dsn, purpose="snapshots", pooled=True, patience=None)
        except DatabaseError:
            raise SnapshotError("the database cannot be used now") from None

    async def _end(self, pid: int) -> None:
        """End a backend now; where that cannot be done, before the next snapshot."""
        self._left.append(pid)
        with contextlib.suppress(*AWAY, SnapshotError):
            async with asyncio.timeout(_END_SECONDS):
                connection = await self._connect()
                try:
                    await end_sessions(connection, self._left)
                finally:
                    connection.terminate()

    async def _take(
        self, held: "_Held", connection: asyncpg.Connection, subject: Subject, wanted: Sequence[Wanted]
    ) -> Taken:
        deadline = time.monotonic() + self._seconds
        try:
            async with asyncio.timeout(self._seconds + PATIENCE):
                for _ in range(_TRIES):
                    cursors = Cursors(
                        connection,
                        subject,
                        self._search_path,
                        self._limit,
                        deadline,
                        self._seconds,
                        self._told,
                    )
                    try:
                        position, parts = await cursors.read(wanted)
                    except Altered:
                        continue
                    return Taken(position, cursors.faults, parts, held)
        except TimeoutError:
            log.error("snapshot_not_cancelled", role=subject.role)
            raise SnapshotError(too_long(self._seconds)) from None
        except LOST:
            raise
        except asyncpg.PostgresError as error:
            raise SnapshotError(reason_of(error, self._seconds)) from None
        raise SnapshotError("a table was altered again and again while it was read")


class _Held:
    """A place among the snapshots that are taken, and its connection, until either is given up."""

    def __init__(self, places: asyncio.Semaphore, idle: float) -> None:
        self._places, self._idle = places, idle
        self._timer: asyncio.TimerHandle | None = None
        self._ended = self._gave_up = False
        self._fetching = ""
        self._statement: PreparedStatement | None = None
        self.connection: asyncpg.Connection | None = None

    async def fetch(self, name: str) -> asyncpg.Record | None:
        """The next row of a cursor. Raises SnapshotError."""
        assert self.connection is not None
        try:
            async with asyncio.timeout(self._idle):
                if self._statement is None or self._fetching != name:
                    self._statement = await self.connection.prepare(fetch_one(name), name="")
                    self._fetching = name
                found = await self._statement.fetch()
        except (asyncpg.PostgresError, *LOST):
            raise SnapshotError("the connection to the database was lost while its rows were sent") from None
        return next(iter(found), None)

    def wait(self) -> None:
        """Wait for whoever takes the rows, and not for ever."""
        self._stop()
        if not self._ended:
            self._timer = asyncio.get_running_loop().call_later(self._idle, self._give_up)

    def go_on(self) -> None:
        """The next batch is asked for. Raises SnapshotError where that comes too late."""
        self._stop()
        if self._gave_up:
            raise SnapshotError(f"its rows were not taken for {self._idle:g} seconds")

    def end(self) -> None:
        """Give the place to others. May be called more than once."""
        self._stop()
        if not self._ended:
            self._ended = True
            if self.connection is not None:
                self.connection.terminate()
            self._places.release()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._gave_up = True
        self.end()
