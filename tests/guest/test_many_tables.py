"""Databases of many tables: what one statement or one turn of the timer looks at."""

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from rowcast.capture.tables import matching, reconcile

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

# It also counts earlier calls that were not reported yet: only differences say something.
COMPARED = """select coalesce(sum(calls), 0)::int from pg_stat_xact_user_functions
where schemaname = 'rowcast' and funcname = 'relation_version'"""


@pytest.fixture
async def many(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """A database of 150 published tables, whose triggers stand."""
    connection = await asyncpg.connect(migrated)
    await connection.execute("create table first (id int primary key)")
    await make(connection, 0, 150)
    await connection.execute("create publication supabase_realtime for all tables")
    await connection.execute("set track_functions = 'all'")
    while not await reconcile(connection):
        pass
    yield connection
    await connection.close()


async def make(connection: asyncpg.Connection, first: int, beyond: int) -> None:
    """Make tables, in the shortest way."""
    await connection.execute(
        f"""drop publication if exists supabase_realtime;
        select set_config('rowcast.installing', 'on', false);
        do $$ begin
          for i in {first}..{beyond - 1} loop
            execute format('create table many_%s (id int primary key)', i);
          end loop;
        end $$;
        select set_config('rowcast.installing', 'off', false)"""
    )


async def pages(connection: asyncpg.Connection, statement: str) -> int:
    """How many pages a statement reads, once the caches are warm."""
    for _ in range(2):
        (line,) = await connection.fetch(f"explain (analyze, buffers, format json) {statement}")
    plan = json.loads(line[0])[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize(
    "statement",
    [
        "select * from rowcast.stale_tables(array['first'::regclass::oid])",
        "select * from rowcast.wanted_of(array['first'::regclass::oid])",
    ],
)
async def test_what_one_table_costs_does_not_grow_with_the_others(migrated: str, statement: str) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute("create table first (id int primary key)")
    read = []
    for first, beyond in ((0, 20), (20, 400)):
        await make(connection, first, beyond)
        await connection.execute("create publication supabase_realtime for all tables; analyze pg_class")
        read.append(await pages(connection, statement))
    assert read[1] < 2 * read[0] + 50
    await connection.close()


async def test_tables_that_need_nothing_are_not_compared_again(many: asyncpg.Connection) -> None:
    settled: dict[int, int] = {}
    assert await reconcile(many, settled)
    async with many.transaction():
        before = await many.fetchval(COMPARED)
        assert await reconcile(many, settled)
        assert await many.fetchval(COMPARED) == before
    assert len(settled) == 151


@pytest.mark.parametrize(
    "change",
    [
        "alter table many_7 add column a int",
        "alter table many_7 rename column id to key",
        "alter table many_7 rename to other",
        "alter table many_7 replica identity full",
        'drop trigger "!rowcast_insert" on many_7',
        "alter table many_7 disable trigger user; alter table many_7 enable trigger user",
        "alter table many_7 drop constraint many_7_pkey",
        "create function f() returns trigger language plpgsql as 'begin return null; end';"
        " create trigger t after insert on many_7 for each row execute function f()",
    ],
)
async def test_a_table_that_looks_different_is_compared(many: asyncpg.Connection, change: str) -> None:
    settled: dict[int, int] = {}
    assert await reconcile(many, settled)
    await many.execute(
        "set session_replication_role = replica; alter event trigger rowcast_follow_ddl disable"
    )
    await many.execute(f"alter event trigger rowcast_follow_drop disable; {change}")
    assert await many.fetchval("select count(*) from rowcast.stale_tables()") == 1
    await reconcile(many, settled)
    assert await many.fetchval("select count(*) from rowcast.stale_tables()") == 0


@pytest.mark.parametrize(
    "statement",
    [
        "drop view seen",
        "alter type mood add value 'b'",
        "alter publication supabase_realtime set (publish = 'insert')",
    ],
)
async def test_ddl_leaves_it_to_the_timer_to_compare_hundreds(
    many: asyncpg.Connection, statement: str
) -> None:
    await many.execute("create view seen as select 1 as one; create type mood as enum ('a')")
    async with many.transaction():
        before = await many.fetchval(COMPARED)
        await many.execute(statement)
        assert await many.fetchval(COMPARED) == before
    while not await reconcile(many):
        pass
    assert await many.fetchval("select count(*) from rowcast.stale_tables()") == 0


async def test_a_new_table_among_hundreds_is_captured_at_once_and_found_by_a_join(
    many: asyncpg.Connection,
) -> None:
    await many.execute("create table latest (id int primary key)")
    (found,) = await matching(many, "public", "latest")
    assert (found.captured, found.reason) == (True, None)
