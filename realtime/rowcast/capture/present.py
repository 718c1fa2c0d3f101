"""The live reader: what is committed goes to those who hear the present, as soon as it is there."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import asyncpg

from rowcast.capture.delivery import Delivery
from rowcast.capture.reader import HistoryLost
from rowcast.capture.replays import Replays
from rowcast.capture.waker import Waker


class Lose(Protocol):
    """Told that changes may be missing, and of which kind the gap is: ``Stream._lose``."""

    def __call__(self, reason: str, kind: str | None = None) -> None: ...


class Present:
    """Reads whenever ``wake`` is set, and when the waker says so. ``on_catalog`` is called where the catalog
    changed, ``on_read`` after each read with how many changes there were and the xmin that was seen."""

    def __init__(
        self,
        live: Delivery,
        replays: Replays,
        waker: Waker,
        wake: asyncio.Event,
        *,
        on_catalog: Callable[[], None],
        on_read: Callable[[int, int], None],
        lose: Lose,
    ) -> None:
        self._live, self._reader, self._replays = live, live.reader, replays
        self._waker, self._wake = waker, wake
        self._on_catalog, self._on_read, self._lose = on_catalog, on_read, lose
        self._begun = self._completed = 0
        self._turn = asyncio.Event()
        self._catching_up = 0

    async def read_once(self) -> None:
        """Wait for a read that begins after this call."""
        wanted = self._begun + 1
        while self._completed < wanted:
            self._wake.set()
            await self._turn.wait()

    async def catch_up(self) -> None:
        """The same, and the reader stands at what it saw then: where nobody flushes the WAL, it does."""
        self._catching_up += 1
        self._reader.follow = True
        try:
            await self.read_once()
        finally:
            self._catching_up -= 1
            self._reader.follow = self._catching_up > 0

    async def settle(self) -> None:
        """Wait until everything that was committed before this call has been sent."""
        await self.read_once()
        await self._live.questions.drain()

    async def read(self, connection: asyncpg.Connection, *, pooled: bool) -> None:
        """Read until the connection is lost; raises then. Call again to go on."""
        live, reader = self._live, self._reader
        try:
            await reader.open(connection, pooled=pooled)
        except HistoryLost as lost:
            self._lose(str(lost), lost.reason)
        # What happened to the catalog meanwhile is not known.
        live.readiness.forget_rights()
        while True:
            self._wake.clear()
            self._begun += 1
            # What is left of a batch was seen by a snapshot of before: no read ends with that.
            whole = reader.place is not None and reader.place.end is None
            try:
                await live.moves.make()
                await self._replays.admit()
                if live.audiences.stale and live.questions.position is None:
                    live.audiences.forget_stale()
                pages = reader.read(connection, live.unheard())
                with self._replays.precedence.taken():
                    changes = await live.hand_out(connection, pages, on_catalog=self._catalog_changed)
            except HistoryLost as lost:
                await reader.restart(connection)
                self._lose(str(lost), lost.reason)
                changes = 0
            if whole:
                self._completed = self._begun
                turn, self._turn = self._turn, asyncio.Event()
                turn.set()
            assert reader.seen is not None
            self._on_read(changes, reader.seen.xmin)
            if whole:
                await self._rest()

    def _catalog_changed(self) -> None:
        self._live.readiness.forget_rights()
        self._on_catalog()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._waker.pause(time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            return
