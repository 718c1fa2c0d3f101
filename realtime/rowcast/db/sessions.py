"""Whether an address leads to sessions of one's own, or to a pooler that lends them by the transaction.

A pooler is found by what it does: another backend answers, or one backend answers two. Nothing is set on a
session before that is known to be one's own.
"""

import asyncio
import secrets

import asyncpg

from rowcast.db.connection import connect

_ROUNDS = 5
_HEAR_SECONDS = 2.0
_BACKEND = "select pg_backend_pid()"


async def keeps_sessions(dsn: str, *, hear_seconds: float = _HEAR_SECONDS) -> bool:
    """Whether a session at ``dsn`` keeps its backend, what is set on it and its locks, and hears NOTIFY.

    Raises as ``connect`` does.
    """
    first = await connect(dsn, purpose="check", pooled=True)
    try:
        second = await connect(dsn, purpose="check", pooled=True)
        try:
            if not await _keeps_its_backend(first, second) or not await _keeps_its_state(first):
                return False
            return await _hears(first, second, hear_seconds)
        finally:
            second.terminate()
    finally:
        first.terminate()


async def _keeps_its_backend(first: asyncpg.Connection, second: asyncpg.Connection) -> bool:
    own = await first.fetchval(_BACKEND)
    for _ in range(_ROUNDS):
        # While the second is in a transaction, a pooler has to give the first another backend, or gave the
        # second the first's.
        async with second.transaction():
            if await second.fetchval(_BACKEND) == own or await first.fetchval(_BACKEND) != own:
                return False
    return True


async def _keeps_its_state(connection: asyncpg.Connection) -> bool:
    """What poolers take back between two transactions, though the backend stays."""
    token = secrets.token_hex(8)
    lock = secrets.randbits(62)
    await connection.fetchval("select set_config('rowcast.check', $1, false)", token)
    await connection.fetchval("select pg_advisory_lock_shared($1)", lock)
    kept = await connection.fetchval("select current_setting('rowcast.check', true)") == token
    return bool(await connection.fetchval("select pg_advisory_unlock_shared($1)", lock)) and kept


async def _hears(first: asyncpg.Connection, second: asyncpg.Connection, seconds: float) -> bool:
    channel = f"rowcast_check_{secrets.token_hex(8)}"
    heard = asyncio.Event()
    await first.add_listener(channel, lambda *_: heard.set())
    await second.execute("select pg_notify($1, '')", channel)
    try:
        async with asyncio.timeout(seconds):
            await heard.wait()
    except TimeoutError:
        return False
    return True
