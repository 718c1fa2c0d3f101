"""Watching a table never breaks its owner's writes, and never claims what is not so."""

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.capture.watching import split_name, unwatch, watch
from rowcast.errors import WatchError

pytestmark = pytest.mark.anyio

# Each makes a table `t` that Postgres would not let anyone update once it is published as it is.
UNIDENTIFIED = {
    "no key": "create table t (id int, n int)",
    "identity nothing": "create table t (id int primary key, n int); alter table t replica identity nothing",
    "deferrable key": "create table t (id int primary key deferrable, n int)",
    "identity index dropped": """
        create table t (id int primary key, n int not null constraint once unique);
        alter table t replica identity using index once; alter table t drop constraint once""",
    "a partition without": """
        create table t (id int primary key, n int) partition by range (id);
        create table part partition of t for values from (0) to (9);
        alter table part replica identity nothing""",
    "a child without": "create table t (id int primary key, n int); create table child () inherits (t)",
}
IDENTIFIED = {
    "primary key": "create table t (id int primary key, n int)",
    "full": "create table t (id int, n int); alter table t replica identity full",
    "an index": """
        create table t (id int not null constraint once unique, n int);
        alter table t replica identity using index once""",
    "partitions": """
        create table t (id int primary key, n int) partition by range (id);
        create table part partition of t for values from (0) to (9)""",
}

FOREIGN = "create foreign data wrapper nothing; create server elsewhere foreign data wrapper nothing;"


@pytest.fixture
async def db(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(migrated)
    yield connection
    await connection.close()


async def captured(db: asyncpg.Connection) -> set[str]:
    return {row[0] for row in await db.fetch("select table_name from rowcast.tables where captured")}


async def write(db: asyncpg.Connection) -> None:
    await db.execute("insert into t values (1, 1)")
    await db.execute("update t set n = 2")
    await db.execute("delete from t")


@pytest.mark.parametrize("table", UNIDENTIFIED.values(), ids=UNIDENTIFIED)
async def test_a_table_whose_updates_would_fail_is_refused_and_left_as_it_is(
    db: asyncpg.Connection, table: str
) -> None:
    await db.execute(table)
    with pytest.raises(WatchError, match="REPLICA IDENTITY FULL"):
        await watch(db, "t")
    assert await captured(db) == set()
    await write(db)


@pytest.mark.parametrize("table", UNIDENTIFIED.values(), ids=UNIDENTIFIED)
async def test_with_full_identity_it_is_captured_and_can_be_written(
    db: asyncpg.Connection, table: str
) -> None:
    await db.execute(table)
    await watch(db, "t", identity_full=True)
    assert "t" in await captured(db)
    await write(db)


@pytest.mark.parametrize("table", IDENTIFIED.values(), ids=IDENTIFIED)
async def test_a_table_with_an_identity_is_captured_and_can_be_written(
    db: asyncpg.Connection, table: str
) -> None:
    await db.execute(table)
    assert (await watch(db, "t")).changed
    assert "t" in await captured(db)
    await write(db)


@pytest.mark.parametrize("publication", ["for all tables", "for tables in schema public"])
async def test_a_table_that_the_publication_covers_is_captured_already_and_cannot_be_taken_out_alone(
    db: asyncpg.Connection, publication: str
) -> None:
    if "schema" in publication and db.get_server_version().major < 15:
        pytest.skip("publications of schemas exist from PostgreSQL 15 on")
    await db.execute("create table t (id int primary key, n int); drop publication supabase_realtime")
    await db.execute("set client_min_messages = error")
    await db.execute(f"create publication supabase_realtime {publication}")
    assert not (await watch(db, "t")).changed
    with pytest.raises(WatchError, match="stays captured"):
        await unwatch(db, "t")
    assert "t" in await captured(db)


async def test_a_partition_of_a_captured_table_cannot_be_taken_out_alone(db: asyncpg.Connection) -> None:
    await db.execute(IDENTIFIED["partitions"])
    await watch(db, "t")
    assert not (await watch(db, "part")).changed
    with pytest.raises(WatchError, match="stays captured"):
        await unwatch(db, "part")
    await unwatch(db, "t")
    assert await captured(db) == set()


async def test_a_table_that_has_a_row_filter_keeps_it(db: asyncpg.Connection) -> None:
    if db.get_server_version().major < 15:
        pytest.skip("row filters exist from PostgreSQL 15 on")
    await db.execute("create table t (id int primary key)")
    await db.execute("alter publication supabase_realtime add table t where (id > 1)")
    assert not (await watch(db, "t")).changed
    assert await db.fetchval("select filter from rowcast.tables where captured") == "(id > 1)"


async def test_without_the_publication_it_says_how_to_make_it(db: asyncpg.Connection) -> None:
    await db.execute("create table t (id int primary key); drop publication supabase_realtime")
    with pytest.raises(WatchError, match="CREATE PUBLICATION supabase_realtime"):
        await watch(db, "t")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        ("create view t as select 1 as id", "a view: .* Watch the tables it reads\\."),
        (
            "create table tt (id int); create table b (id int); create view t as select from tt, b",
            "Watch the tables it reads: public.b, public.tt\\.",
        ),
        ("create materialized view t as select 1 as id", "a materialized view"),
        ("create unlogged table t (id int primary key)", "ALTER TABLE public.t SET LOGGED;"),
        ("create sequence t", "a sequence"),
        ("create type t as (id int)", "a type"),
        ("create table tt (id int); create index t on tt (id)", "an index. Watch its table"),
        ("create temporary table t (id int primary key)", "There is no table public.t"),
        (
            f"{FOREIGN} create foreign table t (id int) server elsewhere",
            "Watch it in the database where it lives",
        ),
        (
            f"{FOREIGN} create table t (id int) partition by range (id); alter table t replica identity full;"
            "create foreign table part partition of t for values from (0) to (9) server elsewhere",
            "of its partition public.part, it is a foreign table. Watch the other partitions by their names",
        ),
        (
            "create table t (id int primary key) partition by range (id);"
            "create unlogged table part partition of t for values from (0) to (9)",
            "of its partition public.part, it is unlogged. Run ALTER TABLE public.part SET LOGGED; first",
        ),
        ("create table tt (id int primary key)", "Did you mean public.tt"),
    ],
)
async def test_what_cannot_be_captured_is_refused_with_the_reason(
    db: asyncpg.Connection, make: str, reason: str
) -> None:
    await db.execute(make)
    with pytest.raises(WatchError, match=reason):
        await watch(db, "t")


@pytest.mark.parametrize(
    "table", ["pg_catalog.pg_class", "rowcast.relations", "rowcast.survival", "rowcast.tables"]
)
async def test_system_tables_are_never_captured(db: asyncpg.Connection, table: str) -> None:
    with pytest.raises(WatchError, match="never captured"):
        await watch(db, table)


async def test_a_hostile_name_is_only_a_name(db: asyncpg.Connection) -> None:
    name = 'a.b"; drop publication supabase_realtime; --'
    quoted = '"' + name.replace('"', '""') + '"'
    await db.execute(f"create table {quoted} (id int primary key)")
    await watch(db, quoted)
    assert await captured(db) == {name}
    await unwatch(db, quoted)
    assert await captured(db) == set()


async def test_the_hint_names_the_roles_that_may_not_read(db: asyncpg.Connection) -> None:
    await db.execute("create table t (id int primary key); grant select on t to anon")
    assert (await watch(db, "t")).hint == "GRANT SELECT ON public.t TO authenticated;"
    await db.execute("grant select on t to authenticated")
    assert (await watch(db, "t")).hint is None
    await db.execute("create schema shop; create table shop.t (id int primary key)")
    assert (await watch(db, "shop.t")).hint == (
        "GRANT USAGE ON SCHEMA shop TO anon, authenticated; GRANT SELECT ON shop.t TO anon, authenticated;"
    )


async def test_children_that_inherit_are_added_with_their_parent_and_taken_out_with_it(
    db: asyncpg.Connection,
) -> None:
    await db.execute("create table t (id int primary key, n int)")
    await db.execute("create table child (primary key (id)) inherits (t)")
    assert (await watch(db, "t")).changed
    await db.execute("create table later (primary key (id)) inherits (child)")
    assert await captured(db) == {"t", "child"}
    assert (await watch(db, "t")).changed
    assert await captured(db) == {"t", "child", "later"}
    assert not (await watch(db, "t")).changed
    await db.execute("create table last (primary key (id)) inherits (t)")
    assert (await unwatch(db, "t")).changed
    assert await captured(db) == set()


async def test_who_may_not_watch_somebodys_table_is_told_who_may_and_what_to_run(
    db: asyncpg.Connection, migrated: str
) -> None:
    guest, owner = f"guest_{uuid4().hex}", f"owner_{uuid4().hex}"
    await db.execute(f"create role {guest} in role pg_read_all_data; create role {owner}")
    try:
        await db.execute(f"create table t (id int primary key); alter table t owner to {owner}")
        await db.execute(f"grant usage on schema rowcast to {guest}")
        functions = f"grant execute on all functions in schema rowcast to {guest}"
        await db.execute(
            f"{functions}; grant all on all tables in schema rowcast to {guest}; set role {guest}"
        )
        with pytest.raises(WatchError) as added:
            await watch(db, "t")
        assert f"public.t belongs to {owner}" in str(added.value)
        assert f"GRANT TRIGGER ON public.t TO {guest}; ALTER PUBLICATION supabase_realtime ADD" in str(
            added.value
        )
        await db.execute("reset role")
        await watch(db, "t")
        await db.execute(f"set role {guest}")
        with pytest.raises(
            WatchError, match=r"one run ALTER PUBLICATION supabase_realtime DROP TABLE public\.t;"
        ):
            await unwatch(db, "t")
    finally:
        await db.execute("reset role")
        await db.execute(f"drop owned by {guest}, {owner} cascade; drop role {guest}, {owner}")


@given(st.text(min_size=1), st.text(min_size=1))
def test_quoted_names_are_read_back(schema: str, table: str) -> None:
    def quote(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    assert split_name(f"{quote(schema)}.{quote(table)}") == (schema, table)
    assert split_name(quote(table)) == ("public", table)
