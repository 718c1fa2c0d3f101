"""What a policy's code, a role's name or a token's claims might try on the session that judges."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from rowcast.auth.visibility import Visibility
from rowcast.model.claims import Subject
from support.visible import ROLES, images, lines, subject, version

pytestmark = pytest.mark.anyio


@pytest.fixture
async def admin(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection, to a database with a table ``notes`` whose policy calls ``trick()``."""
    connection = await asyncpg.connect(migrated)
    await connection.execute("""
        create table notes (id int primary key, owner varchar, body text);
        insert into notes values (1, 'ada', 'a'), (2, 'bob', 'b');
        alter table notes enable row level security;
        grant select on notes to anon, authenticated;
        create function trick() returns bool language sql as 'select true';
        create policy p on notes using (owner = auth.jwt() ->> 'sub' and trick());
    """)
    yield connection
    await connection.close()


async def _trick(admin: asyncpg.Connection, body: str) -> None:
    await admin.execute(
        "create or replace function trick() returns bool language plpgsql"
        f" as $$ begin {body}; return true; end $$"
    )


async def _judged(
    admin: asyncpg.Connection, judging: asyncpg.Connection, *subjects: Subject
) -> tuple[list[str], int]:
    """What is answered, and how many pairs failed."""
    relation, rows = await version(admin, "notes"), await images(admin, "notes")
    verdicts = await Visibility(ROLES, seconds=10.0, limit=60.0).judge(judging, relation, rows, subjects)
    return [verdicts.lines[one] for one in subjects], verdicts.doubts.failed


async def _is_itself(judging: asyncpg.Connection) -> None:
    """Nothing that was set while it judged is set now."""
    found = await judging.fetchrow(
        "select current_user = session_user, current_setting('role'), current_setting('search_path'),"
        " coalesce(current_setting('request.jwt.claims', true), ''), current_setting('statement_timeout'),"
        " current_setting('transaction_read_only')"
    )
    assert found is not None
    assert tuple(found) == (True, "none", '"$user", public', "", "0", "off")


@pytest.mark.parametrize(
    "attempt",
    [
        "perform set_config('role', session_user::text, true)",
        "perform set_config('role', 'none', false)",
        "execute 'reset role'",
        "execute format('set role %I', session_user)",
        "execute 'set session authorization default'",
        "perform set_config('session_authorization', session_user::text, true)",
        "create table stolen ()",
        "insert into written values (1)",
        "perform set_config('transaction_read_only', 'off', true); insert into written values (1)",
        "execute 'set transaction read write'",
        "perform nextval('counted')",
        "execute 'alter function pg_temp.rowcast_judge_1(text, text[], text[], oid, text) security invoker'",
        "execute 'create function pg_temp.mine() returns int language sql as ''select 1'''",
        "commit",
    ],
)
async def test_policies_neither_change_the_role_nor_write(
    admin: asyncpg.Connection, judging: asyncpg.Connection, attempt: str
) -> None:
    await admin.execute("""
        create table written (n int); grant all on written to public;
        create sequence counted; grant all on sequence counted to public;
        grant create on schema public to public;
    """)
    await _trick(admin, attempt)
    assert await _judged(admin, judging, subject(sub="ada")) == (["00"], 1)
    await _is_itself(judging)
    assert await admin.fetchval("select count(*) from written") == 0


async def test_a_policy_runs_as_the_role_and_not_as_who_connected(
    admin: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await admin.execute("create table secrets (n int)")
    await _trick(admin, "perform from secrets")
    assert await _judged(admin, judging, subject(sub="ada")) == (["00"], 1)
    await _trick(admin, "if current_user <> 'anon' then raise 'who?'; end if")
    assert await _judged(admin, judging, subject(sub="ada")) == (["10"], 0)
    await _is_itself(judging)


async def test_the_role_is_never_left_set_when_an_error_is_raised(
    admin: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    relation, rows = await version(admin, "notes"), await images(admin, "notes")
    visibility = Visibility(ROLES, seconds=0.05)
    bodies = {"perform 1 / 0": "00", "perform pg_sleep(60)": "?0", "raise query_canceled": "?0"}
    for body, line in bodies.items():
        await _trick(admin, body)
        assert await lines(visibility, judging, relation, rows, subject(sub="ada")) == [line]
        await _is_itself(judging)
        visibility.forget()


@pytest.mark.parametrize("local", ["true", "false"])
async def test_what_a_policy_sets_reaches_nobody_else(
    admin: asyncpg.Connection, judging: asyncpg.Connection, local: str
) -> None:
    await _trick(
        admin,
        f"""
        if auth.jwt() ->> 'sub' = 'ada' then
          perform set_config('app.seen', 'ada', {local}),
                  set_config('request.jwt.claims', '{{"sub":"bob"}}', {local}),
                  set_config('request.jwt.claim', '{{"sub":"bob"}}', {local}),
                  set_config('row_security', 'off', {local}), set_config('search_path', 'nowhere', {local}),
                  set_config('statement_timeout', '0', {local});
        elsif coalesce(current_setting('app.seen', true), '') <> '' then
          raise 'seen';
        end if
        """,
    )
    eve, bob = subject(sub="eve"), subject(sub="bob")
    await admin.execute("alter policy p on notes using (trick() and owner = auth.jwt() ->> 'sub')")
    found, failed = await _judged(admin, judging, subject(sub="ada"), eve, bob)
    # By its own policy, ada is bob from then on; nobody else is anybody else.
    assert (found[1:], failed) == (["00", "01"], 0)
    await _is_itself(judging)


async def test_nothing_a_policy_leaves_in_the_session_stays(
    admin: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await _trick(
        admin,
        """
        perform pg_advisory_lock(1);
        execute 'listen here';
        begin
          execute 'prepare mine as select 1';
        exception when duplicate_prepared_statement then null;
        end
        """,
    )
    assert await _judged(admin, judging, subject(sub="ada")) == (["10"], 0)
    assert await admin.fetchval("select pg_try_advisory_lock(1)")
    assert not await judging.fetchval(
        "select exists (select from pg_prepared_statements where name = 'mine')"
    )
    assert not await judging.fetchval("select exists (select from pg_listening_channels())")


async def test_statements_of_the_session_cannot_be_replaced(
    admin: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await _trick(
        admin,
        """
        declare
          one record;
        begin
          for one in select name from pg_prepared_statements loop
            execute format('deallocate %I', one.name);
            execute format(
              'prepare %I (text, text[], text[], oid, text) as select array[''11'', ''11'']', one.name);
          end loop;
        end
        """,
    )
    for _ in range(3):
        assert await _judged(admin, judging, subject(sub="ada")) == (["10"], 0)


async def test_names_that_shadow_what_a_policy_means_are_not_found(
    admin: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await admin.execute("""
        create table members (who text, note varchar);
        insert into members values ('bob', 'b');
        grant select on members to anon;
        alter policy p on notes using (
          lower(owner) = 'ada'::text and owner = 'ada' and length(body::text) = 1
          and not exists (select from members as m where m.who = 'eve'));
    """)
    relation, rows = await version(admin, "notes"), await images(admin, "notes")
    visibility = Visibility(ROLES)
    await lines(visibility, judging, relation, [], subject(sub="ada"))
    # What fits the arguments better would be taken, wherever in the path it stands.
    await admin.execute("""
        create function public.yes(varchar, text) returns bool language sql as 'select true';
        create function public.yes(varchar, varchar) returns bool language sql as 'select true';
        create operator public.= (leftarg = varchar, rightarg = text, function = public.yes);
        create operator public.= (leftarg = varchar, rightarg = varchar, function = public.yes);
        create function public.lower(varchar) returns text language sql as $$ select 'ada' $$;
        create function public.json_populate_record(notes, json) returns notes language sql
          as $$ select (1, 'ada', 'a')::notes $$;
        create function public.unnest(notes[]) returns setof notes language sql
          as $$ select (1, 'ada', 'a')::notes $$;
        create domain public.text as int;
        create schema anon;
        grant usage on schema anon to anon;
        create table anon.members (who pg_catalog.text, note varchar);
        insert into anon.members values ('eve');
        create table anon.notes (id int, owner varchar, body pg_catalog.text);
        grant select on all tables in schema anon to anon;
    """)
    for _ in range(2):
        assert await lines(visibility, judging, relation, rows, subject(sub="ada")) == ["10"]
        visibility.forget()


async def test_claims_of_every_kind_are_only_claims(
    admin: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    quoted = "'; drop table notes; --\"$$\\"
    await admin.execute("alter policy p on notes using (owner = auth.jwt() ->> 'sub')")
    deep = Subject("anon", '{"sub":"ada","deep":' + "[" * 2000 + "]" * 2000 + "}")
    large = subject(sub="ada", large="x" * 3_000_000)
    odd = [
        subject(sub=quoted),
        Subject("anon", '{"sub":"ada\\u0000"}'),
        Subject("anon", '{"sub":"ada\0"}'),
        Subject("anon", '{"sub":"\ud800"}'),
        Subject("anon", "no JSON"),
        Subject("anon", ""),
        Subject("anon", "[]"),
        Subject("anon", '"ada"'),
        Subject("anon", '{"sub":{"sub":"ada"}}'),
        Subject("anon", '{"sub":null}'),
    ]
    found, failed = await _judged(admin, judging, *odd, deep, large, subject(sub="ada"))
    assert found == ["00"] * len(odd) + ["10"] * 3
    # With a NUL (in one way or the other), half a character, and what is no JSON (two of them).
    assert failed == 10


async def test_roles_may_have_any_name(admin: asyncpg.Connection, judging: asyncpg.Connection) -> None:
    name = f"""it's a "role"; {await admin.fetchval("select current_database()")}"""
    quoted = '"' + name.replace('"', '""') + '"'
    await admin.execute(
        f"create role {quoted}; grant select on notes to {quoted}; grant usage on schema auth to {quoted}"
    )
    try:
        relation, rows = await version(admin, "notes"), await images(admin, "notes")
        found = await lines(Visibility([name]), judging, relation, rows, subject(name, sub="bob"))
        assert found == ["01"]
    finally:
        await judging.close()
        await admin.execute(f"drop owned by {quoted}; drop role {quoted}")


async def test_a_role_whose_functions_were_dropped_with_it_gets_new_ones(
    admin: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    relation, rows = await version(admin, "notes"), await images(admin, "notes")
    visibility = Visibility(ROLES)
    assert await lines(visibility, judging, relation, rows, subject(sub="ada")) == ["10"]
    for name in await judging.fetch(
        "select oid::regprocedure::text as f from pg_proc where proname ~ '^rowcast_judge'"
    ):
        await judging.execute(f"drop function {name['f']}")
    assert await lines(visibility, judging, relation, rows[:1], subject(sub="ada")) == ["1"]


async def test_tables_can_be_dropped_while_they_are_judged_from_time_to_time(
    admin: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    assert await _judged(admin, judging, subject(sub="ada")) == (["10"], 0)
    await admin.execute("drop table notes; drop function trick()")


async def test_a_server_that_is_no_superuser_judges_for_roles_it_may_assume(
    admin: asyncpg.Connection, migrated: str
) -> None:
    login = f"server_{await admin.fetchval('select current_database()')}"
    await admin.execute(f"""
        create role {login} login password 'x' noinherit;
        grant anon to {login};
        grant usage on schema rowcast to {login};
        grant execute on all functions in schema rowcast to {login};
        grant select on rowcast.relations to {login};
    """)
    address = migrated.replace("//postgres:", f"//{login}:", 1)
    connection = await asyncpg.connect(address, user=login, password="x", statement_cache_size=0)
    try:
        relation, rows = await version(admin, "notes"), await images(admin, "notes")
        everybody = [subject(sub="ada"), subject("authenticated", sub="ada")]
        verdicts = await Visibility(ROLES).judge(connection, relation, rows, everybody)
        assert list(verdicts.lines.values()) == ["10", "00"]
        assert verdicts.doubts.barred == 2
        await _trick(admin, f"perform set_config('role', '{login}', true)")
        verdicts = await Visibility(ROLES).judge(connection, relation, rows, everybody)
        assert verdicts.doubts.failed == 1
    finally:
        await connection.close()
        await admin.execute(f"drop owned by {login}; drop role {login}")
