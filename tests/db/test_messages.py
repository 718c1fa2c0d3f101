"""Messages of the database, whoever migrated it and whoever made the schema: what is theirs stays."""

import asyncpg
import pytest

from rowcast.db.migrations import migrate, whats_missing
from rowcast.db.uninstall import uninstall
from support import databases
from support.sites import Sites

pytestmark = pytest.mark.anyio

CAPTURED = """select record::jsonb ->> 'event' as event, op::text from rowcast.outbox_0
where relation = 0 and op <> 'C' order by seq"""
LEFT = """select
(select array_agg(proname::text) from pg_proc where pronamespace = 'realtime'::regnamespace) as functions,
(select count(*) from pg_trigger where tgname ~ 'rowcast') as triggers"""
# As an older release of Supabase's has it, and with a function of theirs.
THEIRS = """
create schema realtime;
create table realtime.messages (
  id uuid not null default gen_random_uuid(), topic text not null, extension text not null, payload jsonb,
  event text, private boolean default false, updated_at timestamp not null default now(),
  inserted_at timestamp not null default now(), primary key (id, inserted_at)
) partition by range (inserted_at);
create table realtime.messages_all partition of realtime.messages default;
create function realtime.send(payload jsonb, event text, topic text, private boolean default true)
returns void language sql as $$
  insert into realtime.messages (topic, extension, payload, event, private)
  values (topic, 'broadcast', payload, upper(event), private)
$$;
"""


async def captured(connection: asyncpg.Connection) -> list[tuple[str, str]]:
    return [(row["event"], row["op"]) for row in await connection.fetch(CAPTURED)]


@pytest.mark.parametrize("kind", ["superuser", "owner", "creator"])
async def test_what_is_sent_is_captured_whoever_migrated(sites: Sites, kind: str) -> None:
    site = sites.make(kind)
    await migrate(site.owner)
    if kind == "owner":
        sites.run(site.admin, (await whats_missing(site.owner)).admin_sql())
        await migrate(site.owner)
    connection = await asyncpg.connect(site.owner)
    try:
        await connection.execute("select rowcast.renew_lease(60)")
        assert await connection.fetchval("select rowcast.follow_messages()") is None
        await connection.execute("select realtime.send('{}', 'e', 't'), realtime.send_binary('', 'b', 't')")
        assert await captured(connection) == [("e", "M"), ("b", "B")]
        owner = "select proowner::regrole::text from pg_proc where proname = 'capture_message'"
        assert await connection.fetchval(owner) == "rowcast_capture"
    finally:
        await connection.close()


async def test_another_partys_table_and_functions_stay_and_what_is_written_there_is_captured(
    sites: Sites,
) -> None:
    site = sites.make("owner")
    databases.execute(site.owner, THEIRS)
    await migrate(site.owner)
    connection = await asyncpg.connect(site.owner)
    try:
        await connection.execute("select rowcast.renew_lease(60)")
        await connection.execute("select realtime.send('{}', 'theirs', 't')")
        # Made where absent; there is no column for bytes, of which it warns.
        await connection.execute("select realtime.send_binary('', 'b', 't')")
        assert await captured(connection) == [("THEIRS", "M")]
        assert await uninstall(site.owner) is not None
        assert tuple(await connection.fetchrow(LEFT) or ()) == (["send"], 0)
        await connection.execute("select realtime.send('{}', 'theirs', 't')")
    finally:
        await connection.close()


async def test_a_table_that_no_trigger_may_be_made_on_is_told_with_what_to_grant(sites: Sites) -> None:
    site = sites.make("owner")
    databases.execute(site.admin, THEIRS + "grant usage on schema realtime to app")
    await migrate(site.owner)
    connection = await asyncpg.connect(site.owner)
    try:
        reason = await connection.fetchval("select rowcast.follow_messages()")
        assert reason == (
            "app may not create triggers on realtime.messages and its partitions: "
            "GRANT TRIGGER ON ALL TABLES IN SCHEMA realtime TO app;"
        )
        databases.execute(site.admin, "grant trigger on realtime.messages to app")
        assert await connection.fetchval("select rowcast.follow_messages()") == reason
        databases.execute(site.admin, "grant trigger on all tables in schema realtime to app")
        assert await connection.fetchval("select rowcast.follow_messages()") is None
        await connection.execute("select rowcast.renew_lease(60)")
        databases.execute(site.admin, "select realtime.send('{}', 'e', 't')")
        assert await captured(connection) == [("E", "M")]
    finally:
        await connection.close()
