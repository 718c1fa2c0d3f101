"""What statements leave in the outbox, whatever surrounds them."""

import json
from typing import Any

import asyncpg
import pytest

pytestmark = pytest.mark.anyio

TABLE = """
create table items (id int primary key, v text);
alter publication supabase_realtime add table items;
"""


async def test_an_insert_an_update_and_a_delete_carry_both_images(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute(TABLE)
    await capturing.execute("insert into items values (1, 'a')")
    await capturing.execute("update items set v = 'b'")
    await capturing.execute("delete from items")
    assert await reader.changes() == [
        ("I", None, '{"id":1,"v":"a"}'),
        ("U", '{"id":1,"v":"a"}', '{"id":1,"v":"b"}'),
        ("D", '{"id":1,"v":"b"}', None),
    ]


async def test_a_statement_that_changes_no_row_leaves_nothing(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute(TABLE)
    await capturing.execute("insert into items select 1, 'x' where false")
    await capturing.execute("update items set v = 'b'")
    await capturing.execute("delete from items")
    assert await reader.changes() == []


async def test_what_is_rolled_back_is_never_read(capturing: asyncpg.Connection, reader: Any) -> None:
    await capturing.execute(TABLE)
    await capturing.execute("begin; insert into items values (1, 'a'); rollback")
    await capturing.execute(
        "begin; insert into items values (2, 'kept'); savepoint s; insert into items values (3, 'undone');"
        " rollback to s; commit"
    )
    assert await reader.changes() == [("I", None, '{"id":2,"v":"kept"}')]


async def test_keys_that_are_swapped_pair_each_row_with_itself(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute(
        "create table pairs (id int, v text, unique (id) deferrable initially deferred);"
        "alter table pairs replica identity full;"
        "alter publication supabase_realtime add table pairs;"
        "insert into pairs values (1, 'one'), (2, 'two')"
    )
    await reader.rows()
    await capturing.execute("update pairs set id = 3 - id")
    assert [(json.loads(old or ""), json.loads(new or "")) for _, old, new in await reader.changes()] == [
        ({"id": 1, "v": "one"}, {"id": 2, "v": "one"}),
        ({"id": 2, "v": "two"}, {"id": 1, "v": "two"}),
    ]


async def test_on_conflict_do_update_gives_inserts_and_updates(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute(TABLE)
    await capturing.execute("insert into items values (1, 'a')")
    await capturing.execute(
        "insert into items values (1, 'A'), (2, 'B') on conflict (id) do update set v = excluded.v"
    )
    assert sorted(await reader.changes(), key=str) == [
        ("I", None, '{"id":1,"v":"a"}'),
        ("I", None, '{"id":2,"v":"B"}'),
        ("U", '{"id":1,"v":"a"}', '{"id":1,"v":"A"}'),
    ]


async def test_merge_gives_what_each_of_its_branches_did(capturing: asyncpg.Connection, reader: Any) -> None:
    if capturing.get_server_version().major < 15:
        pytest.skip("MERGE came with PostgreSQL 15")
    await capturing.execute(TABLE)
    await capturing.execute("insert into items values (1, 'a'), (2, 'b')")
    await reader.rows()
    await capturing.execute(
        "merge into items using (values (1, 'A'), (2, null), (3, 'C')) as new (id, v) on items.id = new.id"
        " when matched and new.v is null then delete when matched then update set v = new.v"
        " when not matched then insert values (new.id, new.v)"
    )
    assert sorted(await reader.changes(), key=str) == [
        ("D", '{"id":2,"v":"b"}', None),
        ("I", None, '{"id":3,"v":"C"}'),
        ("U", '{"id":1,"v":"a"}', '{"id":1,"v":"A"}'),
    ]


async def test_copy_and_statements_of_ten_thousand_rows_are_read_by_pages(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute(TABLE)
    await capturing.copy_records_to_table("items", records=[(n, "copied") for n in range(10_000)])
    await capturing.execute("update items set v = 'changed'")
    sizes, seen = [], []
    async for page in reader.reader.read(reader.connection):
        sizes.append(len(page.rows))
        seen += [row for row in page.rows if row.op != "C"]
    assert max(sizes) <= 1000
    assert [row.op for row in seen] == ["I"] * 10_000 + ["U"] * 10_000
    assert [json.loads(row.record)["id"] for row in seen[:10_000]] == list(range(10_000))


async def test_an_update_of_many_rows_is_no_slower_where_the_session_updated_single_ones_before(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute(TABLE)
    await capturing.execute("insert into items select n, 'a' from generate_series(1, 10000) as n")
    for _ in range(10):
        await capturing.execute("update items set v = 'b' where id = 1")
    # A plan made for one row, a nested loop, takes two minutes; another takes less than a second.
    await capturing.execute("set statement_timeout = '60s'; update items set v = 'c'")
    assert sum(row.op == "U" for row in await reader.rows()) == 10_010


async def test_truncate_is_captured_once_a_statement(capturing: asyncpg.Connection, reader: Any) -> None:
    await capturing.execute(TABLE)
    await capturing.execute("insert into items values (1, 'a'), (2, 'b'); truncate items")
    assert [op for op, _, _ in await reader.changes()] == ["I", "I", "T"]


async def test_inserts_into_a_table_without_primary_key_are_captured(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute("create table bare (v int); alter publication supabase_realtime add table bare")
    await capturing.execute("insert into bare values (1)")
    assert await reader.changes() == [("I", None, '{"v":1}')]


async def test_a_users_triggers_that_write_the_same_table_come_after_what_fired_them(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute("""
        create table nested (id int primary key, n int not null);
        alter publication supabase_realtime add table nested;
        create function again() returns trigger language plpgsql as $$
        begin
          if new.n < 3 then
            update nested set n = n + 1 where id = new.id;
          end if;
          return null;
        end $$;
        create trigger again after insert or update on nested for each row execute function again();
    """)
    await capturing.execute("insert into nested select g, 0 from generate_series(1, 3) as g")
    rows = await reader.rows()
    for id_ in (1, 2, 3):
        counts = [json.loads(row.record)["n"] for row in rows if json.loads(row.record)["id"] == id_]
        assert counts == [0, 1, 2, 3]


async def test_partitions_their_moves_and_direct_writes_carry_the_roots_name(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute("""
        create table measures (day int, v text, primary key (day)) partition by range (day);
        create table measures_low partition of measures for values from (0) to (100);
        alter publication supabase_realtime add table measures;
        create table measures_high partition of measures for values from (100) to (200);
        create table late (v text, day int not null primary key);
        alter table measures attach partition late for values from (200) to (300);
    """)
    await capturing.execute("insert into measures values (1, 'routed')")
    await capturing.execute("insert into measures_high values (150, 'd')")
    await capturing.execute("update measures set day = 110 where day = 1; insert into late values ('l', 250)")
    rows = await reader.rows()
    names = {
        row["id"]: (row["schema_name"], row["table_name"])
        for row in await capturing.fetch("select id, schema_name, table_name from rowcast.relations")
    }
    assert {names[row.relation] for row in rows} == {("public", "measures")}
    assert [(row.op, row.old_record, row.record) for row in rows] == [
        ("I", None, '{"day":1,"v":"routed"}'),
        ("I", None, '{"day":150,"v":"d"}'),
        ("U", '{"day":1,"v":"routed"}', '{"day":110,"v":"routed"}'),
        ("I", None, '{"v":"l","day":250}'),
    ]


async def test_children_by_inheritance_are_captured_with_columns_of_their_own(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute("""
        create table parent (id int primary key, a text);
        create table child (b text) inherits (parent);
        alter table child replica identity full;
        alter publication supabase_realtime add table parent;
    """)
    await capturing.execute("insert into parent values (1, 'p'); insert into child values (2, 'c', 'own')")
    await capturing.execute("update parent set a = a || '!'")
    assert sorted(await reader.changes(), key=str) == [
        ("I", None, '{"id":1,"a":"p"}'),
        ("I", None, '{"id":2,"a":"c","b":"own"}'),
        ("U", '{"id":1,"a":"p"}', '{"id":1,"a":"p!"}'),
        ("U", '{"id":2,"a":"c","b":"own"}', '{"id":2,"a":"c!","b":"own"}'),
    ]


async def test_a_writers_session_settings_change_nothing_and_stay_as_they_were(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute("""
        create table kinds (
          id int primary key, at timestamptz, i interval, b bytea, f float8, r tstzrange, m money);
        alter publication supabase_realtime add table kinds;
    """)
    insert = """insert into kinds values ($1, '2026-01-02 03:04:05+00', '1 day 02:00', '\\xdead', 0.1,
        '[2026-01-02 03:04:05+00,)', 1.5)"""
    await capturing.execute(insert.replace("$1", "1"))
    hostile = {
        "TimeZone": "Asia/Tokyo", "DateStyle": "German, DMY", "IntervalStyle": "iso_8601",
        "bytea_output": "escape", "extra_float_digits": "-5", "xmloption": "document",
    }  # fmt: skip
    for name, value in hostile.items():
        await capturing.execute("select set_config($1, $2, false)", name, value)
    await capturing.execute(insert.replace("$1", "2"))
    for name, value in hostile.items():
        assert await capturing.fetchval("select current_setting($1)", name) == value
    first, second = (json.loads(row.record) for row in await reader.rows())
    assert {**first, "id": 2} == second
    assert first["at"] == "2026-01-02T03:04:05+00:00"
    assert first["i"] == "1 day 02:00:00"


async def test_hostile_names_of_tables_and_columns_are_captured(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    table = '"we.ird ""schema\'"."t\'a b;le 😀"'
    await capturing.execute('create schema "we.ird ""schema\'"')
    await capturing.execute(
        f'create table {table} (id int primary key, image text, rowcast_new text, "new" text, change text,'
        ' "a""b" text)'
    )
    await capturing.execute(f"alter publication supabase_realtime add table {table}")
    await capturing.execute(f"insert into {table} values (1, 'i', 'r', 'n', 'c', 'q')")
    ((_, _, record),) = await reader.changes()
    expected = {"id": 1, "image": "i", "rowcast_new": "r", "new": "n", "change": "c", 'a"b': "q"}
    assert json.loads(record) == expected


async def test_writes_under_session_replication_role_replica_are_captured(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute(TABLE)
    await capturing.execute("set session_replication_role = replica; insert into items values (1, 'a')")
    assert [op for op, _, _ in await reader.changes()] == ["I"]


async def test_changes_around_ddl_in_one_transaction_have_versions_of_their_own(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute(TABLE)
    async with capturing.transaction():
        await capturing.execute("insert into items values (1, 'a')")
        await capturing.execute("alter table items add column extra int default 5")
        await capturing.execute("insert into items values (2, 'b')")
        await capturing.execute("alter table items rename to renamed")
        await capturing.execute("alter table renamed drop column v")
        await capturing.execute("insert into renamed values (3, 7)")
    rows = await reader.rows()
    version = "select table_name, columns from rowcast.relations where id = $1"
    versions = [await capturing.fetchrow(version, row.relation) for row in rows]
    assert [(v["table_name"], [name for name, *_ in json.loads(v["columns"])]) for v in versions if v] == [
        ("items", ["id", "v"]),
        ("items", ["id", "v", "extra"]),
        ("renamed", ["id", "extra"]),
    ]


async def test_an_insert_before_a_drop_is_still_read(capturing: asyncpg.Connection, reader: Any) -> None:
    await capturing.execute(TABLE)
    await capturing.execute("begin; insert into items values (1, 'a'); drop table items; commit")
    assert await reader.changes() == [("I", None, '{"id":1,"v":"a"}')]


async def test_a_table_that_leaves_the_publication_is_no_longer_captured(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute(TABLE)
    await capturing.execute("alter publication supabase_realtime drop table items")
    await capturing.execute("insert into items values (1, 'a')")
    assert await reader.changes() == []
    assert not await capturing.fetchval("select exists (select from rowcast.standing_triggers)")


async def test_nothing_is_captured_once_the_lease_has_run_out(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute(TABLE)
    await capturing.execute("select setval('rowcast.lease_until', 1)")
    await capturing.execute("insert into items values (1, 'a')")
    assert await reader.changes() == []


async def test_a_role_that_may_only_write_its_table_can_write_while_it_is_captured(
    capturing: asyncpg.Connection, reader: Any
) -> None:
    await capturing.execute(TABLE)
    await capturing.execute("grant insert on items to anon")
    await capturing.execute("set role anon; insert into items values (1, 'a'); reset role")
    assert [op for op, _, _ in await reader.changes()] == ["I"]
