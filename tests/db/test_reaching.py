"""Hosts that are dead, and hosts that die later."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import asyncpg
import pytest

from rowcast.db.connection import connect
from rowcast.db.pool import create_pool
from rowcast.dev.postgres import free_port

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def silent_host() -> AsyncIterator[str]:
    """A host that takes connections and says nothing."""
    held = []

    def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in held:
            writer.close()


async def test_a_host_that_does_not_answer_leaves_the_next_one_its_time(migrated: str) -> None:
    user, _, host = migrated.rpartition("/")[0].rpartition("@")
    async with silent_host() as silent:
        dead = f"127.0.0.1:{free_port()}"
        dsn = migrated.replace(f"{user}@{host}", f"{user}@{dead},{silent},{host}")
        connection = await connect(dsn, purpose="test", timeout=3.0)
        assert await connection.fetchval("select 1") == 1
        await connection.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no such option")
async def test_every_connection_notices_a_host_that_vanishes(migrated: str) -> None:
    alone = await connect(migrated, purpose="test")
    pool = await create_pool(migrated, 1)
    async with pool.acquire() as lent:
        for connection in (alone, lent):
            assert _options(connection) == (1, 5, 10_000)
    await pool.close()
    await alone.close()


def _options(connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy) -> tuple[int, int, int]:
    transport = connection._transport  # type: ignore[union-attr]
    with transport.get_extra_info("socket").dup() as same:
        return (
            same.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            same.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            same.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        )
