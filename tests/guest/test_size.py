"""What the outbox takes of the disk: bounded whatever happens, also where nobody trims it."""

import asyncio

import asyncpg
import pytest

from rowcast.capture.retention import Retention
from support.streams import streaming, subscribed
from support.waiting import until_so, until_well

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

TABLE = """
create table things (id bigint primary key, text text);
grant select on things to service_role;
alter publication supabase_realtime add table things;
"""
MEGABYTE = 1 << 20
# About 1.1 kB of the outbox for each row.
FILL = (
    "insert into things select n, repeat('x', 1000) from generate_series($1::bigint, $1::bigint + 499) as n"
)
SIZE = "select rowcast.outbox_size()"
CAPTURES = "select last_value > extract(epoch from clock_timestamp()) from rowcast.lease_until"


async def tended(connection: asyncpg.Connection, size: int) -> None:
    """Leave lease and size as a server does that is stopped."""
    await Retention(age=3600, size=size, lease=3600).renew(connection)


async def test_while_no_server_runs_triggers_stop_at_twice_the_size_and_writes_go_on(migrated: str) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLE)
    await tended(connection, MEGABYTE)
    for n in range(20):
        await connection.execute(FILL, n * 500)
    assert not await connection.fetchval(CAPTURES)
    assert 2 * MEGABYTE < await connection.fetchval(SIZE) < 3.5 * MEGABYTE
    assert await connection.fetchval("select count(*) from things") == 10_000
    await connection.close()


async def test_single_rows_are_counted_as_well_as_large_statements(migrated: str) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLE)
    await tended(connection, MEGABYTE)
    n = 0
    while await connection.fetchval(CAPTURES):
        n += 1
        await connection.execute("insert into things values ($1, repeat('x', 1000))", n)
    assert await connection.fetchval(SIZE) < 3.5 * MEGABYTE
    await connection.close()


async def test_a_server_that_finds_the_outbox_full_trims_it_and_begins_a_new_epoch(migrated: str) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLE)
    await tended(connection, MEGABYTE)
    for n in range(20):
        await connection.execute(FILL, n * 500)
    before = await connection.fetchval("select value from rowcast.epoch")
    async with streaming(migrated, size=MEGABYTE) as stream:
        kept = await subscribed(stream, "things")
        await until_so(connection, CAPTURES)
        assert await connection.fetchval("select value from rowcast.epoch") != before
        # Who had subscribed by then was told that changes may be missing.
        await kept.until(lambda: kept.losses == 1)
        again = await subscribed(stream, "things")
        await connection.execute("insert into things values (-1, 'after')")
        await again.until(lambda: len(again.changes) == 1)
    assert await connection.fetchval(SIZE) < 2 * MEGABYTE
    await connection.close()


async def test_a_reader_that_lags_finds_a_bounded_outbox_and_says_that_changes_are_missing(
    migrated: str,
) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLE)
    await tended(connection, MEGABYTE)
    largest = 0
    async with streaming(migrated, size=MEGABYTE) as stream:
        kept = await subscribed(stream, "things")
        locked = await asyncpg.connect(migrated)
        await locked.execute("begin; lock table rowcast.trimmed in access exclusive mode")
        for n in range(10):
            await connection.execute(FILL, n * 500)
            largest = max(largest, await connection.fetchval(SIZE))
        await locked.execute("rollback")
        await locked.close()
        await kept.until(lambda: kept.losses > 0 or len(kept.changes) == 5000)
        for n in range(10, 40):
            await connection.execute(FILL, n * 500)
            largest = max(largest, await connection.fetchval(SIZE))
    assert largest < 3.5 * MEGABYTE
    await connection.close()


async def test_a_dump_holds_trimming_back_and_is_named(migrated: str) -> None:
    connection, dump = await asyncpg.connect(migrated), await asyncpg.connect(migrated)
    await connection.execute(TABLE)
    async with streaming(migrated, size=MEGABYTE, age=0.5) as stream:
        # As pg_dump does of every table, whether its rows are dumped or not.
        await dump.execute(
            "begin read only;"
            " lock table rowcast.outbox_0, rowcast.outbox_1, rowcast.outbox_2 in access share mode"
        )
        n = 0
        async with asyncio.timeout(60):
            while "capture" not in stream.faults():
                await connection.execute(FILL, n * 500)
                n += 1
        assert "pg_dump" in stream.faults()["capture"]
        await dump.execute("commit")
        await until_well(stream.faults)
    await dump.close()
    await connection.close()


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_an_open_transaction_that_wrote_holds_trimming_back_but_not_delivery_nor_the_bound(
    migrated: str, postgres: str, elsewhere: bool
) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLE)
    idle = await asyncpg.connect(postgres if elsewhere else migrated)
    async with streaming(migrated, size=MEGABYTE, age=0.5) as stream:
        kept = await subscribed(stream, "things")
        await idle.execute("begin; select pg_current_xact_id()")
        for n in range(2):
            await connection.execute(FILL, n * 500)
        await kept.until(lambda: len(kept.changes) == 1000)
        assert [change["record"]["id"] for change in kept.changes] == list(range(1000))
        n = 2
        async with asyncio.timeout(60):
            while "capture" not in stream.faults():
                await connection.execute(FILL, n * 500)
                n += 1
        assert "stays open" in stream.faults()["capture"]
        size = await connection.fetchval(SIZE)
        for _ in range(5):
            await connection.execute(FILL, n * 500)
            n += 1
        # Nothing more is captured, and nobody's write fails.
        assert await connection.fetchval(SIZE) == size
        assert size < 8 * MEGABYTE
        assert kept.losses == 0
        await idle.execute("commit")
        await kept.until(lambda: kept.losses == 1)
        await until_well(stream.faults)
        # The first may have ended as rows were trimmed: that capture began anew ends any other, until the
        # reader has met it.
        await stream._present.catch_up()
        again = await subscribed(stream, "things")
        await connection.execute("insert into things values (-1, 'after')")
        await again.until(lambda: len(again.changes) == 1)
    assert await connection.fetchval("select count(*) from things") == n * 500 + 1
    await idle.close()
    await connection.close()


async def test_a_transaction_that_only_reads_holds_nothing_back(migrated: str) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLE)
    idle = await asyncpg.connect(migrated)
    await idle.execute("begin isolation level repeatable read; select count(*) from things")
    async with streaming(migrated, size=MEGABYTE, age=0.5) as stream:
        kept = await subscribed(stream, "things")
        n = 0
        async with asyncio.timeout(60):
            while await connection.fetchval("select xid = '0' from rowcast.trimmed"):
                await connection.execute("insert into things values ($1, 'x')", n)
                n += 1
        await kept.until(lambda: len(kept.changes) >= n)
        assert kept.losses == 0
    await idle.close()
    await connection.close()
