"""The server's own settings of uvicorn."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect

from rowcast.serving.server import bound_port, make_server
from support.serving import PATIENCE, serving

pytestmark = pytest.mark.anyio


async def test_who_a_header_says_that_the_client_is_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's own
    seen: list[tuple[str, str]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["client"][0], scope["scheme"]))
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})

    server = make_server(app, host="127.0.0.1", port=0, max_frame=1000, log_level="warning", lifespan="off")
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Forwarded": "for=203.0.113.9"}
    async with (
        serving(server),
        asyncio.timeout(PATIENCE),
        connect(f"ws://127.0.0.1:{bound_port(server)}/", additional_headers=forged) as socket,
    ):
        await socket.wait_closed()
    assert seen == [("127.0.0.1", "ws")]
