"""The pool of connections for short questions: what a join asks, what a command asks.

It may go through a pooler of transactions, so no statement is prepared under a name, nothing is set on a
session, and none is reset when it comes back: it may be another's by then.
"""

from typing import Final

import asyncpg

from rowcast.db.address import primary
from rowcast.db.reaching import reach

_CONNECT_SECONDS: Final = 10.0


async def create_pool(dsn: str, size: int) -> asyncpg.Pool:
    """A pool that opens connections as they are needed, at most ``size``."""
    return await asyncpg.create_pool(  # type: ignore[call-overload, no-any-return]  # each option is passed on
        primary(dsn),
        connect=reach,
        timeout=_CONNECT_SECONDS,
        min_size=0,
        max_size=size,
        statement_cache_size=0,
        command_timeout=30.0,
        reset=_leave_alone,
        server_settings={"application_name": "rowcast joins"},
    )


async def _leave_alone(_: object) -> None:
    pass
