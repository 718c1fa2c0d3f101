"""The stream through what happens to its connections, and beside another node."""

import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from rowcast.capture.waker import Mode
from rowcast.db.migrations import migrate
from rowcast.dev.postgres import Postgres
from rowcast.model.change import Change
from rowcast.model.reading import View
from rowcast.protocol.changes import encode_data
from support.proxies import proxied
from support.streams import streaming, subscribed

pytestmark = pytest.mark.anyio

TABLE = """
create table things (id bigint primary key);
grant select on things to service_role;
alter publication supabase_realtime add table things;
"""


@pytest.fixture
async def things(migrated: str) -> str:
    """A database with a captured table."""
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLE)
    await connection.close()
    return migrated


async def test_a_write_made_after_subscribing_arrives(things: str) -> None:
    async with streaming(things) as stream:
        kept = await subscribed(stream, "things")
        connection = await asyncpg.connect(things)
        await connection.execute("insert into things values (1)")
        await kept.until(lambda: len(kept.changes) == 1)
        assert kept.changes[0]["record"] == {"id": 1}
        await connection.close()


@pytest.mark.parametrize("part", ["listener", "reader", "keeper"])
async def test_a_terminated_connection_loses_and_repeats_nothing(things: str, part: str) -> None:
    async with streaming(things) as stream:
        kept = await subscribed(stream, "things")
        connection = await asyncpg.connect(things)
        for turn in range(3):
            for n in range(20):
                await connection.execute("insert into things values ($1)", turn * 100 + n)
                if n == 10:
                    ended = await connection.fetchval(
                        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                        " where application_name = $1 and datname = current_database()",
                        f"rowcast {part}",
                    )
                    assert ended == 1
            want = (turn + 1) * 20
            await kept.until(lambda want=want: len(kept.changes) >= want)  # type: ignore[misc]
            # The part has to be back before it is ended again.
            async with asyncio.timeout(20):
                while not await connection.fetchval(
                    "select exists (select from pg_stat_activity where application_name = $1"
                    " and datname = current_database() and state = 'idle')",
                    f"rowcast {part}",
                ):
                    await connection.execute("select pg_sleep(0.02)")
        expected = [turn * 100 + n for turn in range(3) for n in range(20)]
        assert [change["record"]["id"] for change in kept.changes] == expected
        assert kept.losses == 0
        await connection.close()


async def test_two_streams_of_one_database_both_deliver_everything(things: str) -> None:
    async with streaming(things) as first, streaming(things) as second:
        both = [await subscribed(first, "things"), await subscribed(second, "things")]
        connection = await asyncpg.connect(things)
        for n in range(200):
            await connection.execute("insert into things values ($1)", n)
        for kept in both:
            await kept.until(lambda kept=kept: len(kept.changes) >= 200)  # type: ignore[misc]
            assert [change["record"]["id"] for change in kept.changes] == list(range(200))
        # A position means the same on every node: one flag, owned by one of them.
        assert [first.mode, second.mode].count(Mode.FOLLOWING) == 1
        await connection.close()


async def test_rotation_under_load_trims_and_loses_nothing(things: str) -> None:
    async with streaming(things, age=0.6, page_size=50) as stream:
        kept = await subscribed(stream, "things")
        connection = await asyncpg.connect(things)
        n = 0
        while await connection.fetchval("select xid = '0' from rowcast.trimmed") or n < 500:
            await connection.execute("insert into things values ($1)", n)
            n += 1
        await kept.until(lambda: len(kept.changes) >= n)
        assert [change["record"]["id"] for change in kept.changes] == list(range(n))
        assert kept.losses == 0
        await connection.close()


async def test_a_lease_that_ran_out_begins_a_new_epoch_and_tells_subscribers(things: str) -> None:
    connection = await asyncpg.connect(things)
    async with streaming(things) as stream:
        kept = await subscribed(stream, "things")
        await connection.execute("select setval('rowcast.lease_until', 1)")
        await connection.execute("select rowcast.renew_lease(3600)")
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'rowcast reader' and datname = current_database()"
        )
        await kept.until(lambda: kept.losses == 1)
    await connection.close()


async def test_connections_that_fall_silent_are_given_up_and_nothing_is_lost(things: str) -> None:
    async with proxied(things) as proxy, streaming(proxy.address, patience=1.0) as stream:
        kept = await subscribed(stream, "things")
        connection = await asyncpg.connect(things)
        for number in range(2):
            # Listener, reader and keeper at the least: none of them is told anything.
            await proxy.until_open(3)
            proxy.silence()
            await connection.execute("insert into things values ($1)", number)
            await kept.until(lambda number=number: len(kept.changes) > number)  # type: ignore[misc]
        assert [change["record"]["id"] for change in kept.changes] == [0, 1]
        assert kept.losses == 0
        await connection.close()


async def test_a_table_whose_triggers_cannot_be_made_keeps_nothing_else_from_being_done(things: str) -> None:
    connection = await asyncpg.connect(things)
    await connection.execute("""
        create function forbid() returns event_trigger language plpgsql as $$
        declare command record;
        begin
          for command in select * from pg_event_trigger_ddl_commands() loop
            if command.object_identity like '%forbidden%' then raise 'no triggers here'; end if;
          end loop;
        end $$;
        create table forbidden (id bigint primary key);
        create event trigger forbid on ddl_command_end when tag in ('CREATE TRIGGER')
          execute function forbid();
        alter publication supabase_realtime add table forbidden;
        create table fine (id bigint primary key);
        grant select on fine to service_role;
        alter event trigger rowcast_follow_ddl disable;
        alter publication supabase_realtime add table fine;
    """)
    marks = "select count(*) from rowcast.marks"
    async with streaming(things) as stream:
        kept = await subscribed(stream, "fine")
        await connection.execute("insert into fine values (1)")
        await kept.until(lambda: len(kept.changes) == 1)
        # The keeper goes on with what else it has to do.
        before = await connection.fetchval(marks)
        async with asyncio.timeout(20):
            for number in range(2, 1_000_000):
                await connection.execute("insert into fine values ($1)", number)
                if await connection.fetchval(marks) > before + 1:
                    break
        assert stream.faults() == {}
    await connection.close()


async def test_a_restart_of_postgres_loses_and_repeats_nothing(cluster: Callable[..., Postgres]) -> None:
    server = cluster(durable=True)
    await migrate(server.dsn)
    setup = await asyncpg.connect(server.dsn)
    await setup.execute(TABLE)
    await setup.close()
    async with streaming(server.dsn) as stream:
        kept = await subscribed(stream, "things")
        for turn in range(3):
            connection = await asyncpg.connect(server.dsn)
            for n in range(20):
                await connection.execute("insert into things values ($1)", turn * 20 + n)
            await connection.close()
            await asyncio.to_thread(server.kill if turn == 1 else server.stop)
            await asyncio.to_thread(server.start)
        await kept.until(lambda: len(kept.changes) >= 60)
        assert [change["record"]["id"] for change in kept.changes] == list(range(60))
        assert kept.losses == 0


async def test_prepared_transactions_can_be_made_and_are_delivered_once_committed(
    cluster: Callable[..., Postgres],
) -> None:
    server = cluster(settings={"max_prepared_transactions": "5"})
    await migrate(server.dsn)
    connection = await asyncpg.connect(server.dsn)
    await connection.execute(TABLE)
    async with streaming(server.dsn) as stream:
        kept = await subscribed(stream, "things")
        # Long enough for a reader that may sleep to have fallen asleep.
        await connection.execute("select pg_sleep(3)")
        assert stream.mode is Mode.AWAKE
        for n, end in enumerate(("commit", "rollback", "commit")):
            await connection.execute(f"begin; insert into things values ({n}); prepare transaction 'p{n}'")
            await connection.execute(f"insert into things values ({n + 10})")
            await connection.execute(f"{end} prepared 'p{n}'")
        await kept.until(lambda: len(kept.changes) >= 5)
        assert sorted(change["record"]["id"] for change in kept.changes) == [0, 2, 10, 11, 12]
    await connection.close()


@pytest.mark.parametrize("filter_", ["", "id=gt.0", "name=like.%"])
async def test_a_change_that_cannot_be_sent_ends_the_channels_that_hear_its_table_and_no_others(
    things: str, monkeypatch: pytest.MonkeyPatch, filter_: str
) -> None:
    def failing(change: Change, view: View, *, last: bool) -> bytes:
        if change.relation.table == "things":
            raise ValueError("a row that must not reach the log")
        return encode_data(change, view, last=last)

    monkeypatch.setattr("rowcast.hub.sending.encode_data", failing)
    connection = await asyncpg.connect(things)
    await connection.execute(
        "alter table things add column name text default 'a'; create table others (id bigint primary key);"
        "grant select on others to service_role; alter publication supabase_realtime add table others"
    )
    async with streaming(things) as stream:
        broken, fine = await subscribed(stream, "things", filter_), await subscribed(stream, "others")
        await connection.execute("insert into things (id) values (1); insert into others values (1)")
        await broken.until(lambda: broken.losses == 1)
        await fine.until(lambda: len(fine.changes) == 1)
        monkeypatch.setattr("rowcast.hub.sending.encode_data", encode_data)
        again = await subscribed(stream, "things", filter_)
        await connection.execute("insert into things (id) values (2)")
        await again.until(lambda: len(again.changes) == 1)
        assert (fine.losses, broken.changes) == (0, [])
        assert not {"reader", "filters"} & stream.faults().keys()
    await connection.close()
