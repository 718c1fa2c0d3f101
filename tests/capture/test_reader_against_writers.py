"""The reader against concurrent sessions: nothing lost, repeated or misordered, no transaction split."""

import asyncio
import random
from collections.abc import Iterator

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcast.capture.reader import Reader
from support import databases
from support.workload import SETUP, Seen, faults, write

pytestmark = pytest.mark.anyio


async def _collect(dsn: str, reader: Reader, done: asyncio.Event, rnd: random.Random) -> list[Seen]:
    """Read until the writers have ended and nothing is left, breaking the connection off now and then."""
    names: dict[int, str] = {}
    seen: list[Seen] = []
    while True:
        connection = await asyncpg.connect(dsn)
        try:
            await reader.open(connection)
            for _ in range(rnd.randint(1, 60)):
                # A read that goes on within a batch ends with that batch, whatever came after it.
                last = done.is_set() and reader.place is not None and reader.place.end is None
                before = len(seen)
                async for page in reader.read(connection):
                    for row in page.rows:
                        if row.relation not in names:
                            names[row.relation] = await connection.fetchval(
                                "select table_name from rowcast.relations where id = $1", row.relation
                            )
                        seen.append(Seen(row.xid, row.seq, names[row.relation], row.record or "{}"))
                    if rnd.random() < 0.05:
                        # Broken off within a page: what was taken of it is not given again.
                        reader.handed_out(page, page.upto)
                        break
                if last and len(seen) == before:
                    return seen
                # Reads that come thick and fast, and reads that many transactions fall between.
                await connection.execute("select pg_sleep($1)", rnd.choice((0.0, 0.0, 0.001, 0.03)))
        finally:
            await connection.close()


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(seed=st.integers(0, 100_000), size=st.sampled_from([3, 20, 1000]))
async def test_every_committed_change_is_read_once_and_in_order(
    postgres: str, migrated_template: str, database_names: Iterator[str], seed: int, size: int
) -> None:
    name = next(database_names)
    dsn = databases.create(postgres, name, template=migrated_template)
    try:
        admin = await asyncpg.connect(dsn)
        await admin.execute("select rowcast.renew_lease(3600)")
        await admin.execute(SETUP)
        reader, done = Reader(size), asyncio.Event()
        await reader.open(admin)
        collecting = asyncio.create_task(_collect(dsn, reader, done, random.Random(seed)))
        tally = await write(dsn, seed)
        done.set()
        delivered = await collecting
        assert tally.outcomes["committed"] > 20
        assert await faults(admin, delivered) == {}
        await admin.close()
    finally:
        databases.drop(postgres, name)
