"""Subscriptions that wait for a database that is away."""

import asyncio

import asyncpg
import pytest

from rowcast.auth.access import Access
from rowcast.capture import acceptance
from rowcast.capture.acceptance import Acceptance
from rowcast.capture.relations import Relations
from rowcast.db.pool import create_pool
from rowcast.model.binding import parse_binding

pytestmark = pytest.mark.anyio

MANY = 20


async def test_one_asks_for_all_whether_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "_RETRY", 0.001)
    tried, held = 0, asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tried
        tried += 1
        if tried > MANY:
            held.set()
        else:
            writer.close()
            return
        await reader.read()  # until whoever asks gives up
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        pool: asyncpg.Pool = await create_pool(f"postgresql://me@127.0.0.1:{port}/app?sslmode=disable", 5)
        asked = Acceptance(pool, Access(["anon"]), Relations(), asyncio.Event())
        binding = parse_binding({"event": "*", "schema": "public", "table": "todos"})
        tasks = [asyncio.create_task(asked.accept(binding, "anon")) for _ in range(MANY)]
        async with asyncio.timeout(30):
            await held.wait()
        # The others had their turn, were they to take one.
        await asyncio.sleep(0.05)
        assert tried == MANY + 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        pool.terminate()
