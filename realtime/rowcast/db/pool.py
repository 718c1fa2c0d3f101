"""The pool of connections for short questions: what a join asks, what a command asks.

It may go through a transaction pooler, so no statement is prepared under a name and nothing is set on a
session.
"""

import asyncpg


async def create_pool(dsn: str, size: int) -> asyncpg.Pool:
    """A pool that opens connections as they are needed, at most ``size``."""
    return await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size,
        statement_cache_size=0,
        command_timeout=30.0,
        server_settings={"application_name": "rowcast joins", "jit": "off"},
    )
