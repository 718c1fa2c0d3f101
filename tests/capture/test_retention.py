"""What is forgotten, and when: versions of tables, and the history of an outbox that is unlogged."""

from collections.abc import Callable

import asyncpg
import pytest
import structlog

from rowcast.capture.reader import HistoryLost, Reader
from rowcast.capture.retention import Retention
from rowcast.db.migrations import migrate
from rowcast.dev.postgres import Postgres

pytestmark = pytest.mark.anyio

VERSIONS = "select count(*) from rowcast.relations where table_name = 'things'"


async def turn_all(connection: asyncpg.Connection, *, unlogged: bool = False) -> None:
    """Begin every table of the outbox anew, as time would."""
    retention = Retention(age=0.0, size=1 << 40, lease=3600, unlogged=unlogged)
    trimmed: set[int] = set()
    while len(trimmed) < 3:
        # A mark and its clock are a second apart otherwise.
        await connection.execute("select rowcast.mark()")
        outbox = await retention.tend(connection)
        if outbox is not None:
            trimmed.add(outbox)


async def test_a_version_of_a_table_is_kept_as_long_as_a_change_may_refer_to_it(
    capturing: asyncpg.Connection,
) -> None:
    await capturing.execute(
        "create table things (id int primary key); alter publication supabase_realtime add table things;"
        "insert into things values (1); alter table things add column name text"
    )
    assert await capturing.fetchval(VERSIONS) == 2
    await capturing.execute("select rowcast.prune_relations()")
    assert await capturing.fetchval(VERSIONS) == 2
    await turn_all(capturing)
    await turn_all(capturing)
    assert await capturing.fetchval(VERSIONS) == 1
    # The one that stands is still what new changes refer to.
    await capturing.execute("insert into things values (2)")
    found = await capturing.fetch(
        "select r.id from rowcast.relations as r join rowcast.captured as c on c.relation = r.id"
    )
    assert len(found) == 1


async def test_a_version_that_comes_back_into_use_is_not_forgotten(capturing: asyncpg.Connection) -> None:
    await capturing.execute(
        "create table things (id int primary key); alter publication supabase_realtime add table things;"
        "alter table things rename to others"
    )
    await capturing.execute("select rowcast.prune_relations()")
    await capturing.execute("alter table others rename to things")
    await turn_all(capturing)
    await turn_all(capturing)
    assert await capturing.fetchval(VERSIONS) == 1


async def test_an_outbox_becomes_unlogged_table_by_table_as_each_is_empty(
    capturing: asyncpg.Connection,
) -> None:
    await capturing.execute(
        "create table things (id int primary key); alter publication supabase_realtime add table things;"
        "insert into things values (1)"
    )
    unlogged = "select array_agg(n order by n) from rowcast.outboxes() where unlogged"
    assert not await capturing.fetchval("select rowcast.keep_outbox(true)")
    assert await capturing.fetchval(unlogged) == [1, 2]
    await turn_all(capturing, unlogged=True)
    assert await capturing.fetchval(unlogged) == [0, 1, 2]
    await capturing.execute("insert into things values (2)")
    await turn_all(capturing)
    await turn_all(capturing)
    assert await capturing.fetchval(unlogged) is None


@pytest.mark.parametrize("unlogged", [True, False])
async def test_a_crash_ends_the_history_of_an_unlogged_outbox_and_of_no_other(
    cluster: Callable[..., Postgres], unlogged: bool
) -> None:
    server = cluster(durable=True)
    await migrate(server.dsn)
    connection = await asyncpg.connect(server.dsn)
    await connection.execute("select rowcast.renew_lease(3600)")
    await connection.execute("select rowcast.keep_outbox($1)", unlogged)
    await connection.execute(
        "create table things (id int primary key); alter publication supabase_realtime add table things"
    )
    reader = Reader()
    await reader.open(connection)
    await connection.execute("insert into things values (1)")
    server.kill()
    connection.terminate()
    server.start()
    connection = await asyncpg.connect(server.dsn)
    if unlogged:
        with pytest.raises(HistoryLost):
            await reader.open(connection)
    else:
        await reader.open(connection)
    await connection.execute("insert into things values (2)")
    rows = [row.record async for page in reader.read(connection) for row in page.rows if row.op == "I"]
    assert rows == (['{"id":2}'] if unlogged else ['{"id":1}', '{"id":2}'])
    await connection.close()


DAYS = """select coalesce(array_agg(
  to_date(substr(c.relname, 10), 'YYYY_MM_DD') - (now() at time zone 'utc')::date order by c.relname), '{}')
from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
where i.inhparent = 'realtime.messages'::regclass"""
DROP_ALL = """do $$ declare part regclass; begin
  for part in select inhrelid from pg_inherits where inhparent = 'realtime.messages'::regclass loop
    execute format('drop table %s', part);
  end loop;
end $$"""
OLD = """create table realtime.messages_2020_01_01 partition of realtime.messages
for values from ('2020-01-01') to ('2020-01-02')"""


@pytest.mark.parametrize("ours", [True, False])
async def test_messages_have_a_partition_for_each_day_and_ours_lose_the_old_ones(
    capturing: asyncpg.Connection, ours: bool
) -> None:
    await capturing.execute("set timezone = 'Pacific/Kiritimati'")
    await capturing.execute(DROP_ALL)
    await capturing.execute(OLD)
    if not ours:
        # As where Supabase's own server made the table.
        await capturing.execute(
            "insert into rowcast.notes (kind, name, was) values ('table', 'realtime.messages', 'there')"
            " on conflict (kind, name) do update set was = excluded.was"
        )
    await Retention(age=3600, size=1 << 40, lease=3600).tend(capturing)
    old = (
        []
        if ours
        else [await capturing.fetchval("select date '2020-01-01' - (now() at time zone 'utc')::date")]
    )
    assert await capturing.fetchval(DAYS) == [*old, -1, 0, 1, 2, 3]
    await capturing.execute("insert into realtime.messages (topic, extension) values ('a', 'broadcast')")


async def test_messages_that_their_owner_parts_in_another_way_are_left_to_the_owner(
    capturing: asyncpg.Connection,
) -> None:
    await capturing.execute(DROP_ALL)
    await capturing.execute(
        "create table realtime.all_messages partition of realtime.messages"
        " for values from (minvalue) to (maxvalue)"
    )
    retention = Retention(age=0, size=1 << 40, lease=3600)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await retention.tend(capturing)
    assert [log["event"] for log in logs] == ["messages_not_kept"]
    assert await capturing.fetchval("select count(*) from pg_class where relname ~ '^messages_.*20'") == 0
