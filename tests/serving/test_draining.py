"""The end of a server: who is closed when, and what the others get meanwhile.

Where a test has to see what happens in between, the server takes an hour for its end, and is hurried then.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rowcast.protocol.frames import text_frame
from support.serving import PATIENCE, Running, running

pytestmark = pytest.mark.anyio

HOUR = 3600.0
JOIN = '["1","1","realtime:a","phx_join",{"config":{"postgres_changes":[{"event":"*","table":"todos"}]}}]'


@contextlib.asynccontextmanager
async def clients(running: Running, *, idle: int, joined: int) -> AsyncIterator[list[ClientConnection]]:
    """Open sockets, those without a channel first."""
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        found = [await stack.enter_async_context(connect(running.url)) for _ in range(joined + idle)]
        for client in found[idle:]:
            await client.send(JOIN)
            while "Subscribed" not in str(await client.recv()):
                pass
        yield found


async def ended(client: ClientConnection) -> int:
    """Wait until it is closed; with which code."""
    with contextlib.suppress(ConnectionClosed):
        async for _ in client:
            pass
    assert client.close_code is not None
    return client.close_code


async def get(running: Running, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{running.port}{path}")


async def test_while_some_are_closed_the_others_go_on_and_nobody_new_is_let_in() -> None:
    async with running(drain_seconds=HOUR) as server, clients(server, idle=1, joined=2) as (idle, *others):
        server.server.stop()
        assert await ended(idle) == 1012
        for subscriber in server.feed.subscribers:
            subscriber.lane.push(text_frame(b"a change"))
        assert [await client.recv() for client in others] == ["a change", "a change"]
        answer = await get(server, "/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "draining"})
        assert (await get(server, "/healthz")).status_code == 200
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.url)
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "1"
        assert not server.task.done()
        # What is asked twice is meant.
        server.server.stop()
        await server.task
        for client in others:
            await client.wait_closed()


async def test_all_are_closed_with_1012_in_the_end_those_without_a_channel_first() -> None:
    order: list[bool] = []

    async def follow(client: ClientConnection, *, joined: bool) -> None:
        assert await ended(client) == 1012
        order.append(joined)

    async with running(drain_seconds=0.5) as server, clients(server, idle=2, joined=3) as found:
        async with asyncio.TaskGroup() as tasks:
            for number, client in enumerate(found):
                tasks.create_task(follow(client, joined=number >= 2))
            server.server.stop()
        await server.task
    assert order == [False, False, True, True, True]


async def test_before_its_sockets_are_closed_a_server_may_only_say_that_it_is_not_ready() -> None:
    async with running(drain_delay=HOUR) as server, clients(server, idle=0, joined=1) as (client,):
        server.server.stop()
        assert (await get(server, "/readyz")).status_code == 503
        async with connect(server.url) as late:
            await late.send(json.dumps([None, "2", "phoenix", "heartbeat", {}]))
            assert '"ok"' in str(await late.recv())
        server.feed.subscribers[0].lane.push(text_frame(b"a change"))
        assert await client.recv() == "a change"
        server.server.stop()
        await server.task


async def test_what_is_queued_is_written_before_a_socket_is_closed() -> None:
    async with running(lane_limit=1 << 24) as server, clients(server, idle=0, joined=1) as (client,):
        for number in range(20):
            server.feed.subscribers[0].lane.push(text_frame(f"{number}".encode() + b"x" * 400_000))
        server.server.stop()
        assert [str(await client.recv()).rstrip("x") for _ in range(20)] == [f"{n}" for n in range(20)]
        assert await ended(client) == 1012
        await server.task
