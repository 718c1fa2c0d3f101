"""How tables are described: the shapes of their columns, their keys, and when there is a new version."""

import json

import asyncpg
import pytest

from rowcast.capture.relations import Relations
from rowcast.model.change import Change, Op
from rowcast.model.shape import ANY, ArrayShape, RowShape
from rowcast.protocol.changes import encode_data
from support.rows import TYPES, make, shown

pytestmark = pytest.mark.anyio


async def test_shapes_resolve_domains_and_say_what_no_name_says(capturing: asyncpg.Connection) -> None:
    await capturing.execute(TYPES)
    if not await capturing.fetchval("select exists (select from pg_extension where extname = 'hstore')"):
        pytest.skip("this Postgres comes without its contrib modules")
    await capturing.execute("""
        create domain short as varchar(9);
        create table every (
          e exact_amount, s short, b char(3), m mood[], r numrange, mr int8multirange[], c citext, h map,
          t tint, ns numbers[], v checked_visit, id int, also int, primary key (id) include (also)
        );
        create table public.described (like every including all);
        alter publication supabase_realtime add table described;
        insert into described (id, e, ns) values (1, 1, '{}');
    """)
    relations = Relations()
    version = await capturing.fetchval("select relation from rowcast.outbox_0 where op = 'I'")
    await relations.load(capturing, [version])
    place = RowShape((("latitude", "float8"), ("at", "timestamptz"), ("n", "int4")))
    assert {column.name: column.shape for column in relations[version].columns} == {
        "e": "numeric", "s": "varchar", "b": "bpchar", "m": ArrayShape("enum"), "r": "range",
        "mr": ArrayShape("range"), "c": "other", "h": ANY, "t": ANY, "ns": ArrayShape(ArrayShape("float8")),
        "v": RowShape((("who", "text"), ("places", ArrayShape(place)), ("note", "json"), ("map", ANY))),
        "id": "int4", "also": "int4",
    }  # fmt: skip
    assert relations[version].key == relations[version].identity == {"id"}


async def test_text_under_a_collation_that_is_not_deterministic_is_told_apart(
    capturing: asyncpg.Connection,
) -> None:
    try:
        await capturing.execute(
            "create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except asyncpg.FeatureNotSupportedError:
        pytest.skip("this Postgres was built without ICU")
    await capturing.execute("""
        create domain loosely as text collate loose;
        create table every (
          id int primary key, a text collate loose, b varchar[] collate loose, c loosely, d text collate "C",
          e name collate loose, f text
        );
        alter publication supabase_realtime add table every;
        insert into every values (1);
    """)
    relations = Relations()
    version = await capturing.fetchval("select relation from rowcast.outbox_0 where op = 'I'")
    await relations.load(capturing, [version])
    assert [column.shape for column in relations[version].columns] == [
        "int4", "collated", ArrayShape("collated"), "collated", "text", "collated", "text",
    ]  # fmt: skip


async def test_a_change_of_a_domain_or_a_key_makes_a_new_version(capturing: asyncpg.Connection) -> None:
    await make(capturing, {"v": "bytea"})
    await capturing.execute("insert into every (v) values ('\\x01')")
    await capturing.execute("alter table every alter v type json using '{}'")
    await capturing.execute("""insert into every (v) values ('{"b":1, "a":2}')""")
    await capturing.execute("alter table every add primary_also int not null default 7")
    await capturing.execute("alter table every drop constraint every_pkey, add primary key (n, primary_also)")
    await capturing.execute("insert into every (v) values ('1e1')")
    found = [json.loads(data) for data in await shown(capturing, frozenset[str]())]
    assert [data["record"] for data in found] == [{"n": 1}, {"n": 2}, {"n": 3, "primary_also": 7}]


async def test_partitions_have_the_primary_key_of_the_table_that_is_reported(
    capturing: asyncpg.Connection,
) -> None:
    await capturing.execute("""
        create table every (id int, v text, kind int, primary key (id, kind)) partition by list (kind);
        create table of_one (kind int not null, "left out" int, v text, id int not null);
        alter table of_one drop column "left out";
        alter table every attach partition of_one for values in (1);
        alter publication supabase_realtime add table every;
        insert into every values (1, 'x', 1);
    """)
    (data,) = await shown(capturing, frozenset[str]())
    assert json.loads(data)["table"] == "every"
    assert json.loads(data)["record"] == {"id": 1, "kind": 1}


async def test_versions_described_without_shapes_are_shown_as_their_text_is(
    capturing: asyncpg.Connection,
) -> None:
    version = await capturing.fetchval("""
        insert into rowcast.relations
          (oid, root, fingerprint, schema_name, table_name, columns, identity, omitted, rls)
        values (1, 1, '', 'public', 'old', '[["id","int4"],["a","bytea"]]', '{id}', '{}', false) returning id
    """)
    relations = Relations()
    await relations.load(capturing, [version])
    assert [column.shape for column in relations[version].columns] == [None, None]
    image = rb'{"id":1,"a":"\\x01"}'
    data = encode_data(Change(relations[version], Op.INSERT, image, None, 1, "", ""))
    assert json.loads(data)["record"] == {"a": "\\x01", "id": 1}
