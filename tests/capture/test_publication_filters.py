"""Row filters of the publication, with the meaning that logical replication gives them."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from rowcast.capture.tables import reconcile

pytestmark = pytest.mark.anyio

Follow = Callable[[str], Awaitable[None]]
FUNCTIONS = "select count(*) from pg_proc where proname ~ '^capture_.*_[0-9a-f]{32}$'"
OWN = """
create table t (id int primary key, n int, v text);
alter table t replica identity full;
alter publication supabase_realtime add table t where (%s);
"""
# The same table where its triggers are for each row: a child that is published without its parent.
CHILD = "create table parent (id int, dropped int, n int); alter table parent drop dropped;" + OWN.replace(
    "(id int primary key, n int, v text)", "(v text, primary key (id)) inherits (parent)"
)


@pytest.fixture(params=["event triggers", "timer"])
async def follow(request: pytest.FixtureRequest, capturing: asyncpg.Connection) -> Follow:
    """Run DDL, and return once it was followed."""
    if capturing.get_server_version().major < 15:
        pytest.skip("row filters came with PostgreSQL 15")
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


async def images(reader: Any) -> list[tuple[str, Any, Any]]:
    """What is new, as (operation, n of the old row, n of the new one)."""

    def n(image: str | None) -> Any:
        return image and json.loads(image)["n"]

    return [(op, n(old), n(new)) for op, old, new in await reader.changes()]


@pytest.mark.parametrize("table", [OWN, CHILD], ids=["statement", "row"])
async def test_a_row_comes_and_goes_as_it_begins_and_ceases_to_pass(
    capturing: asyncpg.Connection, reader: Any, follow: Follow, table: str
) -> None:
    await follow(table % "n > 10")
    await capturing.execute("insert into t (id, n) values (1, 5), (2, 15), (3, null), (4, 25)")
    assert await images(reader) == [("I", None, 15), ("I", None, 25)]
    # Each of: out to out, out to in, in to in, in to out, and null, which is not passing.
    for n in (6, 16, 17, 7, None, 18, None):
        await capturing.execute("update t set n = $1 where id = 1", n)
    assert await images(reader) == [
        ("I", None, 16),
        ("U", 16, 17),
        ("D", 17, None),
        ("I", None, 18),
        ("D", 18, None),
    ]
    await capturing.execute("delete from t")
    assert await images(reader) == [("D", 15, None), ("D", 25, None)]


@pytest.mark.parametrize("table", [OWN, CHILD], ids=["statement", "row"])
async def test_each_row_of_a_statement_passes_by_itself_and_is_paired_with_itself(
    capturing: asyncpg.Connection, reader: Any, follow: Follow, table: str
) -> None:
    await follow(table % "n > 10")
    await capturing.execute("insert into t (id, n) select g, g from generate_series(1, 20) as g")
    await reader.rows()
    await capturing.execute("update t set n = 21 - n, id = id + 100")
    assert sorted(await images(reader), key=str) == sorted(
        [("D", n, None) for n in range(11, 21)] + [("I", None, n) for n in range(11, 21)], key=str
    )
    await capturing.execute("update t set n = n + 1")
    assert await images(reader) == [("U", n, n + 1) if n > 10 else ("I", None, 11) for n in range(20, 9, -1)]
    await capturing.execute("truncate t")
    assert [op for op, _, _ in await reader.changes()] == ["T"]


HOSTILE = [
    "i", "o", "n", "nth", "new", "old", "image", "change", "outbox", "written", "changed_settings", "op",
    "statement_order", "tg_op", "found", "sqlerrm", "rowcast_new", "rowcast_old", "at", "seq", "relation",
    "in to", "semi;colon", 'quo"te', "$body$", "100%s", "back\\slash",
]  # fmt: skip


@pytest.mark.parametrize("parent", [False, True], ids=["statement", "row"])
async def test_columns_of_any_name_are_columns_in_a_filter(
    capturing: asyncpg.Connection, reader: Any, follow: Follow, parent: bool
) -> None:
    quoted = ['"' + name.replace('"', '""') + '"' for name in HOSTILE]
    columns = ", ".join(f"{name} int" for name in quoted)
    await follow("create table parent (id int)")
    await follow(f"create table t ({columns}) {'inherits (parent)' if parent else ''}")
    await follow("alter table t replica identity full")
    condition = " and ".join(f"{name} > 0" for name in quoted)
    await follow(f"alter publication supabase_realtime add table t where ({condition})")
    row = f"insert into t ({', '.join(quoted)}) values "
    await capturing.execute(row + f"({', '.join('1' for _ in quoted)})")
    for at in range(len(quoted)):
        await capturing.execute(row + f"({', '.join('0' if n == at else '1' for n in range(len(quoted)))})")
    await capturing.execute('update t set "i" = 2 where "i" = 1; delete from t')
    changes = await reader.changes()
    assert [op for op, _, _ in changes] == ["I", "U", "D"]
    new = json.loads(changes[0][2])
    new.pop("id", None)
    assert new == dict.fromkeys(HOSTILE, 1)


@pytest.mark.parametrize(
    "text", ["$body$ '; drop table t; --", "back\\slash", "%s %1$s %", "line\nline", "'"]
)
async def test_texts_in_a_filter_are_texts(
    capturing: asyncpg.Connection, reader: Any, follow: Follow, text: str
) -> None:
    await follow(OWN % ("v = '" + text.replace("'", "''") + "'"))
    await capturing.execute("insert into t values (1, 1, $1), (2, 2, $1 || 'x')", text)
    assert await images(reader) == [("I", None, 1)]


async def test_another_filter_counts_from_the_next_write_on_and_functions_go_with_their_last_trigger(
    capturing: asyncpg.Connection, reader: Any, follow: Follow
) -> None:
    await follow(OWN % "n > 10")
    await follow("create table u (id int primary key, n int); alter table u replica identity full")
    await follow("alter publication supabase_realtime add table u where (n > 10)")
    assert await capturing.fetchval(FUNCTIONS) == 3
    owners = "select distinct proowner::regrole::text from pg_proc where proname ~ '_[0-9a-f]{32}$'"
    assert [owner for (owner,) in await capturing.fetch(owners)] == ["rowcast_capture"]
    await follow("alter publication supabase_realtime set table t where (n > 20), u where (n > 10)")
    await capturing.execute("insert into t values (1, 15), (2, 25); insert into u values (1, 11)")
    assert await images(reader) == [("I", None, 25), ("I", None, 11)]
    await follow("drop table u; alter publication supabase_realtime set table t")
    await capturing.execute("insert into t values (3, 1)")
    assert await images(reader) == [("I", None, 1)]
    assert await reconcile(capturing)
    assert await capturing.fetchval(FUNCTIONS) == 0


async def test_a_function_is_not_dropped_while_a_trigger_that_calls_it_is_not_committed(
    capturing: asyncpg.Connection, reader: Any, migrated: str
) -> None:
    if capturing.get_server_version().major < 15:
        pytest.skip("row filters came with PostgreSQL 15")
    keeper = await asyncpg.connect(migrated)
    try:
        await capturing.execute(OWN % "n > 10")
        await capturing.execute("alter publication supabase_realtime drop table t")
        async with capturing.transaction():
            await capturing.execute("alter publication supabase_realtime add table t where (n > 10)")
            await keeper.execute("select rowcast.drop_filters()")
            assert await keeper.fetchval(FUNCTIONS) == 3
        await capturing.execute("insert into t values (1, 15)")
        assert await images(reader) == [("I", None, 15)]
        # While they are being dropped nobody relies on one: the timer does it later.
        await capturing.execute("alter publication supabase_realtime drop table t")
        async with keeper.transaction():
            await keeper.execute("select rowcast.drop_filters()")
            await capturing.execute("alter publication supabase_realtime add table t where (n > 10)")
            assert not await reconcile(capturing)
        assert await reconcile(capturing)
        await capturing.execute("insert into t values (2, 15)")
        assert await images(reader) == [("I", None, 15)]
    finally:
        await keeper.close()


PARTITIONED = """
create table t (id int, n int, primary key (id, n)) partition by range (id);
create table low partition of t for values from (0) to (10);
create table high (n int not null, id int not null, primary key (id, n));
alter table t attach partition high for values from (10) to (20);
"""


async def test_partitions_follow_the_roots_filter_where_they_are_published_by_their_root(
    capturing: asyncpg.Connection, reader: Any, follow: Follow
) -> None:
    await follow("alter publication supabase_realtime set (publish_via_partition_root = true)")
    await follow(PARTITIONED + "alter publication supabase_realtime add table t where (n > 10)")
    await follow("alter publication supabase_realtime add table low where (n > 1)")
    await capturing.execute("insert into t values (1, 5), (2, 15), (11, 6), (12, 16)")
    await capturing.execute(
        "insert into high values (7, 13), (17, 14); insert into low values (8, 3), (7, 18)"
    )
    await capturing.execute(
        "update t set id = 19, n = 4 where id = 2; update t set id = 5, n = 20 where id = 11"
    )
    assert sorted(await images(reader), key=str) == sorted(
        [*(("I", None, n) for n in (15, 16, 17, 18, 20)), ("D", 15, None)], key=str
    )


async def test_partitions_have_filters_of_their_own_where_they_are_published_by_themselves(
    capturing: asyncpg.Connection, reader: Any, follow: Follow
) -> None:
    await follow(PARTITIONED + "alter publication supabase_realtime add table t, low where (n > 10)")
    await capturing.execute("insert into t values (1, 5), (2, 15), (11, 6)")
    assert sorted(await images(reader), key=str) == [("I", None, 15), ("I", None, 6)]
    await capturing.execute("insert into low values (3, 4), (4, 14); update t set n = 20 where id = 1")
    assert await images(reader) == [("I", None, 14), ("I", None, 20)]
    tables = await capturing.fetch(
        "select distinct table_name from rowcast.relations where retired_at is null"
    )
    assert "t" in {row[0] for row in tables}
    await follow("alter publication supabase_realtime set table t")
    await capturing.execute("insert into t values (5, 5), (15, 6)")
    assert await images(reader) == [("I", None, 5), ("I", None, 6)]


async def test_a_table_that_its_whole_schema_brings_is_published_as_a_whole(
    capturing: asyncpg.Connection, reader: Any, follow: Follow
) -> None:
    await follow(OWN % "n > 10" + "alter publication supabase_realtime add tables in schema public")
    await capturing.execute("insert into t values (1, 5), (2, 15)")
    assert await images(reader) == [("I", None, 5), ("I", None, 15)]


@pytest.mark.parametrize("table", [OWN, CHILD], ids=["statement", "row"])
async def test_a_filter_that_fails_leaves_the_statement_out_and_does_not_fail_it(
    capturing: asyncpg.Connection, reader: Any, follow: Follow, table: str
) -> None:
    warned: list[Any] = []
    await follow(table % "10 / n > 1")
    await capturing.execute("set client_min_messages = warning")
    capturing.add_log_listener(lambda _, message: warned.append(message.message))
    await capturing.execute("insert into t (id, n) values (1, 0)")
    await capturing.execute("update t set n = 2")
    await capturing.execute("update t set n = 3")
    assert await images(reader) == [("U", 2, 3)]
    assert [text.startswith("Rowcast leaves out what this INSERT did to public.t") for text in warned] == [
        True,
        False,
    ]


async def test_a_filter_may_read_a_column_that_postgres_computes(
    capturing: asyncpg.Connection, reader: Any, follow: Follow
) -> None:
    kinds = ["stored", "virtual"] if capturing.get_server_version().major >= 18 else ["stored"]
    for kind in kinds:
        await follow(
            f"create table {kind} (id int primary key, n int, d int generated always as (n * 2) {kind});"
            f"alter table {kind} replica identity full;"
            f"alter publication supabase_realtime add table {kind} where (d > 10)"
        )
        await capturing.execute(f"insert into {kind} values (1, 5), (2, 6)")
        assert await images(reader) == [("I", None, 6)]


async def test_writers_of_tables_without_a_filter_call_the_functions_they_shared_before(
    capturing: asyncpg.Connection, follow: Follow
) -> None:
    await follow(
        OWN % "n > 10"
        + "create table u (id int primary key); alter publication supabase_realtime add table u"
    )
    found = await capturing.fetch(
        "select function_name from rowcast.standing_triggers where relid = 'u'::regclass order by 1"
    )
    assert [name for (name,) in found] == [
        "capture_delete",
        "capture_insert",
        "capture_truncate",
        "capture_update",
    ]
