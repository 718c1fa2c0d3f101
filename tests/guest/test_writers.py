"""Who writes: roles without a right on anything of ours, sessions with hostile settings, other clusters."""

from collections.abc import Callable

import asyncpg
import pytest

from rowcast.db.migrations import migrate
from rowcast.dev.postgres import Postgres
from support.streams import streaming, subscribed
from support.waiting import until_so

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

TABLE = """
create table things (id bigint primary key, at timestamptz default now());
grant select on things to service_role;
alter publication supabase_realtime add table things;
"""
WAY = """select array_agg(function_name) from rowcast.standing_triggers
where relid = 'things'::regclass and name = '!rowcast_insert'"""
HOSTILE = {
    "search_path": "''",
    "row_security": "off",
    "statement_timeout": "'10s'",
    "lock_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'10s'",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "on",
    "TimeZone": "'Asia/Kathmandu'",
    "standard_conforming_strings": "off",
    "escape_string_warning": "on",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "client_encoding": "'LATIN1'",
    "check_function_bodies": "off",
    "plan_cache_mode": "force_custom_plan",
    "enable_indexscan": "off",
    "work_mem": "'64kB'",
    "jit_above_cost": "0",
    "synchronous_commit": "off",
}


async def test_a_role_with_no_right_but_on_its_table_writes_under_hostile_settings(migrated: str) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLE)
    await connection.execute("grant insert, update, delete, select on things to anon")
    assert not await connection.fetchval("select has_schema_privilege('anon', 'rowcast', 'usage')")
    async with streaming(migrated) as stream:
        kept = await subscribed(stream, "things")
        writer = await asyncpg.connect(migrated, server_settings={"default_transaction_read_only": "on"})
        await writer.execute("set session authorization anon")
        for name, value in HOSTILE.items():
            await writer.execute(f"set {name} = {value}")
        # A writer may shadow names in a schema that every session has.
        await writer.execute("begin read write; create temp table outbox_0 (xid int); commit")
        for statement in ("insert into public.things (id) values (1)", "delete from public.things"):
            await writer.execute(f"begin read write; {statement}; commit")
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await writer.execute("insert into public.things (id) values (2)")
        await kept.until(lambda: len(kept.changes) == 2)
        assert [change["type"] for change in kept.changes] == ["INSERT", "DELETE"]
        await writer.close()
    await connection.close()


async def test_what_logical_replication_applies_is_captured_once(cluster: Callable[..., Postgres]) -> None:
    source, target = cluster(settings={"wal_level": "logical"}), cluster()
    await migrate(target.dsn)
    there, here = await asyncpg.connect(source.dsn), await asyncpg.connect(target.dsn)
    await here.execute(TABLE)
    await there.execute(
        "create table things (id bigint primary key, at timestamptz default now());"
        "insert into things values (1); create publication everything for table things"
    )
    async with streaming(target.dsn) as stream:
        kept = await subscribed(stream, "things")
        # Rows are applied without firing statement triggers: servers give such a table row triggers.
        await here.execute(f"create subscription mirror connection '{source.dsn}' publication everything")
        await until_so(here, f"select ({WAY}) = array['capture_insert_row']")
        await kept.until(lambda: len(kept.changes) == 1)
        await there.execute("insert into things values (2); update things set id = 3 where id = 2")
        await there.execute("delete from things where id = 1")
        await kept.until(lambda: len(kept.changes) >= 4)
        await here.execute("insert into things values (100)")
        await kept.until(lambda: kept.changes[-1].get("record", {}).get("id") == 100)
        told = [(change["type"], change.get("record", {}).get("id")) for change in kept.changes]
        assert told == [("INSERT", 1), ("INSERT", 2), ("UPDATE", 3), ("DELETE", None), ("INSERT", 100)]
        await here.execute("drop subscription mirror")
    await here.close()
    await there.close()


@pytest.mark.parametrize("by_root", [True, False])
async def test_what_logical_replication_applies_to_a_partitioned_table_is_captured_once(
    cluster: Callable[..., Postgres], by_root: bool
) -> None:
    source, target = cluster(settings={"wal_level": "logical"}), cluster()
    await migrate(target.dsn)
    there, here = await asyncpg.connect(source.dsn), await asyncpg.connect(target.dsn)
    parts = """create table things (id bigint primary key) partition by range (id);
        create table low partition of things for values from (0) to (50);
        create table high partition of things for values from (50) to (1000);"""
    await here.execute(
        parts + "grant select on things to service_role; alter publication supabase_realtime add table things"
    )
    await there.execute(
        parts
        + f"create publication everything for table things with (publish_via_partition_root = {by_root})"
    )
    async with streaming(target.dsn) as stream:
        kept = await subscribed(stream, "things")
        await here.execute(f"create subscription mirror connection '{source.dsn}' publication everything")
        assert await here.fetchval(WAY.replace("'things'", "'low'")) == ["capture_insert_row"]
        assert await here.fetchval(WAY) is None
        await until_so(here, "select bool_and(srsubstate = 'r') from pg_subscription_rel")
        await there.execute("insert into things values (1), (60); update things set id = 2 where id = 1")
        await there.execute("delete from things where id = 60")
        await kept.until(lambda: len(kept.changes) >= 4)
        # Through the root, and to a part, by whoever else writes.
        await here.execute("insert into things values (3), (70); insert into low values (4)")
        await kept.until(lambda: len(kept.changes) >= 7)
        told = [(change["type"], change.get("record", {}).get("id")) for change in kept.changes]
        assert told[:4] == [("INSERT", 1), ("INSERT", 60), ("UPDATE", 2), ("DELETE", None)]
        assert told[4:] == [("INSERT", 3), ("INSERT", 70), ("INSERT", 4)]
        await here.execute("drop subscription mirror")
    await here.close()
    await there.close()


async def test_our_sessions_hold_no_snapshot_over_their_life(migrated: str) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLE)
    held = """select coalesce(max(age(backend_xmin)), 0) from pg_stat_activity
    where application_name like 'rowcast%' and datname = current_database()"""
    oldest = 0
    async with streaming(migrated, age=1.0) as stream:
        kept = await subscribed(stream, "things")
        for n in range(2000):
            await connection.execute("insert into things (id) values ($1)", n)
            if n % 500 == 250:
                await connection.execute(f"alter table things add column c{n} int")
            oldest = max(oldest, await connection.fetchval(held))
        await kept.until(lambda: len(kept.changes) == 2000)
    # A snapshot lives as long as one statement: over thousands of transactions none was kept.
    assert oldest < 1000
    await connection.close()
