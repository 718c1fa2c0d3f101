"""The entrance of the real server: who sends no header, or one without end, is not waited for."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import pytest
import uvicorn
from websockets.asyncio.client import connect

from rowcast.serving import entrance
from rowcast.serving.server import bound_port, make_server
from support.serving import PATIENCE, ListFeed, make_app, serving
from support.tokens import make_token

pytestmark = pytest.mark.anyio

HEARTBEAT = '[null,"1","phoenix","heartbeat",{}]'
ANSWER = '[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]'
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextlib.asynccontextmanager
async def started(handshake_timeout: float) -> AsyncIterator[uvicorn.Server]:
    server = make_server(
        make_app(ListFeed()), host="127.0.0.1", port=0, max_frame=5_000_000, log_level="warning",
        handshake_timeout=handshake_timeout,
    )  # fmt: skip
    async with serving(server):
        yield server


@contextlib.asynccontextmanager
async def dialled(server: uvicorn.Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", bound_port(server))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server ends the connection, however it does."""
    data = bytearray()
    with contextlib.suppress(ConnectionError):
        while part := await asyncio.wait_for(reader.read(65536), PATIENCE):
            data += part
    return bytes(data)


@pytest.mark.parametrize("start", [b"", b"GET /socket/websocket HTTP/1.1\r\nHost: local", b"\r\n\r\n"])
async def test_who_sends_no_whole_header_in_time_is_dropped(start: bytes) -> None:
    async with started(0.1) as server, dialled(server) as (reader, writer):
        writer.write(start)
        assert await rest(reader) == b""


async def test_a_second_request_that_is_begun_and_not_ended_is_dropped() -> None:
    async with started(0.2) as server, dialled(server) as (reader, writer):
        writer.write(HEALTH + b"GET /readyz HTTP/1.1\r\nHost:")
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b"HTTP/1.1") == 1


async def test_a_header_that_never_ends_is_refused_at_its_limit() -> None:
    async with started(PATIENCE) as server, dialled(server) as (reader, writer):
        answer = asyncio.ensure_future(rest(reader))
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            while not answer.done():
                writer.write(b"x-more: " + b"y" * 1_000 + b"\r\n")
                await asyncio.wait_for(writer.drain(), PATIENCE)
                await asyncio.sleep(0)
        assert (await answer) in (entrance.TOO_LARGE, b"")  # a reset may overtake it


async def test_a_header_one_byte_over_the_limit_is_answered() -> None:
    start = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nx-more: "
    async with started(PATIENCE) as server, dialled(server) as (reader, writer):
        # What the server left unread would have the answer overtaken by a reset.
        writer.write(start.ljust(entrance.MAX_HEAD + 1, b"y"))
        assert await rest(reader) == entrance.TOO_LARGE


async def test_a_handshake_that_the_library_refuses_is_answered_and_ended() -> None:
    head = (
        "GET /socket/websocket?apikey=" + "k" * 9_000 + " HTTP/1.1\r\nHost: localhost\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    async with started(PATIENCE) as server, dialled(server) as (reader, writer):
        writer.write(head.encode())
        assert await rest(reader) == entrance.TOO_LARGE


@pytest.mark.parametrize("cut", [0, 2, 20])
async def test_what_a_client_says_with_its_request_is_heard_once_it_is_in(cut: int) -> None:
    """It should wait for the answer; what comes in a packet of its own is heard as well."""
    head = (
        f"GET /socket/websocket?apikey={make_token()}&vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    frame = b"\x81" + bytes([0x80 | len(HEARTBEAT)]) + bytes(4) + HEARTBEAT.encode()
    async with started(PATIENCE) as server, dialled(server) as (reader, writer):
        # The end of the header may come with the frame, and in two parts.
        for part in (head[: len(head) - cut], head[len(head) - cut :] + frame) if cut else (head + frame,):
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            assert (await reader.readexactly(2 + len(ANSWER)))[2:] == ANSWER.encode()


async def test_who_is_in_stays_as_long_as_it_likes() -> None:
    async with started(0.1) as server:
        address = f"ws://127.0.0.1:{bound_port(server)}/socket/websocket?apikey={make_token()}&vsn=2.0.0"
        async with connect(address) as client, dialled(server) as (reader, _):
            # Outlives one that came after it and sent nothing.
            assert await rest(reader) == b""
            await client.send(HEARTBEAT)
            assert await asyncio.wait_for(client.recv(), PATIENCE) == ANSWER


async def test_requests_with_a_body_are_not_taken_for_headers() -> None:
    request = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n" + b"b" * 200_000
    async with started(PATIENCE) as server, dialled(server) as (reader, writer):
        writer.write(request + HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert re.findall(rb"HTTP/1.1 (\d+)", await rest(reader)) == [b"405", b"200"]
