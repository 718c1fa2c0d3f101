"""Uninstalling takes out what was added, and nothing of anybody else's."""

import asyncio

import asyncpg
import pytest

from rowcast.capture.watching import unwatch, watch
from rowcast.db import uninstall as uninstalling
from rowcast.db.migrations import migrate, whats_missing
from rowcast.db.uninstall import uninstall
from rowcast.errors import UninstallError
from rowcast.model.claims import Claims
from support import databases
from support.sites import Site, Sites
from support.streams import streaming, subscribed

pytestmark = pytest.mark.anyio

APP = Claims(role="app", expires_at=2e9, raw={"role": "app"})
USERS_OWN = """
create schema shop;
create table shop.orders (id int primary key, total numeric);
create table shop.lines (order_id int, n int);
create table shop.others (id int primary key);
insert into shop.orders values (1, 2.50);
create function shop.note() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger users_own before insert on shop.orders for each row execute function shop.note();
create trigger users_after after insert on shop.orders for each row execute function shop.note();
create publication theirs for table shop.others with (publish = 'insert');
comment on table shop.orders is 'orders';
"""
# What stood before, made by the role that migrates.
THERE = """
create publication supabase_realtime for table shop.others;
create schema realtime; comment on schema realtime is 'theirs';
create table realtime.things (id int);
create schema auth;
create function auth.uid() returns uuid language sql as $$ select null::uuid $$;
"""
ROLES_THERE = "create role anon nologin; grant usage on schema auth to anon"


WAITS = """select exists (select from pg_stat_activity
where application_name = 'rowcast uninstall' and wait_event_type = 'Lock' and datname = current_database())"""


async def used(site: Site, *, mend: Sites | None = None) -> None:
    """Migrate, watch two tables, and have changes delivered."""
    await migrate(site.owner)
    if mend is not None:
        mend.run(site.admin, (await whats_missing(site.owner)).admin_sql())
        await migrate(site.owner)
    connection = await asyncpg.connect(site.owner)
    try:
        await watch(connection, "shop.orders")
        await watch(connection, "shop.lines", identity_full=True)
        async with streaming(site.owner, roles=("app",)) as stream:
            kept = await subscribed(stream, "orders", claims=APP, schema="shop")
            await connection.execute(
                "insert into shop.orders values (2, 1); insert into shop.lines values (2, 1)"
            )
            await connection.execute("update shop.lines set n = 2; delete from shop.orders where id = 2")
            await kept.until(lambda: len(kept.changes) == 2)
    finally:
        await connection.close()


async def ask(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", ["superuser", "owner", "creator"])
@pytest.mark.parametrize("there", ["", THERE, THERE + ROLES_THERE], ids=["bare", "schemas", "roles"])
async def test_a_database_is_as_it_was(sites: Sites, kind: str, there: str) -> None:
    site = sites.make(kind)
    databases.execute(site.owner, USERS_OWN + there.removesuffix(ROLES_THERE))
    if there.endswith(ROLES_THERE):
        databases.execute(site.admin, ROLES_THERE)
    before = await sites.picture(site)
    await used(site)
    assert await sites.picture(site) != before
    done = await uninstall(site.owner)
    assert done is not None
    assert await sites.picture(site) == before
    assert done.admin_sql == []
    assert "the schema rowcast" in done.removed
    assert ("the publication supabase_realtime: it was there before" in done.kept) == bool(there)
    assert ("the role anon: it was there before" in done.kept) == there.endswith(ROLES_THERE)
    assert await ask(site.admin, "select count(*) from shop.orders") == 1
    assert await uninstall(site.owner) is None


async def test_what_an_administrator_made_is_named_as_sql(sites: Sites) -> None:
    site = sites.make("owner")
    databases.execute(site.owner, USERS_OWN)
    before = await sites.picture(site)
    await used(site, mend=sites)
    done = await uninstall(site.owner)
    assert done is not None
    sites.run(site.admin, "\n".join(done.admin_sql))
    assert await sites.picture(site) == before


async def test_it_can_be_migrated_again_afterwards(sites: Sites) -> None:
    site = sites.make("superuser")
    databases.execute(site.owner, USERS_OWN)
    before = await sites.picture(site)
    for _ in range(2):
        await used(site)
        await uninstall(site.owner)
        assert await sites.picture(site) == before


async def test_what_the_user_granted_and_built_on_ours_keeps_it(sites: Sites) -> None:
    site = sites.make("superuser")
    databases.execute(site.owner, USERS_OWN)
    await used(site)
    databases.execute(
        site.owner,
        """
        grant select on shop.orders to anon;
        create table realtime.own (id int);
        alter table shop.orders enable row level security;
        create policy mine on shop.orders using (auth.uid() is null);
        """,
    )
    done = await uninstall(site.owner)
    assert done is not None
    kept = "\n".join(done.kept)
    assert "the role anon: privileges for table shop.orders" in kept
    assert "the schema realtime: table realtime.own depends on schema realtime" in kept
    assert "the function auth.uid(): policy mine on table shop.orders depends on function auth.uid()" in kept
    assert "the schema auth" in kept
    # Who may use what is kept goes on using it.
    assert "the role authenticated: privileges for schema realtime; privileges for schema auth" in done.kept
    assert "the role rowcast_capture" in done.removed
    assert await ask(site.admin, "select count(*) from pg_policy") == 1


async def test_what_the_user_built_on_our_schema_stops_it_and_is_named(sites: Sites) -> None:
    site = sites.make("superuser")
    databases.execute(site.owner, USERS_OWN)
    await used(site)
    databases.execute(site.owner, "create view shop.mine as select * from rowcast.tables")
    with pytest.raises(UninstallError, match=r"view shop\.mine depends on view rowcast\.tables"):
        await uninstall(site.owner)
    databases.execute(site.owner, "drop view shop.mine")
    databases.execute(site.owner, "alter table shop.lines alter n set default nextval('rowcast.seq')")
    with pytest.raises(UninstallError, match=r"default value for column n of table shop\.lines"):
        await uninstall(site.owner)
    databases.execute(site.owner, "alter table shop.lines alter n drop default")
    done = await uninstall(site.owner)
    assert done is not None
    assert "the schema rowcast" in done.removed


async def test_a_role_that_another_database_uses_stays(sites: Sites) -> None:
    first, second = sites.make("superuser"), sites.make("superuser")
    await migrate(first.owner)
    await migrate(second.owner)
    done = await uninstall(first.owner)
    assert done is not None
    assert any(kept.startswith("the role rowcast_capture: ") and "database" in kept for kept in done.kept)
    # The other one goes on.
    databases.execute(second.owner, USERS_OWN)
    await used(second)
    done = await uninstall(second.owner)
    assert done is not None
    assert "the role rowcast_capture: it was there before" in done.kept


async def test_connected_servers_are_named_and_refused_unless_forced(sites: Sites) -> None:
    site = sites.make("superuser")
    await migrate(site.owner)
    databases.execute(site.owner, USERS_OWN)
    async with streaming(site.owner, roles=("app",)) as stream:
        connection = await asyncpg.connect(site.owner)
        await watch(connection, "shop.orders")
        await connection.close()
        await subscribed(stream, "orders", claims=APP, schema="shop")
        with pytest.raises(UninstallError, match=r"Servers are connected: pid \d+ from 127\.0\.0\.1"):
            await uninstall(site.owner)
        done = await uninstall(site.owner, force=True)
        assert done is not None
        assert "the schema rowcast" in done.removed
        databases.execute(site.owner, "insert into shop.orders values (3, 1)")


async def test_a_locked_table_is_waited_for_a_little_at_a_time(sites: Sites) -> None:
    site = sites.make("owner")
    databases.execute(site.owner, USERS_OWN)
    await used(site)
    holder, writer, watcher = [await asyncpg.connect(site.owner) for _ in range(3)]
    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("insert into shop.orders values (5, 5)")
        taking_out = asyncio.create_task(uninstall(site.owner))
        # It gives up its place in the queue again and again.
        for number, waits in enumerate((True, False, True, False)):
            async with asyncio.timeout(30):
                while waits != await watcher.fetchval(WAITS):  # noqa: ASYNC110
                    await asyncio.sleep(0)
            if waits:
                # Whoever writes waits behind it, and not for the one that holds the table.
                await writer.execute("insert into shop.orders values ($1, 5)", 10 + number)
        await transaction.commit()
        assert await taking_out is not None
    finally:
        for connection in (holder, writer, watcher):
            await connection.close()


async def test_a_table_that_stays_locked_ends_it_and_it_goes_on_later(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uninstalling, "_PATIENCE", 0.0)
    site = sites.make("owner")
    databases.execute(site.owner, USERS_OWN)
    before = await sites.picture(site)
    await used(site)
    holder = await asyncpg.connect(site.owner)
    try:
        async with holder.transaction():
            await holder.execute("insert into shop.orders values (5, 5)")
            with pytest.raises(UninstallError, match=r"shop\.orders is locked by an open transaction"):
                await uninstall(site.owner)
    finally:
        await holder.close()
    assert await uninstall(site.owner) is not None
    assert await sites.picture(site) == before


async def test_what_changed_since_it_was_watched_stays_as_it_is_now(sites: Sites) -> None:
    site = sites.make("owner")
    databases.execute(site.owner, USERS_OWN + "create publication supabase_realtime;")
    await used(site)
    connection = await asyncpg.connect(site.owner)
    try:
        await unwatch(connection, "shop.orders")
        # The user's own wishes now: in the publication, renamed, in another publication.
        await connection.execute(
            "alter publication supabase_realtime add table shop.orders;"
            "alter table shop.lines rename to parts; create publication more for table shop.parts"
        )
    finally:
        await connection.close()
    done = await uninstall(site.owner)
    assert done is not None
    assert "REPLICA IDENTITY FULL of shop.parts: the publication more publishes it, too" in done.kept
    names = "select array_agg(tablename::text) from pg_publication_tables where pubname = 'supabase_realtime'"
    assert await ask(site.admin, names) == ["orders"]


async def test_the_triggers_on_somebody_elses_table_go_with_their_functions(sites: Sites) -> None:
    site = sites.make("owner")
    await migrate(site.owner)
    databases.execute(
        site.admin,
        "create table public.hers (id int primary key); grant trigger on public.hers to app;"
        "alter publication supabase_realtime add table public.hers",
    )
    databases.execute(site.owner, "select rowcast.install('public.hers'::regclass)")
    count = "select count(*) from pg_trigger where tgrelid = 'public.hers'::regclass"
    assert await ask(site.admin, count) == 4
    assert await uninstall(site.owner) is not None
    assert await ask(site.admin, count) == 0
