"""Postgres killed with SIGKILL: nothing lost that it kept, nothing delivered that it did not."""

import asyncio
import json
from collections.abc import Callable

import asyncpg
import pytest

from rowcast.capture.reader import Reader
from rowcast.db.connection import REFUSED
from rowcast.db.migrations import migrate
from rowcast.dev.postgres import Postgres

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

Cluster = Callable[..., Postgres]
CRASHES = 3


class Follower:
    """Reads for as long as there is a server, keeping its place when there is none."""

    def __init__(self, dsn: str) -> None:
        self.reader = Reader(size=20)
        self.ids: list[int] = []
        self.goal, self.reached, self.stopping = 0, asyncio.Event(), False
        self._dsn = dsn

    async def once(self) -> None:
        """Read on one connection until nothing is left, or the server is gone."""
        connection = await asyncpg.connect(self._dsn)
        try:
            await self.reader.open(connection)
            empty = 0
            while empty < 2:
                before = len(self.ids)
                async for page in self.reader.read(connection):
                    self.ids += [json.loads(row.record)["id"] for row in page.rows if row.record is not None]
                empty = empty + 1 if len(self.ids) == before else 0
                if len(self.ids) >= self.goal:
                    self.reached.set()
        finally:
            connection.terminate()

    async def follow(self) -> None:
        """Read until told to stop."""
        while not self.stopping:
            try:
                await self.once()
            except (*REFUSED, asyncpg.PostgresError):
                await asyncio.sleep(0)


async def _write_until_killed(dsn: str, first: int) -> None:
    """Commit and roll back, one row at a time, for as long as the server answers."""
    connection = await asyncpg.connect(dsn)
    try:
        for n in range(first, first + 1_000_000):
            end = "rollback" if n % 5 == 0 else "commit"
            await connection.execute(f"begin; insert into kept values ({n}); {end}")
    except (*REFUSED, asyncpg.PostgresError):
        return
    finally:
        connection.terminate()


async def test_killed_under_asynchronous_commits(cluster: Cluster) -> None:
    server = cluster(durable=True, settings={"synchronous_commit": "off"})
    await migrate(server.dsn)
    admin = await asyncpg.connect(server.dsn)
    await admin.execute("select rowcast.renew_lease(36000)")
    await admin.execute(
        "create table kept (id bigint primary key); alter publication supabase_realtime add table kept"
    )
    await admin.close()
    follower = Follower(server.dsn)
    await follower.once()
    for crash in range(CRASHES):
        follower.goal, follower.stopping = len(follower.ids) + 300, False
        follower.reached.clear()
        following = asyncio.create_task(follower.follow())
        writers = [
            asyncio.create_task(_write_until_killed(server.dsn, crash * 10**8 + w * 10**7)) for w in range(4)
        ]
        async with asyncio.timeout(60):
            await follower.reached.wait()
        await asyncio.to_thread(server.kill)
        await asyncio.gather(*writers)
        follower.stopping = True
        await following
        await asyncio.to_thread(server.start)
        await follower.once()
        connection = await asyncpg.connect(server.dsn)
        present = {row["id"] for row in await connection.fetch("select id from kept")}
        await connection.close()
        assert sorted(present - set(follower.ids)) == [], "lost"
        assert sorted(set(follower.ids) - present) == [], "delivered, and gone"
        assert len(follower.ids) == len(set(follower.ids)), "twice"
