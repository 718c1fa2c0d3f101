"""Every form that the publication may have, followed by event triggers at once, without them by the timer."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from rowcast.capture.tables import reconcile

pytestmark = pytest.mark.anyio

Follow = Callable[[str], Awaitable[None]]
WRITES = ("insert into t values (1, 1)", "update t set n = 2", "delete from t", "truncate t")
MEASURES = """
create schema apart;
create table measures (id int primary key, n int) partition by range (id);
create table low partition of measures for values from (0) to (10);
create table apart.high partition of measures for values from (10) to (30) partition by range (id);
create table apart.higher partition of apart.high for values from (10) to (20);
"""


@pytest.fixture(params=["event triggers", "timer"])
async def follow(request: pytest.FixtureRequest, capturing: asyncpg.Connection) -> Follow:
    """Run DDL, and return once it was followed."""
    timer = request.param == "timer"
    await capturing.execute("set client_min_messages = error")
    if timer:
        await capturing.execute(
            "drop event trigger rowcast_follow_ddl; drop event trigger rowcast_follow_drop"
        )

    async def run(sql: str) -> None:
        await capturing.execute(sql)
        if timer:
            assert await reconcile(capturing)

    return run


@pytest.fixture
def recent(capturing: asyncpg.Connection) -> None:
    """Skip where publications have no schemas, lists of columns and row filters yet."""
    if capturing.get_server_version().major < 15:
        pytest.skip("came with PostgreSQL 15")


async def captured(db: asyncpg.Connection) -> set[str]:
    """The tables that have our triggers."""
    return {row[0] for row in await db.fetch("select relid::regclass::text from rowcast.captured")}


async def named(db: asyncpg.Connection, reader: Any) -> list[tuple[str, str, Any]]:
    """What is new, as (operation, table, the key of the row)."""
    rows = await reader.rows()
    found = await db.fetch("select id, table_name from rowcast.relations")
    tables = {record["id"]: record["table_name"] for record in found}
    return [
        (row.op, tables[row.relation], json.loads(row.record or row.old_record or "{}").get("id"))
        for row in rows
    ]


@pytest.mark.parametrize("ops", ["insert", "insert, update", "update, delete", "truncate", ""])
async def test_only_the_operations_that_are_published_are_captured(
    capturing: asyncpg.Connection, reader: Any, follow: Follow, ops: str
) -> None:
    await follow(
        "create table t (id int primary key, n int); alter publication supabase_realtime add table t"
    )
    await follow(f"alter publication supabase_realtime set (publish = '{ops}')")
    for write in WRITES:
        await capturing.execute(write)
    expected = [write[0].upper() for write in WRITES if write.split()[0] in ops]
    assert [op for op, _, _ in await reader.changes()] == expected


async def test_a_schema_brings_the_tables_that_are_in_it(
    capturing: asyncpg.Connection, follow: Follow, recent: None
) -> None:
    await follow(
        "create schema shop; create table shop.a (id int primary key); create table b (id int primary key)"
    )
    await follow("alter publication supabase_realtime add tables in schema shop")
    assert await captured(capturing) == {"shop.a"}
    await follow("alter table b set schema shop; create table shop.c (id int primary key)")
    assert await captured(capturing) == {"shop.a", "shop.b", "shop.c"}
    await follow("alter table shop.a set schema public")
    assert await captured(capturing) == {"shop.b", "shop.c"}
    await follow("alter publication supabase_realtime drop tables in schema shop")
    assert await captured(capturing) == set()


async def test_a_schema_brings_partitions_whose_root_is_elsewhere_and_those_of_its_roots(
    capturing: asyncpg.Connection, reader: Any, follow: Follow, recent: None
) -> None:
    await follow(MEASURES + "alter publication supabase_realtime add tables in schema apart")
    await capturing.execute("insert into measures values (1, 1), (11, 1)")
    assert await named(capturing, reader) == [("I", "high", 11)]
    await follow("alter publication supabase_realtime set tables in schema public")
    await capturing.execute(
        "insert into measures values (2, 1), (12, 1); insert into apart.higher values (13, 1)"
    )
    assert sorted(await named(capturing, reader)) == [("I", "measures", n) for n in (2, 12, 13)]


async def test_all_tables_brings_every_table_but_ours_and_lets_ours_be_kept(
    capturing: asyncpg.Connection, follow: Follow
) -> None:
    await follow("create table before (id int primary key); drop publication supabase_realtime")
    await follow("create publication supabase_realtime for all tables")
    await follow("create table after (id int primary key); create unlogged table fleeting (id int)")
    assert await captured(capturing) == {"before", "after"}
    for _ in range(2):
        await capturing.execute("insert into before select count(*) from before; select rowcast.mark()")
    await capturing.execute("select rowcast.turn_outbox('0', true)")
    await capturing.execute("select rowcast.left_outbox()")
    await capturing.execute("select rowcast.mark()")
    await capturing.execute("select rowcast.trim(0); select rowcast.prune_relations()")
    await capturing.execute("select rowcast.renew_lease(3600); select rowcast.keep_outbox(true)")
    await follow("drop publication supabase_realtime")
    assert await captured(capturing) == set()


async def test_a_list_of_columns_leaves_the_others_out(
    capturing: asyncpg.Connection, reader: Any, follow: Follow, recent: None
) -> None:
    shown = "select columns, omitted from rowcast.relations where id = $1"
    await follow('create table t (id int primary key, "a b" int, secret int)')
    await follow('alter publication supabase_realtime add table t (id, "a b")')
    await capturing.execute("insert into t values (1, 2, 3)")
    await follow("alter publication supabase_realtime set table t (id, secret)")
    await capturing.execute("insert into t values (2, 2, 3)")
    await follow("alter publication supabase_realtime set table t")
    await capturing.execute("insert into t values (3, 2, 3)")
    versions = [await capturing.fetchrow(shown, row.relation) for row in await reader.rows()]
    assert [v and ([name for name, *_ in json.loads(v["columns"])], v["omitted"]) for v in versions] == [
        (["id", "a b"], ["secret"]),
        (["id", "secret"], ["a b"]),
        (["id", "a b", "secret"], []),
    ]


@pytest.mark.parametrize("via_root", [True, False])
async def test_partitions_of_several_levels_come_and_go_under_the_name_of_their_published_root(
    capturing: asyncpg.Connection, reader: Any, follow: Follow, via_root: bool
) -> None:
    await follow(
        MEASURES + "alter publication supabase_realtime add table measures;"
        f"alter publication supabase_realtime set (publish_via_partition_root = {via_root});"
        "create table last (n int, id int not null primary key)"
    )
    assert await captured(capturing) == {"measures", "low", "apart.high", "apart.higher"}
    await follow("alter table apart.high attach partition last for values from (20) to (30)")
    await capturing.execute("insert into last values (1, 21)")
    await capturing.execute(
        "insert into measures values (1, 1), (11, 1), (22, 1); update measures set id = 12 where id = 1"
    )
    assert sorted(await named(capturing, reader)) == [
        *(("I", "measures", n) for n in (1, 11, 21, 22)), ("U", "measures", 12)
    ]  # fmt: skip
    await capturing.execute("truncate apart.higher; truncate measures")
    assert await named(capturing, reader) == [("T", "measures", None)]
    await follow("alter table measures detach partition apart.high")
    assert await captured(capturing) == {"measures", "low"}
    await capturing.execute("insert into apart.high values (15, 1); insert into measures values (5, 1)")
    assert await named(capturing, reader) == [("I", "measures", 5)]


async def test_a_partitioned_partition_that_is_published_alone_is_captured_through_its_root_too(
    capturing: asyncpg.Connection, reader: Any, follow: Follow
) -> None:
    await follow(MEASURES + "alter publication supabase_realtime add table apart.high")
    await capturing.execute(
        "insert into measures values (1, 1), (11, 1); insert into apart.high values (12, 1)"
    )
    await capturing.execute(
        "insert into apart.higher values (13, 1); update measures set n = 2 where id < 12"
    )
    assert sorted(await named(capturing, reader)) == [
        *(("I", "high", n) for n in (11, 12, 13)), ("U", "high", 11)
    ]  # fmt: skip
    assert await capturing.fetchval("select bool_and(captured) from rowcast.tables")


async def test_children_that_inherit_are_captured_when_the_publication_names_them(
    capturing: asyncpg.Connection, reader: Any, follow: Follow
) -> None:
    await follow(
        "create table parent (id int primary key); create table child (primary key (id)) inherits (parent)"
    )
    await follow("alter publication supabase_realtime add table only parent")
    assert await captured(capturing) == {"parent"}
    await follow("alter publication supabase_realtime add table only child")
    await follow("create table later (primary key (id)) inherits (parent)")
    assert await captured(capturing) == {"parent", "child"}
    await capturing.execute(
        "insert into parent values (1); insert into child values (2); insert into later values (3)"
    )
    await capturing.execute("update parent set id = id + 10")
    assert sorted(await named(capturing, reader)) == [
        ("I", "child", 2), ("I", "parent", 1), ("U", "child", 12), ("U", "parent", 11)
    ]  # fmt: skip
    await follow(
        "alter table child no inherit parent; alter publication supabase_realtime drop table only parent"
    )
    assert await captured(capturing) == {"child"}


async def test_what_a_transaction_does_to_the_publication_counts_for_its_own_next_write(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute("create table t (id int primary key, n int)")
    async with capturing.transaction():
        await capturing.execute("insert into t values (1, 1)")
        await capturing.execute(
            "alter publication supabase_realtime add table t; insert into t values (2, 1)"
        )
        await capturing.execute("alter publication supabase_realtime set (publish = 'delete'); delete from t")
    assert [(op, id_) for op, _, id_ in await named(capturing, reader)] == [("I", 2), ("D", 1), ("D", 2)]


async def test_a_table_is_captured_since_the_first_moment_through_new_versions_and_from_anew_after_a_break(
    capturing: asyncpg.Connection, follow: Follow
) -> None:
    since = "select since from rowcast.tables"
    await follow(
        "create table t (id int primary key, n int); alter publication supabase_realtime add table t"
    )
    first = await capturing.fetchval(since)
    version = await capturing.fetchval("select relation from rowcast.captured")
    await follow("alter table t add column m int")
    assert await capturing.fetchval("select relation from rowcast.captured") != version
    assert await capturing.fetchval(since) == first
    await follow('alter table t disable trigger "!rowcast_update"')
    row = await capturing.fetchrow("select captured, since, reason, mend from rowcast.tables")
    assert row is not None
    assert tuple(row) == (
        False, None, "its triggers are disabled",
        'ALTER TABLE public.t ENABLE ALWAYS TRIGGER "!rowcast_update";',
    )  # fmt: skip
    await follow(row["mend"])
    second = await capturing.fetchval(since)
    assert second > first
    await follow("alter publication supabase_realtime drop table t")
    assert await capturing.fetchval("select count(*) from rowcast.tables") == 0
    await follow("alter publication supabase_realtime add table t")
    assert await capturing.fetchval(since) > second
