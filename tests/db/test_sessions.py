"""The check that tells a pooler of transactions from Postgres itself, against a real one."""

import asyncio

import asyncpg
import pytest

from rowcast.db.connection import connect
from rowcast.db.sessions import keeps_sessions
from support.pgbouncer import pgbouncer

pytestmark = pytest.mark.anyio


async def test_postgres_itself_and_a_pooler_of_sessions_keep_them(database: str) -> None:
    assert await keeps_sessions(database)
    with pgbouncer(database, mode="session") as pooler:
        assert await keeps_sessions(pooler.address)


@pytest.mark.parametrize("size", [1, 2, 20])
async def test_a_pooler_of_transactions_is_found_out_and_nothing_is_left_behind_in_it(
    database: str, size: int
) -> None:
    with pgbouncer(database, size=size) as pooler:
        # Others are at work through it, so that there is more than one backend, if there may be.
        others = [await asyncpg.connect(pooler.address, statement_cache_size=0) for _ in range(3)]
        await asyncio.gather(*(other.execute("select pg_sleep(0.01)") for other in others))
        assert not await keeps_sessions(pooler.address)
        for other in others:
            assert await other.fetchval("select current_setting('rowcast.check', true)") is None
            assert await other.fetchval("select count(*) from pg_listening_channels()") == 0
            await other.close()


async def test_a_pooled_connection_sets_nothing_on_the_sessions_it_is_lent(database: str) -> None:
    ours = "select count(*) from pg_settings where source = 'session' and name ~ '^jit$|^tcp|^rowcast'"
    with pgbouncer(database, size=1) as pooler:
        connection = await connect(pooler.address, purpose="test", pooled=True)
        other = await asyncpg.connect(pooler.address, statement_cache_size=0)
        assert await connection.fetchval("select $1::int", 1) == 1
        assert await other.fetchval("select $1::int", 2) == 2
        assert await other.fetchval(ours) == 0
        await connection.close()
        await other.close()
