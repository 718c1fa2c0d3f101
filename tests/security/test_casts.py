"""What a type's own cast to json may do when rows are captured: nothing of ours."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from rowcast.db.migrations import migrate

pytestmark = pytest.mark.anyio

ODD = """
create type odd as enum ('a', 'b');
create function odd_json(odd) returns json language plpgsql as $$ begin return to_json(current_user); end $$;
create cast (odd as json) with function odd_json(odd);
"""
FUNCTION = """select function_name from rowcast.standing_triggers
where relid = $1::text::regclass and name = '!rowcast_insert'"""
WRITTEN = "select record::json from rowcast.outbox_0 where op = 'I' order by seq"
FORGE = """insert into rowcast.outbox_0 (xid, seq, ord, relation, op, record, at)
select pg_current_xact_id(), 1, 1, 1, 'I', '{"id": 666}', now()"""
ATTEMPTS = [
    FORGE,
    "delete from rowcast.outbox_0",
    "perform from rowcast.outbox_0",
    "perform from rowcast.relations",
    "perform from secrets",
    "perform setval('rowcast.lease_until', 0)",
    "perform nextval('rowcast.seq')",
    "perform last_value from rowcast.lease_until",
    "perform rowcast.stop_if_full()",
    "perform rowcast.install('secrets'::regclass)",
    "perform rowcast.pin('all')",
    "perform rowcast.row_json(row(1))",
    "execute 'reset role'",
    "execute 'set role rowcast_capture'",
    "execute 'set session authorization default'",
    "create or replace function rowcast.row_json(record) returns text language sql as 'select null::text'",
    "alter function rowcast.row_json(record) security invoker",
    "drop owned by rowcast_capture cascade",
    "create function rowcast.mine() returns int language sql as 'select 1'",
]
#: Types of columns, a value of each, and its JSON.
PLACES = [
    ("odd", "'a'", '"rowcast_json"'),
    ("hidden", "'a'", '"rowcast_json"'),
    ("odd[]", "'{a}'", '["rowcast_json"]'),
    ("pair", "'(1,a)'", '{"n":1,"o":"rowcast_json"}'),
    ("wide[]", "array[row(row(1, 'a'))::wide]", '[{"p":{"n":1,"o":"rowcast_json"}}]'),
    ("spread", "'[a,b]'", '"rowcast_json"'),
    ("pairs", "row(1, 'a')", '{"n":1,"o":"rowcast_json"}'),
]


@pytest.fixture
async def owner(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection, to a database whose lease runs, with a table that nobody may read."""
    connection = await asyncpg.connect(migrated)
    await connection.execute("select rowcast.renew_lease(3600); create table secrets (n int)")
    yield connection
    await connection.close()


@pytest.fixture
async def mallory(owner: asyncpg.Connection, migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """The connection of a role with a schema ``hers``, and nothing else."""
    name = f"mallory_{await owner.fetchval('select current_database()')}"
    await owner.execute(f"create role {name} login password 'x'; create schema hers authorization {name}")
    address = migrated.replace("//postgres:", f"//{name}:", 1)
    connection = await asyncpg.connect(address, user=name, password="x")
    yield connection
    await connection.close()
    await owner.execute(f"drop owned by {name} cascade; drop role {name}")


async def written(owner: asyncpg.Connection) -> list[str]:
    return [str(row[0]) for row in await owner.fetch(WRITTEN)]


async def set_cast(connection: asyncpg.Connection, attempt: str) -> None:
    """Have the cast try something, and tell how that went."""
    await connection.execute(f"""
        create or replace function odd_json(odd) returns json language plpgsql as $cast$
        begin
          {attempt};
          return to_json('done as '::text || current_user);
        exception when others then
          return to_json('refused'::text);
        end $cast$
    """)


async def test_a_cast_to_json_has_no_right_on_anything_of_ours(owner: asyncpg.Connection) -> None:
    await owner.execute(ODD)
    await owner.execute("create table odds (o odd); alter publication supabase_realtime add table odds")
    for attempt in ("null", *ATTEMPTS):
        await set_cast(owner, attempt)
        await owner.execute("insert into odds values ('a')")
    refused = {attempt: '{"o":"refused"}' for attempt in ATTEMPTS}
    assert dict(zip(("null", *ATTEMPTS), await written(owner), strict=True)) == {
        "null": '{"o":"done as rowcast_json"}',
        **refused,
    }


async def test_the_role_that_casts_run_as_may_use_nothing_in_our_schemas(owner: asyncpg.Connection) -> None:
    rights = await owner.fetch("""
        select p.oid::regprocedure::text from pg_proc as p
        where p.pronamespace = 'rowcast'::regnamespace
          and has_function_privilege('rowcast_json', p.oid, 'execute')
        union all
        select k.oid::regclass::text from pg_class as k
        where k.relnamespace::regnamespace::text in ('rowcast', 'realtime') and case
          when k.relkind = 'S' then has_sequence_privilege('rowcast_json', k.oid, 'usage, select, update')
          when k.relkind <> 'i' then has_table_privilege('rowcast_json', k.oid,
            'select, insert, update, delete, truncate, references, trigger') end
        union all
        select n.nspname from pg_namespace as n
        where n.nspname in ('rowcast', 'realtime', 'auth')
          and has_schema_privilege('rowcast_json', n.oid, 'usage, create')
        union all
        select m.roleid::regrole::text from pg_auth_members as m where m.member = 'rowcast_json'::regrole
    """)
    # It owns the one, and may not look up its name.
    assert [row[0] for row in rights] == ["rowcast.row_json(record)"]


async def test_a_cast_is_found_wherever_in_a_type_it_is(owner: asyncpg.Connection) -> None:
    await owner.execute(ODD)
    await owner.execute("""
        create domain hidden as odd;
        create type pair as (n int, o hidden);
        create type wide as (p pair);
        create type spread as range (subtype = odd);
        create function spread_json(spread) returns json language sql as 'select to_json(current_user)';
        create cast (spread as json) with function spread_json(spread);
        create table pairs (n int, o odd);
    """)
    for number, (column, value, _) in enumerate(PLACES):
        await owner.execute(f"""
            create table odds_{number} (c {column});
            alter publication supabase_realtime add table odds_{number};
            insert into odds_{number} values ({value})
        """)
    assert await written(owner) == [f'{{"c":{read}}}' for _, _, read in PLACES]


@pytest.mark.parametrize("kind", ["statements", "rows", "filters", "filtered rows"])
async def test_every_kind_of_trigger_confines_casts(owner: asyncpg.Connection, kind: str) -> None:
    await owner.execute(ODD)
    await owner.execute("create table odds (id int, o odd); alter table odds replica identity full")
    if "rows" in kind:
        await owner.execute("create table children () inherits (odds)")
    where = "where (id > 0)" if "filter" in kind else ""
    try:
        await owner.execute(f"alter publication supabase_realtime add table only odds {where}")
    except asyncpg.PostgresSyntaxError:
        pytest.skip("row filters came with PostgreSQL 15")
    await owner.execute("insert into odds values (1, 'a'); update odds set id = 2; delete from odds")
    images = await owner.fetch(
        "select op, record::json ->> 'o', old_record::json ->> 'o' from rowcast.outbox_0"
    )
    who = "rowcast_json"
    kept = [tuple(row) for row in images if row[0] in (b"I", b"U", b"D")]
    assert kept == [(b"I", who, None), (b"U", who, who), (b"D", None, who)]


async def test_tables_without_such_a_cast_do_not_pay_for_it(owner: asyncpg.Connection) -> None:
    await owner.execute("""
        create type plain as enum ('a');
        create type built_in as enum ('a');
        create function built_in_json(built_in) returns json language internal as 'enum_recv';
        create cast (built_in as json) with function built_in_json(built_in);
        create table things (id int, p plain, b built_in[]);
        alter publication supabase_realtime add table things;
    """)
    assert await owner.fetchval(FUNCTION, "things") == "capture_insert"
    await owner.execute("""
        create function plain_json(plain) returns json language sql as $$ select to_json('x'::text) $$;
        create cast (plain as json) with function plain_json(plain);
    """)
    assert await owner.fetchval(FUNCTION, "things") == "capture_insert_confined"
    await owner.execute("drop cast (plain as json)")
    assert await owner.fetchval(FUNCTION, "things") == "capture_insert"


async def test_who_may_write_to_the_outbox_anyway_pays_nothing(
    owner: asyncpg.Connection, mallory: asyncpg.Connection
) -> None:
    await mallory.execute("create table hers.own (id int)")
    await owner.execute("alter publication supabase_realtime add table hers.own")
    assert await owner.fetchval(FUNCTION, "hers.own") == "capture_insert_confined"
    name = await mallory.fetchval("select current_user")
    await owner.execute(f"grant rowcast_capture to {name}")
    try:
        await owner.execute("select rowcast.install(relid) from rowcast.stale_tables() as relid")
        assert await owner.fetchval(FUNCTION, "hers.own") == "capture_insert"
    finally:
        await owner.execute(f"revoke rowcast_capture from {name}")


@pytest.mark.parametrize("whose", ["the type", "the table"])
async def test_a_cast_that_comes_in_the_transaction_that_writes_is_confined(
    owner: asyncpg.Connection, mallory: asyncpg.Connection, whose: str
) -> None:
    await mallory.execute("create type hers.odd as enum ('a')")
    if whose == "the type":
        await mallory.execute("grant usage on schema hers to public")
        await owner.execute("create table things (o hers.odd); grant insert on things to public")
    else:
        await mallory.execute("create table hers.things (id int)")
    table = "things" if whose == "the type" else "hers.things"
    await owner.execute(f"alter publication supabase_realtime add table {table}")
    # Nobody follows the DDL.
    await mallory.execute("set rowcast.installing = 'on'")
    async with mallory.transaction():
        await mallory.execute("""
            create function hers.show(hers.odd) returns json language sql
              as $$ select to_json(current_user) $$;
            create cast (hers.odd as json) with function hers.show(hers.odd);
        """)
        if whose == "the table":
            await mallory.execute("alter table hers.things drop id, add o hers.odd")
        await mallory.execute(f"insert into {table} (o) values ('a')")
    assert await written(owner) == ['{"o":"rowcast_json"}']


async def test_what_a_cast_puts_into_the_search_path_is_not_found_by_the_trigger(
    owner: asyncpg.Connection, mallory: asyncpg.Connection
) -> None:
    """Names that the rest of the trigger looks up, with the rights to write into the outbox."""
    await mallory.execute("create table hers.things (id int, o text); create table hers.caught (who text)")
    await owner.execute("alter publication supabase_realtime add table hers.things")
    await mallory.execute("""
        grant usage on schema hers to public; grant insert on hers.caught to public;
        create function hers.catch(bigint, int) returns bigint language plpgsql as $$
          begin insert into hers.caught values (current_user); return 0; end $$;
        create function hers.currval(text) returns bigint language plpgsql as $$
          begin insert into hers.caught values (current_user); return 0; end $$;
        create function hers.above(timestamptz, timestamptz) returns bool language plpgsql as $$
          begin insert into hers.caught values (current_user); return false; end $$;
        create operator hers.% (leftarg = bigint, rightarg = int, function = hers.catch);
        create operator hers.> (leftarg = timestamptz, rightarg = timestamptz, function = hers.above);
        create type hers.odd as enum ('a');
        create function hers.show(hers.odd) returns json language plpgsql as $$
        begin
          perform set_config('search_path', 'hers, pg_catalog', false);
          return to_json('x'::text);
        end $$;
        create cast (hers.odd as json) with function hers.show(hers.odd);
        alter table hers.things alter o type hers.odd using null;
        insert into hers.things values (1, 'a'), (2, 'a');
    """)
    assert len(await written(owner)) == 2
    assert await owner.fetch("select * from hers.caught") == []


async def test_who_drops_what_casts_run_in_fails_nobodys_writes_and_migrating_mends_it(
    owner: asyncpg.Connection, mallory: asyncpg.Connection, migrated: str
) -> None:
    await mallory.execute(f"set search_path = hers; {ODD}; create table odds (o odd)")
    await owner.execute("alter publication supabase_realtime add table hers.odds")
    await set_cast(mallory, "drop owned by rowcast_json")
    # Once for itself, and then with the function gone.
    await mallory.execute("insert into odds values ('a')")
    await mallory.execute("insert into odds values ('a')")
    assert await owner.fetchval("select rowcast.unfit()") == (
        "the function rowcast.row_json is gone: run rowcast migrate"
    )
    assert "is missing" in await owner.fetchval("select reason from rowcast.tables")
    await set_cast(mallory, "null")
    await migrate(migrated)
    await owner.execute("select rowcast.install(relid) from rowcast.stale_tables() as relid")
    await mallory.execute("insert into odds values ('b')")
    assert (await written(owner))[-1] == '{"o":"done as rowcast_json"}'


async def test_a_cast_that_raises_fails_the_statement_as_a_trigger_of_the_table_would(
    owner: asyncpg.Connection,
) -> None:
    await owner.execute(ODD)
    await owner.execute("create table odds (o odd); alter publication supabase_realtime add table odds")
    await owner.execute("""
        create or replace function odd_json(odd) returns json language plpgsql as
          $$ begin raise 'no json for you'; end $$
    """)
    with pytest.raises(asyncpg.RaiseError, match="no json for you"):
        await owner.execute("insert into odds values ('a')")
