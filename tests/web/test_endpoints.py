"""The endpoints of the app, on a server in this process: handshakes, health, and what one client can do."""

import asyncio
import json
import logging
from collections.abc import MutableMapping
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import connect

from rowcast.session.admission import Limits
from support.serving import PATIENCE, ListFeed, Running, make_app, running

pytestmark = pytest.mark.anyio

HEARTBEAT = '[null,"9","phoenix","heartbeat",{}]'
ANSWER = '[null,"9","phoenix","phx_reply",{"status":"ok","response":{}}]'


async def get(server: Running, path: str) -> tuple[int, str]:
    """Status and body of a plain request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), PATIENCE)).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def test_it_lives_and_says_what_keeps_it_from_being_ready() -> None:
    async with running() as server:
        assert await get(server, "/healthz") == (200, '{"status":"ok"}')
        assert await get(server, "/readyz") == (200, '{"status":"ready"}')
        server.faults["reader"] = "not connected to the database"
        status, body = await get(server, "/readyz")
        assert (status, json.loads(body)["faults"]) == (503, {"reader": "not connected to the database"})
        assert (await get(server, "/healthz"))[0] == 200


@pytest.mark.parametrize("prefix", ["/realtime/v1", "/socket"])
async def test_a_plain_request_for_a_socket_is_told_what_is_wrong(prefix: str) -> None:
    async with running() as server:
        status, body = await get(server, f"{prefix}/websocket?apikey=x&vsn=2.0.0")
        assert status == 400
        assert "connect with an upgrade" in body
        assert (await get(server, "/nowhere"))[0] == 404


@pytest.mark.parametrize("query", ["", "&vsn=9.0.0"])
async def test_a_server_that_cannot_send_a_refusal_closes_instead(query: str) -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "websocket", "path": "/socket/websocket", "raw_path": b"/socket/websocket", "headers": [],
        "query_string": f"apikey=garbage{query}".encode(), "subprotocols": [], "extensions": {},
    }  # fmt: skip
    await make_app(ListFeed())(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_an_entry_of_any_depth_is_answered_or_ignored_and_harms_nobody() -> None:
    async with running() as server, connect(server.url) as client:
        for depth in (*range(1, 40), *range(900, 1_020)):
            entry = f'{{"table":"a","select":{"[" * depth}{"]" * depth}}}'
            config = f'{{"postgres_changes":[{entry}]}}'
            await client.send(f'["1","1","realtime:a","phx_join",{{"config":{config}}}]')
        await client.send(HEARTBEAT)
        async with asyncio.timeout(PATIENCE):
            while await client.recv() != ANSWER:
                pass


async def test_a_message_that_is_too_big_closes_with_1009() -> None:
    async with running(max_frame=10_000) as server, connect(server.url) as client:
        await client.send("x" * 10_001)
        with pytest.raises(websockets.ConnectionClosed) as ended:
            await asyncio.wait_for(client.recv(), PATIENCE)
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1009


async def test_a_refused_join_is_answered_late_and_holds_nothing_up() -> None:
    limits = Limits(refusal_delay=0.05)
    async with running(limits=limits) as server, connect(server.url) as client:
        await client.send('["1","1","realtime:","phx_join",{}]')
        await client.send(HEARTBEAT)
        assert await asyncio.wait_for(client.recv(), PATIENCE) == ANSWER
        assert "TopicNameRequired" in str(await asyncio.wait_for(client.recv(), PATIENCE))


async def test_a_channel_is_told_what_becomes_of_it_and_to_join_again_when_it_lost_its_place() -> None:
    join = '["4","4","realtime:a","phx_join",{"config":{"postgres_changes":[{"table":"a"}]}}]'
    async with running() as server, connect(server.url) as client:
        await client.send(join)
        async with asyncio.timeout(PATIENCE):
            assert "phx_reply" in str(await client.recv())
            assert "Subscribed to PostgreSQL" in str(await client.recv())
            server.feed.subscribers[0].told("error", "the table is gone")
            assert '"message":"the table is gone","status":"error"' in str(await client.recv())
            server.feed.subscribers[0].lost()
            assert await client.recv() == '["4","4","realtime:a","phx_error",{}]'
            assert server.feed.subscribers == []
            await client.send(join)
            assert "phx_reply" in str(await client.recv())


@pytest.mark.parametrize("level", ["trace", "debug", "info"])
async def test_no_level_of_the_log_shows_a_key_or_what_is_said(
    level: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = logging.getLogger("uvicorn.error")
    before = root.level
    try:
        async with running(log_level=level) as server:
            logging.getLogger("websockets").setLevel(logging.WARNING)  # the client's
            async with connect(server.url) as client:
                await client.send('["1","1","realtime:private-matters","phx_join",{}]')
                await asyncio.wait_for(client.recv(), PATIENCE)
    finally:
        root.setLevel(before)
    assert server.path not in caplog.text
    assert "apikey" not in caplog.text
    assert "private-matters" not in caplog.text
