"""The reader against concurrent sessions: nothing lost, repeated, out of order per row, no transaction split."""

import asyncio
import random

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rowcast.capture.reader import Reader
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
                finished = done.is_set()
                before = len(seen)
                async for page in reader.read(connection):
                    for row in page.rows:
                        if row.relation not in names:
                            names[row.relation] = await connection.fetchval(
                                "select table_name from rowcast.relations where id = $1", row.relation
                            )
                        seen.append(Seen(row.xid, row.order.seq, names[row.relation], row.record or "{}"))
                if finished and len(seen) == before:
                    return seen
                if rnd.random() < 0.3:
                    await asyncio.sleep(rnd.random() * 0.02)
        finally:
            await connection.close()


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), size=st.sampled_from([3, 20, 1000]))
async def test_every_committed_change_is_read_once_and_in_order(postgres_factory, seed: int, size: int) -> None:
    async with postgres_factory() as dsn:
        admin = await asyncpg.connect(dsn)
        await admin.execute("select rowcast.renew_lease(3600)")
        await admin.execute(SETUP)
        reader, done = Reader(size), asyncio.Event()
        await reader.open(admin)
        rnd = random.Random(seed)
        collecting = asyncio.create_task(_collect(dsn, reader, done, rnd))
        tally = await write(dsn, seed)
        done.set()
        delivered = await collecting
        assert tally.outcomes["committed"] > 20
        assert await faults(admin, delivered) == {}
        await admin.close()
