"""What the stream consists of: parts with a connection of their own, each of which comes back by itself."""

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from typing import Any, Final

import asyncpg
import structlog

from rowcast.db.address import place
from rowcast.db.connection import REFUSED
from rowcast.errors import DatabaseError

_BACKOFF: Final = (0.1, 3.0)
_SAY_EVERY: Final = 60.0
_CANCEL_AGAIN: Final = 0.5

#: What statements of ours raise where the schema, or a part of it, is not there.
_MISSING: Final = (
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
)
SCHEMA_MISSING: Final = "the schema rowcast, or a part of it, is gone: run rowcast migrate"

log = structlog.get_logger("rowcast.capture")


class Parts:
    """Which parts are up, and what keeps them from it. ``lose`` tells every subscriber of a gap."""

    def __init__(self, dsn: str, names: Iterable[str], lose: Callable[[str], None]) -> None:
        self._dsn, self._lose = dsn, lose
        self._missing = False
        self._unfit: str | None = None
        self._up = dict.fromkeys(names, False)
        self._unusable: dict[str, str] = {}
        self._said = ("", 0.0)

    def up(self, part: str) -> None:
        """A part does its work."""
        self._up[part] = True
        self._unusable.pop(part, None)
        if part == "reader":
            self._missing = False

    async def look(self, connection: asyncpg.Connection) -> None:
        """See, and say, what keeps writers from being captured though the parts themselves do their work."""
        unfit: str | None = await connection.fetchval("select rowcast.unfit()")
        if unfit != self._unfit:
            if unfit is None:
                log.info("capture_is_well")
            else:
                log.error("capture_fails", reason=unfit)
        self._unfit = unfit

    def faults(self) -> dict[str, str]:
        """Why parts do not do their work; empty when all do."""
        if self._missing:
            return {"capture": SCHEMA_MISSING}
        why = "not connected to the database"
        down = {part: self._unusable.get(part, why) for part, up in self._up.items() if not up}
        return down if self._unfit is None else {**down, "capture": self._unfit}

    def _tell_missing(self, part: str) -> None:
        """Nothing is captured any more: who subscribes is told now, and not when the schema is back."""
        if not self._missing:
            self._missing = True
            log.error("schema_missing", part=part, detail=SCHEMA_MISSING)
            self._lose(SCHEMA_MISSING)

    def _say(self, detail: str) -> None:
        """Somebody has to mend it, and trying goes on meanwhile: said once a minute for all parts."""
        now, (said, at) = time.monotonic(), self._said
        if detail != said or now - at >= _SAY_EVERY:
            self._said = (detail, now)
            log.warning("database_unusable", detail=detail)

    async def forever(self, part: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run a part, again and again, until cancelled."""
        delay, told = _BACKOFF[0], False
        while True:
            began = time.monotonic()
            try:
                await work()
            except DatabaseError as error:
                self._unusable[part] = str(error)
                self._say(str(error))
            except Exception as error:
                check_cancelled()
                # What is no fault of the database is ours: it must not take the other parts with it.
                lost = isinstance(error, (*REFUSED, asyncpg.PostgresError))
                if isinstance(error, _MISSING) and "rowcast" in str(error):
                    self._tell_missing(part)
                elif not told or not lost:
                    # A name and no arguments: an error's text may hold rows.
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    log.warning(
                        "database_lost" if lost else "part_failed",
                        part=part,
                        database=place(self._dsn),
                        error=type(error).__name__,
                        at=None if lost else f"{where.name}:{where.lineno}",
                    )
                    told = True
            self._up[part] = False
            if time.monotonic() - began > _BACKOFF[1]:
                delay, told = _BACKOFF[0], False
            await asyncio.sleep(delay * (0.5 + random.random() / 2))
            delay = min(delay * 2, _BACKOFF[1])


def check_cancelled() -> None:
    """End a task that is told to, though an exception took the place of that: a transaction that is rolled
    back over a dead connection raises one."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def end(tasks: Collection[asyncio.Future[None]]) -> None:
    """Cancel tasks until they have ended. One that is told while a connection opens may miss it: what waits
    for both with a time limit, as asyncpg does, has a result then, and keeps that."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_CANCEL_AGAIN)
    # What they ended with was told, or is of no interest any more.
    await asyncio.gather(*tasks, return_exceptions=True)


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Do all of them until one ends, or this is cancelled; the others end then, too."""
    doing = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(doing, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    finally:
        await end(doing)


async def beside(work: Coroutine[Any, Any, None], aside: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` while ``aside`` goes on: where that fails, so does this."""
    working, going = asyncio.ensure_future(work), asyncio.ensure_future(aside)
    try:
        await asyncio.wait({working, going}, return_when=asyncio.FIRST_COMPLETED)
        (working if working.done() else going).result()
    finally:
        await end((working, going))
