"""Migrating and taking out again through a pooler that has two backends to lend."""

import asyncio

import asyncpg
import pytest

from rowcast.db.migrations import migrate
from rowcast.db.uninstall import uninstall
from support.pgbouncer import pgbouncer

pytestmark = pytest.mark.anyio

LOCKS = """
select count(*) from pg_locks where locktype = 'advisory'
  and database = (select oid from pg_database where datname = current_database())
"""


async def test_of_several_runners_behind_a_pooler_each_script_is_run_by_one(database: str) -> None:
    connection = await asyncpg.connect(database)
    with pgbouncer(database, size=2) as pooler:
        ran = await asyncio.gather(*(migrate(pooler.address) for _ in range(3)))
        assert sorted(map(bool, ran)) == [False, False, True]
        assert await migrate(pooler.address) == []
        assert await connection.fetchval(LOCKS) == 0
        await connection.execute("create table notes (id int primary key)")
        await connection.execute("alter publication supabase_realtime add table notes")
        removal = await uninstall(pooler.address)
        assert removal is not None
        assert await connection.fetchval("select to_regnamespace('rowcast') is null")
        assert await connection.fetchval(LOCKS) == 0
    await connection.close()
