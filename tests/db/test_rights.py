"""What each kind of role can do beside its database, what is said of the rest, and what an administrator
mends."""

from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from rowcast.capture.watching import watch
from rowcast.db.migrations import migrate, whats_missing
from rowcast.db.notes import API_ROLES, ROLES
from rowcast.db.rights import TAGS, Missing
from rowcast.errors import MigrationError, WatchError
from rowcast.model.claims import Claims
from support import databases
from support.server import Server
from support.sites import ScriptError, Site, Sites
from support.streams import streaming, subscribed

pytestmark = pytest.mark.anyio

APP = Claims(role="app", expires_at=2e9, raw={"role": "app"})
FUNCTION_OWNERS = """select array_agg(distinct pg_get_userbyid(proowner)::text) from pg_proc
where pronamespace = 'rowcast'::regnamespace and prosecdef and prorettype = 'trigger'::regtype"""
EVENT_TRIGGERS = "select array_agg(distinct evtfoid::regproc::text) from pg_event_trigger"
STANDING = "select count(*) from pg_roles where rolname = any ($1::text[])"
MENDED = "`rowcast migrate --print-admin-sql`"


async def migrated(dsn: str) -> tuple[list[str], list[str]]:
    """What was run, and what was said."""
    said: list[str] = []
    return await migrate(dsn, say=said.append), said


async def asked(dsn: str, query: str, *arguments: object) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()


async def delivers(site: Site) -> None:
    """A table is watched and written by a role that has no right on anything of ours; its change arrives."""
    databases.execute(
        site.admin,
        "create role writer; set role app; create table things (id int primary key, task text);"
        "grant insert on things to writer; grant select on things to app",
    )
    connection = await asyncpg.connect(site.owner)
    try:
        await watch(connection, "things")
    finally:
        await connection.close()
    async with streaming(site.owner, roles=("app",)) as stream:
        kept = await subscribed(stream, "things", "task=like.a%", claims=APP)
        databases.execute(site.admin, "set role writer; insert into things values (1, 'b'), (2, 'a')")
        await kept.until(lambda: bool(kept.changes))
    assert [change["record"]["id"] for change in kept.changes] == [2]


async def acts_as(dsn: str, roles: tuple[str, ...]) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for role in roles:
            async with connection.transaction():
                await connection.execute(f"set local role {role}")
                assert await connection.fetchval("select current_user::text") == role
    finally:
        await connection.close()


async def test_a_superuser_lacks_nothing(sites: Sites) -> None:
    site = sites.make("superuser")
    assert await migrated(site.owner) == (await migrate_names(), [])
    assert await asked(site.owner, STANDING, ROLES) == len(ROLES)
    assert await asked(site.owner, "select rolbypassrls from pg_roles where rolname = 'service_role'")
    assert await asked(site.owner, FUNCTION_OWNERS) == ["rowcast_capture"]
    assert await asked(site.owner, EVENT_TRIGGERS) == ["rowcast.follow_ddl"]
    assert await migrated(site.owner) == ([], [])
    assert (await whats_missing(site.owner)).admin_sql().startswith("-- Nothing is missing")
    await delivers(site)


async def migrate_names() -> list[str]:
    from rowcast.db.migrations import scripts

    versioned, repeatable = scripts()
    return [f"{one.version:04}_{one.name}" for one in versioned] + [f"functions/{o.name}" for o in repeatable]


async def test_a_plain_owner_works_with_what_there_is_and_is_told_once_what_is_missing(sites: Sites) -> None:
    site = sites.make("owner")
    done, said = await migrated(site.owner)
    assert done == await migrate_names()
    (line,) = said
    assert "\n" not in line
    for part in (*ROLES, "event triggers", "timer", MENDED):
        assert part in line
    assert await asked(site.owner, STANDING, ROLES) == 0
    assert await migrated(site.owner) == ([], said)
    await delivers(site)


async def test_a_server_of_a_plain_owner_logs_once_what_is_missing(sites: Sites, tmp_path: Path) -> None:
    server = Server(sites.make("owner").owner, tmp_path / "server.log")
    try:
        await server.start()
        assert server.printed().count(MENDED) == 1
    finally:
        await server.end()


async def test_an_owner_who_makes_roles_lacks_what_takes_a_superuser(sites: Sites) -> None:
    site = sites.make("creator")
    _, said = await migrated(site.owner)
    assert await asked(site.owner, STANDING, ROLES) == len(ROLES)
    (line,) = said
    assert "BYPASSRLS of service_role" in line
    assert "event triggers" in line
    assert "anon" not in line
    await acts_as(site.owner, API_ROLES)
    assert await asked(site.owner, FUNCTION_OWNERS) == ["rowcast_capture"]
    await delivers(site)


@pytest.mark.parametrize("kind", ["owner", "creator"])
@pytest.mark.parametrize("before", [True, False], ids=["before the first", "after the first"])
async def test_what_an_administrator_ran_is_picked_up(sites: Sites, kind: str, before: bool) -> None:
    site = sites.make(kind)
    if not before:
        await migrated(site.owner)
    # As long as something is missing; who makes roles makes them when migrating.
    while (missing := await whats_missing(site.owner)).mendable:
        sites.run(site.admin, missing.admin_sql())
        sites.run(site.admin, missing.admin_sql())
        await migrated(site.owner)
    assert await migrated(site.owner) == ([], [])
    assert (await whats_missing(site.owner)).admin_sql().startswith("-- Nothing is missing")
    assert await asked(site.owner, "select rolbypassrls from pg_roles where rolname = 'service_role'")
    assert await asked(site.owner, FUNCTION_OWNERS) == ["rowcast_capture"]
    assert await asked(site.owner, EVENT_TRIGGERS) == ["rowcast_admin.follow_ddl"]
    await acts_as(site.owner, API_ROLES)
    await delivers(site)


async def test_functions_given_away_can_be_replaced_by_the_next_migration(sites: Sites) -> None:
    site = sites.make("owner")
    await migrated(site.owner)
    sites.run(site.admin, (await whats_missing(site.owner)).admin_sql())
    await migrated(site.owner)
    databases.execute(site.admin, "update rowcast.functions set checksum = 'another'")
    done, said = await migrated(site.owner)
    assert "functions/capture" in done
    assert said == []
    assert await asked(site.owner, FUNCTION_OWNERS) == ["rowcast_capture"]


async def test_ddl_is_followed_at_once_through_the_administrators_event_trigger(sites: Sites) -> None:
    site = sites.make("owner")
    await migrated(site.owner)
    sites.run(site.admin, (await whats_missing(site.owner)).admin_sql())
    await migrated(site.owner)
    heard: list[object] = []
    connection = await asyncpg.connect(site.owner)
    try:
        await connection.add_listener("rowcast", lambda *arguments: heard.append(arguments[-1]))
        await connection.execute("create table things (id int primary key)")
        await connection.execute("grant select on things to anon")
        await connection.execute("drop table things")
        # Notifications come before the answer to the next statement.
        await connection.execute("select 1")
    finally:
        await connection.close()
    assert heard == ["catalog"] * 3


async def test_nothing_of_the_owners_runs_in_an_administrators_ddl(sites: Sites) -> None:
    site = sites.make("owner")
    await migrated(site.owner)
    sites.run(site.admin, (await whats_missing(site.owner)).admin_sql())
    # What runs at commit runs as whoever commits, up to PostgreSQL 17.
    databases.execute(
        site.owner,
        """
        create table public.caught (who text);
        grant insert on public.caught to public;
        create function public.spring() returns trigger language plpgsql as $$
          begin insert into public.caught values (current_user); return null; end $$;
        create constraint trigger now after insert on rowcast.outbox_0
          for each row execute function public.spring();
        create constraint trigger later after insert on rowcast.outbox_0 deferrable initially deferred
          for each row execute function public.spring();
        create or replace function rowcast.mark_catalog() returns void language sql
          as $$ insert into public.caught values (current_user) $$;
        create or replace function rowcast.follow_ddl() returns event_trigger language plpgsql
          as $$ begin insert into public.caught values (current_user); end $$;
        create function public.pg_notify(text, text) returns void language sql
          as $$ insert into public.caught values (current_user) $$;
        alter database """
        + site.owner.rpartition("/")[2]
        + " set search_path = public, pg_catalog",
    )
    databases.execute(site.admin, "create table public.ordinary (id int); drop table public.ordinary")
    assert await asked(site.admin, "select count(*) from public.caught") == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        databases.execute(
            site.owner,
            "create or replace function rowcast_admin.follow_ddl() returns event_trigger language plpgsql"
            " as $$ begin end $$",
        )


async def test_an_administrator_is_not_led_into_a_schema_that_somebody_prepared(sites: Sites) -> None:
    site = sites.make("owner")
    databases.execute(site.owner, "create schema rowcast_admin")
    text = (await whats_missing(site.owner)).admin_sql()
    with pytest.raises(ScriptError, match="rowcast_admin belongs to another role"):
        sites.run(site.admin, text)
    assert await asked(site.admin, EVENT_TRIGGERS) is None


async def test_names_in_the_administrators_sql_stay_names(apart_names: tuple[str, str], sites: Sites) -> None:
    user, database = apart_names
    quoted_user, quoted_database = (name.replace('"', '""') for name in apart_names)
    server = sites.server
    databases.execute(server.dsn, f"create role \"{quoted_user}\" login password 'app'")
    databases.execute(server.dsn, f'create database "{quoted_database}" owner "{quoted_user}"')
    databases.execute(server.dsn, f'alter database "{quoted_database}" set standard_conforming_strings = off')
    address = server.dsn_of(quote(database, safe=""))
    connection = await asyncpg.connect(address)
    try:
        grants_options = connection.get_server_version().major >= 16
        sites.run(address, Missing(user, database, grants_options, True, ROLES).admin_sql())
        assert not await connection.fetchval("select rolsuper from pg_roles where rolname = $1", user)
        assert await connection.fetchval("select pg_has_role($1, 'anon', 'member')", user)
    finally:
        await connection.close()
        databases.drop(server.dsn, quoted_database)


@pytest.fixture(params=["$check$", "\\' or", 'line\n\\! "break', "$check$ and $check_$"])
def apart_names(request: pytest.FixtureRequest) -> tuple[str, str]:
    name = str(request.param)
    return f"user {name}", f"site {name}"


async def test_a_superuser_does_not_run_what_another_role_may_change(sites: Sites) -> None:
    site = sites.make("owner")
    await migrated(site.owner)
    with pytest.raises(MigrationError, match="belongs to app, who is no superuser"):
        await migrate(site.admin)


async def test_another_role_is_told_whose_the_schema_is(sites: Sites) -> None:
    site = sites.make("superuser")
    await migrated(site.admin)
    databases.execute(site.admin, "alter role app nosuperuser")
    with pytest.raises(MigrationError, match="belongs to"):
        await migrate(site.owner)


async def test_what_others_made_stays_and_what_differs_is_said(sites: Sites) -> None:
    site = sites.make("owner")
    databases.execute(
        site.admin,
        """
        create role anon nologin; create role service_role nologin;
        create schema realtime; comment on schema realtime is 'theirs';
        create schema auth; create function auth.uid() returns text language sql as $$ select 'theirs' $$;
        create publication supabase_realtime;
        """,
    )
    _, said = await migrated(site.owner)
    (line,) = said
    for part in (
        "authenticated, rowcast_capture and rowcast_json",
        "membership of app in anon and service_role",
        "BYPASSRLS of service_role",
        "the publication supabase_realtime belongs to postgres",
        "auth.uid() returns text, not uuid",
        "auth.jwt() is missing from the schema auth",
        "realtime.messages is missing from the schema realtime",
    ):
        assert part in line
    assert await asked(site.admin, "select auth.uid()") == "theirs"
    comment = "select obj_description('realtime'::regnamespace, 'pg_namespace')"
    assert await asked(site.admin, comment) == "theirs"


@pytest.mark.parametrize("kind", ["owner", "creator"])
async def test_a_role_that_inherits_nothing_can_go_on_migrating(sites: Sites, kind: str) -> None:
    """Before PostgreSQL 16 it keeps the functions, which it could not replace later."""
    site = sites.make(kind)
    databases.execute(site.admin, "alter role app noinherit; grant create on schema public to app")
    while (missing := await whats_missing(site.owner)).mendable:
        sites.run(site.admin, missing.admin_sql())
        await migrated(site.owner)
    databases.execute(site.admin, "update rowcast.functions set checksum = 'another'")
    done, said = await migrated(site.owner)
    assert "functions/capture" in done
    assert said == []
    await delivers(site)


async def test_a_role_that_may_make_nothing_in_the_database_is_told_what_to_have_run(sites: Sites) -> None:
    site = sites.make("owner")
    databases.execute(site.admin, "create role guest login password 'app'")
    guest = site.owner.replace("app:app@", "guest:app@")
    with pytest.raises(MigrationError, match=f"permission denied for database .*{MENDED}"):
        await migrate(guest)
    sites.run(site.admin, (await whats_missing(guest)).admin_sql())
    assert (await migrated(guest))[1] == []


async def test_what_somebody_took_from_the_functions_is_given_back(sites: Sites) -> None:
    site = sites.make("superuser")
    await migrated(site.owner)
    databases.execute(
        site.owner,
        "revoke insert on rowcast.outbox_1 from rowcast_capture;"
        "revoke execute on function rowcast.pin(text) from rowcast_capture",
    )
    assert (await migrated(site.owner))[1] == []
    given = "select has_table_privilege('rowcast_capture', 'rowcast.outbox_1', 'insert')"
    assert await asked(site.owner, given)
    assert await asked(
        site.owner, "select has_function_privilege('rowcast_capture', 'rowcast.pin(text)', 'execute')"
    )


async def test_an_administrators_event_triggers_follow_the_commands_that_a_superusers_do(
    sites: Sites,
) -> None:
    site = sites.make("superuser")
    await migrated(site.owner)
    tags = await asked(
        site.owner, "select evttags from pg_event_trigger where evtname = 'rowcast_follow_ddl'"
    )
    assert sorted(tags) == sorted(TAGS)  # type: ignore[call-overload]


async def test_where_casts_cannot_be_confined_tables_of_others_wait_for_an_administrator(
    sites: Sites,
) -> None:
    """Its owner could otherwise have code run with all the rights of the database's owner."""
    site = sites.make("owner")
    await migrated(site.owner)
    databases.execute(
        site.admin,
        "create role mallory; create table public.hers (id int primary key);"
        "alter table public.hers owner to mallory; grant trigger, select on public.hers to app;"
        "alter publication supabase_realtime add table public.hers",
    )
    databases.execute(
        site.owner,
        "create type odd as enum ('a');"
        "create function odd_json(odd) returns json language sql as 'select to_json(current_user)';"
        "create cast (odd as json) with function odd_json(odd);"
        "create table own (id int primary key, o odd); alter publication supabase_realtime add table own;"
        "select rowcast.install(relid) from rowcast.stale_tables() as relid",
    )
    found = "select array_agg((table_name, captured, reason, mend)::text order by 1) from rowcast.tables"
    rows = await asked(site.owner, found)
    assert isinstance(rows, list)
    hers, own = rows
    assert "the role rowcast_json, which that runs as, is missing" in hers
    assert MENDED in hers
    assert own == "(own,t,,)"
    connection = await asyncpg.connect(site.owner)
    try:
        with pytest.raises(WatchError, match=f"rowcast_json.*{MENDED}"):
            await watch(connection, "public.hers")
    finally:
        await connection.close()
    sites.run(site.admin, (await whats_missing(site.owner)).admin_sql())
    await migrated(site.owner)
    databases.execute(site.owner, "select rowcast.install(relid) from rowcast.stale_tables() as relid")
    assert await asked(site.owner, "select bool_and(captured) from rowcast.tables")
    await delivers(site)
