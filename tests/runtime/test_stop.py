"""How a server stops while clients are connected: ``rowcast serve`` and its signals."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from support import databases
from support.server import Server
from support.tokens import make_token

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

Serve = Callable[..., Awaitable[Server]]
JOIN = '["1","1","realtime:todos","phx_join",{"config":{"postgres_changes":[{"event":"*","table":"todos"}]}}]'


async def _until(client: ClientConnection, text: str) -> str:
    async with asyncio.timeout(60):
        while text not in (frame := str(await client.recv())):
            pass
    return frame


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_changes_reach_those_who_are_still_open_and_a_second_signal_ends_it(
    todos: str, serve: Serve, number: signal.Signals
) -> None:
    server = await serve(todos, ROWCAST_DRAIN_SECONDS="1h")
    url = f"{server.websocket}?apikey={make_token()}&vsn=2.0.0"
    async with connect(url) as idle, connect(url) as client, connect(url) as other:
        for one in (client, other):
            await one.send(JOIN)
            await _until(one, "Subscribed to PostgreSQL")
        server.send(number)
        await idle.wait_closed()
        assert idle.close_code == 1012
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{server.url}/readyz")).json() == {"status": "draining"}
        databases.execute(todos, "insert into todos values (1, 'while it stops')")
        for one in (client, other):
            change = json.loads(await _until(one, "postgres_changes"))
            assert change[4]["data"]["record"]["id"] == 1
        assert await server.stop(number) == 0
    assert "Traceback" not in server.printed()


async def test_it_ends_by_itself_with_0_once_all_are_closed(todos: str, serve: Serve) -> None:
    server = await serve(todos, ROWCAST_DRAIN_SECONDS="200ms")
    url = f"{server.websocket}?apikey={make_token()}&vsn=2.0.0"
    async with connect(url) as first, connect(url) as second:
        assert await server.stop() == 0
        await asyncio.gather(first.wait_closed(), second.wait_closed())
        assert (first.close_code, second.close_code) == (1012, 1012)
    assert "Traceback" not in server.printed()
