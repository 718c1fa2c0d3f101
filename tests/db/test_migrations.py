"""The migration runner: several at once, behind a pooler too."""

import asyncio

import asyncpg
import pytest

from rowcast.db.migrations import migrate
from support.pgbouncer import pgbouncer

pytestmark = pytest.mark.anyio


async def test_of_several_runners_behind_a_pooler_each_script_is_run_by_one(database: str) -> None:
    with pgbouncer(database) as pooler:
        ran = await asyncio.gather(*(migrate(pooler.address) for _ in range(3)))
        assert await migrate(pooler.address) == []
    names = [name for one in ran for name in one]
    assert sorted(names) == sorted(set(names))
    connection = await asyncpg.connect(database)
    assert await connection.fetchval("select count(*) from rowcast.migrations") == len(
        [name for name in names if not name.startswith("functions/")]
    )
    assert await connection.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0
    await connection.close()
