"""Everything behind a real PgBouncer that lends sessions by the transaction: nothing lost, repeated or out of
order, whatever happens to the pooler and to the Postgres behind it."""

import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from rowcast.capture.reader import HistoryLost, Reader
from rowcast.capture.waker import Mode
from rowcast.db.connection import REFUSED, connect
from rowcast.db.migrations import migrate
from rowcast.dev.postgres import Postgres
from support.pgbouncer import pgbouncer
from support.streams import Kept, streaming, subscribed
from support.waiting import until_well

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

TABLE = """
create table things (id bigint primary key, note text not null);
grant select on things to service_role;
alter publication supabase_realtime add table things;
"""
LOCKS = """
select count(*) from pg_locks where locktype = 'advisory'
  and database = (select oid from pg_database where datname = current_database())
"""
WRITERS = 4


async def _write(dsn: str, writer: int, stopping: asyncio.Event) -> None:
    """Insert 1, 2, 3, … of its own until told to stop, through whatever comes."""
    number = writer * 1_000_000
    while not stopping.is_set():
        try:
            connection = await asyncpg.connect(dsn, statement_cache_size=0, command_timeout=10)
        except (*REFUSED, asyncpg.PostgresError):
            await asyncio.sleep(0.01)
            continue
        try:
            while not stopping.is_set():
                number += 1
                await connection.execute("insert into things values ($1, repeat('x', 50))", number)
                await asyncio.sleep(0.001)
        except (*REFUSED, asyncpg.PostgresError):
            continue
        finally:
            connection.terminate()


async def _check(dsn: str, kept: Kept) -> None:
    """What was kept is what is there, each once, and in each writer's order."""
    connection = await asyncpg.connect(dsn)
    present = {row["id"] for row in await connection.fetch("select id from things")}
    await connection.close()
    await kept.until(lambda: len(kept.changes) >= len(present))
    ids = [change["record"]["id"] for change in kept.changes]
    assert sorted(ids) == sorted(present)
    for writer in range(WRITERS):
        own = [id_ for id_ in ids if id_ // 1_000_000 == writer]
        assert own == sorted(own)
    assert kept.losses == 0


async def test_writers_and_subscribers_behind_a_pooler_that_is_killed_lose_and_repeat_nothing(
    migrated: str,
) -> None:
    admin = await asyncpg.connect(migrated)
    await admin.execute(TABLE)
    with pgbouncer(migrated) as pooler:
        async with streaming(pooler.address, pooled=True, page_size=20) as stream:
            kept = await subscribed(stream, "things")
            filtered = await subscribed(stream, "things", "id=gt.0")
            asking = await subscribed(stream, "things", "note=like.x%")
            stopping = asyncio.Event()
            writers = [
                asyncio.create_task(_write(pooler.address, writer, stopping)) for writer in range(WRITERS)
            ]
            for turn in range(3):
                await kept.until(lambda turn=turn: len(kept.changes) >= 150 * (turn + 1))  # type: ignore[misc]
                await asyncio.to_thread(pooler.kill)
                await asyncio.to_thread(pooler.start)
            await kept.until(lambda: len(kept.changes) >= 700)
            stopping.set()
            await asyncio.gather(*writers)
            for one in (kept, filtered, asking):
                await _check(migrated, one)
            assert stream.mode is Mode.AWAKE
            await until_well(stream.faults)
        # No flag was raised that nobody could hear of, and no lock is left on a session of the pooler's.
        assert await admin.fetchval("select last_value from rowcast.asleep_until") == 0
        assert await admin.fetchval(LOCKS) == 0
    await admin.close()


async def test_a_postgres_that_crashes_behind_the_pooler_loses_and_repeats_nothing(
    cluster: Callable[..., Postgres],
) -> None:
    server = cluster(durable=True, settings={"synchronous_commit": "off"})
    await migrate(server.dsn)
    admin = await asyncpg.connect(server.dsn)
    await admin.execute(TABLE)
    await admin.close()
    with pgbouncer(server.dsn) as pooler:
        async with streaming(pooler.address, pooled=True) as stream:
            kept = await subscribed(stream, "things")
            stopping = asyncio.Event()
            writers = [
                asyncio.create_task(_write(pooler.address, writer, stopping)) for writer in range(WRITERS)
            ]
            for _ in range(3):
                goal = len(kept.changes) + 200
                await kept.until(lambda goal=goal: len(kept.changes) >= goal)  # type: ignore[misc]
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            goal = len(kept.changes) + 50
            await kept.until(lambda: len(kept.changes) >= goal)
            stopping.set()
            await asyncio.gather(*writers)
            await _check(server.dsn, kept)


async def test_two_nodes_behind_a_pooler_trim_together_and_both_deliver_everything(migrated: str) -> None:
    admin = await asyncpg.connect(migrated)
    await admin.execute(TABLE)
    with pgbouncer(migrated) as pooler:
        async with (
            streaming(pooler.address, pooled=True, age=0.6) as one,
            streaming(pooler.address, pooled=True, age=0.6) as two,
        ):
            both = [await subscribed(one, "things"), await subscribed(two, "things")]
            n = 0
            while await admin.fetchval("select xid = '0' from rowcast.trimmed") or n < 300:
                await admin.execute("insert into things values ($1, '')", n)
                n += 1
            for kept in both:
                await kept.until(lambda kept=kept: len(kept.changes) >= n)  # type: ignore[misc]
                assert [change["record"]["id"] for change in kept.changes] == list(range(n))
                assert kept.losses == 0
    await admin.close()


async def test_a_history_that_changed_behind_the_pooler_is_noticed_on_the_connection_that_stays(
    migrated: str,
) -> None:
    admin = await asyncpg.connect(migrated)
    await admin.execute("select rowcast.renew_lease(3600)")
    await admin.execute(TABLE)
    with pgbouncer(migrated) as pooler:
        connection = await connect(pooler.address, purpose="test", pooled=True)
        reader = Reader()
        await reader.open(connection, pooled=True)
        await admin.execute("insert into things values (1, '')")
        rows = [row.op async for page in reader.read(connection) for row in page.rows]
        assert rows == ["I"]
        # What a crash does to an unlogged outbox, and the promotion of a standby to a logged one.
        await admin.execute("update rowcast.epoch set value = gen_random_uuid()")
        await admin.execute("insert into things values (2, '')")
        with pytest.raises(ConnectionResetError):
            [page async for page in reader.read(connection)]
        with pytest.raises(HistoryLost):
            await reader.open(connection, pooled=True)
        await admin.execute("insert into things values (3, '')")
        ids = [row.record async for page in reader.read(connection) for row in page.rows]
        assert ids == ['{"id":3,"note":""}']
        assert not connection.is_in_transaction()
        await connection.close()
    await admin.close()


async def test_what_is_larger_than_a_page_is_read_whole_behind_a_pooler(migrated: str) -> None:
    admin = await asyncpg.connect(migrated)
    await admin.execute(TABLE)
    with pgbouncer(migrated, size=3) as pooler:
        async with streaming(pooler.address, pooled=True, page_size=10) as stream:
            kept = await subscribed(stream, "things")
            await admin.execute("insert into things select g, '' from generate_series(1, 95) as g")
            for n in range(96, 101):
                await admin.execute("insert into things values ($1, '')", n)
            await kept.until(lambda: len(kept.changes) >= 100)
            assert [change["record"]["id"] for change in kept.changes] == list(range(1, 101))
    await admin.close()
