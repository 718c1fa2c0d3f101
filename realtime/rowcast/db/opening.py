"""What comes before a database can be worked with: it is waited for, migrated, and asked what sessions it
keeps.

What trying again may mend is tried again, and said once a minute; anything else ends the start.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from rowcast.db.connection import REFUSED, connect, unreachable
from rowcast.db.migrations import is_migrated, migrate
from rowcast.db.sessions import keeps_sessions
from rowcast.errors import DatabaseError

_RETRY: Final = 1.0
_SAY_EVERY: Final = 60.0
_POLLS: Final = (
    "{} leads to a pooler that lends sessions by the transaction, where nothing can be heard: changes are "
    "polled for. Set ROWCAST_DIRECT_URL to the address of Postgres itself."
)

log = structlog.get_logger("rowcast")


class Opening:
    """The start of one database. ``direct_dsn`` may be the same as ``dsn``, where short questions go."""

    def __init__(
        self, dsn: str, direct_dsn: str, *, migrates: bool, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self._dsn, self._direct_dsn = dsn, direct_dsn
        self._migrates, self._say = migrates, say
        self._fault: str | None = "is being looked at"
        self._pooled = False

    def faults(self) -> Mapping[str, str]:
        """Why the database is not open yet; empty when it is."""
        return {} if self._fault is None else {"database": self._fault}

    def degraded(self) -> Mapping[str, str]:
        """What works worse than it might, and how to mend it."""
        return {"listener": self._advice()} if self._pooled else {}

    async def run(self) -> bool:
        """Open it, however long that takes. Returns whether sessions are lent by the transaction.

        Raises DatabaseError, MigrationError among them, where waiting would mend nothing.
        """
        told = -_SAY_EVERY
        while True:
            dsn = self._direct_dsn
            try:
                if self._migrates:
                    done = await migrate(dsn, beside=True, say=self._say)
                    if done:
                        log.info("migrated", scripts=done)
                elif not await is_migrated(dsn):
                    raise DatabaseError(
                        "This database was not migrated, and ROWCAST_MIGRATE is off. Run `rowcast migrate`."
                    )
                self._pooled = not await keeps_sessions(dsn)
                if self._dsn != dsn:
                    dsn = self._dsn
                    (await connect(dsn, purpose="check", pooled=True)).terminate()
            except REFUSED as error:
                self._fault = unreachable(dsn, error)
                if time.monotonic() - told >= _SAY_EVERY:
                    told = time.monotonic()
                    log.warning("database_unreachable", detail=self._fault)
                await asyncio.sleep(_RETRY)
                continue
            if self._pooled:
                log.warning("database_pooled", detail=self._advice())
            self._fault = None
            return self._pooled

    def _advice(self) -> str:
        return _POLLS.format("DATABASE_URL" if self._dsn == self._direct_dsn else "ROWCAST_DIRECT_URL")
