"""The fast lane in a real server, with clients that behave and clients that do not."""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from rowcast.hub import lanes
from rowcast.protocol.frames import close_frame, text_frame
from rowcast.serving import fastlane
from rowcast.serving.fastlane import FastLane
from rowcast.serving.server import bound_port
from rowcast.session.admission import Limits
from rowcast.session.connection import SUBSCRIBED
from support.serving import PATIENCE, Running, running, serving
from support.tokens import make_token

pytestmark = pytest.mark.anyio

TOPIC = "realtime:a"
JOIN = {"config": {"postgres_changes": [{"event": "*", "schema": "public", "table": "todos"}]}}
Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Start a server; clients that do not answer are dropped soon."""
    monkeypatch.setattr(lanes, "_ABORT_SECONDS", 0.1)
    monkeypatch.setattr(fastlane, "_CLOSE_SECONDS", 0.1)
    async with contextlib.AsyncExitStack() as stack:

        async def start(**options: Any) -> Running:
            return await stack.enter_async_context(running(**options))

        yield start


class Raw:
    """A client that does nothing by itself: it reads when told to, and answers neither pings nor closes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, path: str) -> "Raw":
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", port))
        raw = cls(*await asyncio.open_connection(sock=plain, limit=4096))
        head = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        raw.writer.write(head.encode())
        return raw

    async def shake(self) -> None:
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")

    def send(self, opcode: int, payload: bytes, *, fin: bool = True) -> None:
        size = (
            bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        )
        self.writer.write(bytes([0x80 * fin | opcode]) + size + bytes(4) + payload)

    def join(self) -> None:
        self.send(1, json.dumps(["1", "1", TOPIC, "phx_join", JOIN]).encode())

    async def until_subscribed(self) -> None:
        await self.reader.readuntil(SUBSCRIBED.encode())
        await self.reader.readuntil(b"}]")

    async def rest(self) -> bytes:
        """All that comes until the connection ends, however it ends."""
        data = bytearray()
        with contextlib.suppress(ConnectionError):
            while part := await asyncio.wait_for(self.reader.read(65536), PATIENCE):
                data += part
        return bytes(data)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@pytest.fixture
async def raw() -> AsyncIterator[Callable[[Running], Awaitable[Raw]]]:
    """A raw client that has joined."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_(running: Running) -> Raw:
            client = await Raw.open(running.port, running.path)
            stack.push_async_callback(client.close)
            await client.shake()
            client.join()
            await client.until_subscribed()
            return client

        yield open_


async def hear(client: Any, event: str) -> Any:
    """The payload of the next message of this kind."""
    async with asyncio.timeout(PATIENCE):
        while True:
            message = json.loads(await client.recv())
            if message[3] == event:
                return message[4]


async def test_frames_arrive_whole_and_in_order_however_large(start: Start) -> None:
    running = await start(lane_limit=64 << 20)
    async with connect(running.url, max_size=None) as client:
        await client.send(json.dumps(["1", "1", TOPIC, "phx_join", JOIN]))
        await hear(client, "system")
        (subscriber,) = running.feed.subscribers
        texts = [f"{number}:{'x' * (number * 997 % 200_000)}" for number in range(200)]
        for text in texts:
            subscriber.lane.push(text_frame(text.encode()))
        async with asyncio.timeout(PATIENCE):
            assert [await client.recv() for _ in texts] == texts


async def test_pings_are_answered_between_whole_frames(start: Start) -> None:
    running = await start(lane_limit=64 << 20)
    async with connect(running.url, max_size=None) as client:
        await client.send(json.dumps(["1", "1", TOPIC, "phx_join", JOIN]))
        await hear(client, "system")
        (subscriber,) = running.feed.subscribers
        for number in range(20):
            subscriber.lane.push(text_frame(f"{number}".encode() + b"x" * 300_000))
            await asyncio.wait_for(await client.ping(), PATIENCE)
            assert (await client.recv()).startswith(str(number))  # type: ignore[arg-type]


async def test_a_client_that_does_not_read_is_cut_and_its_subscription_ended(
    start: Start, raw: Callable[[Running], Awaitable[Raw]]
) -> None:
    running = await start(lane_limit=100_000)
    await raw(running)
    (subscriber,) = running.feed.subscribers
    for _ in itertools.takewhile(lambda _: not subscriber.lane.closing, itertools.count()):
        subscriber.lane.push(text_frame(b"x" * 60_000))
        assert subscriber.lane.queued <= 100_000
        await asyncio.sleep(0)
    await asyncio.wait_for(running.feed.gone.wait(), PATIENCE)
    assert running.feed.subscribers == []


async def test_a_client_that_does_not_read_any_more_and_answers_no_ping_is_dropped(
    start: Start, raw: Callable[[Running], Awaitable[Raw]]
) -> None:
    running = await start(lane_limit=64 << 20, ping=0.2)
    await raw(running)
    (subscriber,) = running.feed.subscribers
    for _ in range(60):
        subscriber.lane.push(text_frame(b"x" * 500_000))
    await asyncio.wait_for(running.feed.gone.wait(), PATIENCE)
    assert subscriber.lane.closed


async def test_nothing_follows_a_close_frame(start: Start, raw: Callable[[Running], Awaitable[Raw]]) -> None:
    running = await start()
    client = await raw(running)
    (subscriber,) = running.feed.subscribers
    subscriber.lane.push(text_frame(b"last"))
    subscriber.lane.close(4000, "enough")
    subscriber.lane.push(text_frame(b"too late"))
    client.send(9, b"ping")
    client.send(1, b'[null,"9","phoenix","heartbeat",{}]')
    closing = client.reader.readuntil(close_frame(4000, "enough"))
    # A pong may come between the two.
    assert (await asyncio.wait_for(closing, PATIENCE)).count(text_frame(b"last")) == 1
    client.send(9, b"ping")
    client.send(1, b'[null,"9","phoenix","heartbeat",{}]')
    assert await client.rest() == b""


async def test_a_client_that_asks_for_pongs_and_reads_none_is_dropped(
    start: Start, raw: Callable[[Running], Awaitable[Raw]]
) -> None:
    running = await start(lane_limit=50_000)
    client = await raw(running)
    with contextlib.suppress(ConnectionError):
        while not running.feed.gone.is_set():
            for _ in range(100):
                client.send(9, b"p" * 125)
            await asyncio.wait_for(client.writer.drain(), PATIENCE)
            await asyncio.sleep(0)
    await asyncio.wait_for(running.feed.gone.wait(), PATIENCE)


async def test_the_server_ends_with_1012_for_who_answers_and_who_does_not(
    start: Start, raw: Callable[[Running], Awaitable[Raw]]
) -> None:
    running = await start()
    silent = await raw(running)
    async with connect(running.url) as client:
        await client.send(json.dumps(["1", "1", TOPIC, "phx_join", JOIN]))
        await hear(client, "system")
        running.server.should_exit = True
        with pytest.raises(ConnectionClosed) as ended:
            await asyncio.wait_for(client.recv(), PATIENCE)
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1012
    assert (await silent.rest()).startswith(close_frame(1012, "the server is restarting"))
    await asyncio.wait_for(running.task, PATIENCE)
    assert running.feed.subscribers == []


async def test_a_subscription_that_fails_is_told_and_can_be_made_anew_with_another_token(
    start: Start,
) -> None:
    running = await start()
    async with connect(running.url) as client:
        await client.send(json.dumps(["1", "1", TOPIC, "phx_join", JOIN]))
        assert (await hear(client, "system"))["status"] == "ok"
        running.feed.failures.append(OSError("the disk is gone"))
        for role, status in (("authenticated", "error"), ("service_role", "ok")):
            token = {"access_token": make_token(role)}
            await client.send(json.dumps(["1", "2", TOPIC, "access_token", token]))
            assert (await hear(client, "system"))["status"] == status
            assert len(running.feed.subscribers) == (status == "ok")


async def test_refusals_that_wait_are_bounded(start: Start) -> None:
    running = await start(limits=Limits(refusal_delay=1000.0))
    async with connect(running.url) as client:
        for number in range(1_001):
            await client.send(json.dumps([f"{number}", f"{number}", "realtime:", "phx_join", {}]))
        with pytest.raises(ConnectionClosed) as ended:
            await asyncio.wait_for(client.recv(), PATIENCE)
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1008


async def test_refusals_that_wait_are_bounded_in_bytes_too(start: Start) -> None:
    limits = Limits(refusal_delay=1000.0, topic_size=50_000)
    running = await start(limits=limits, lane_limit=100_000)
    async with connect(running.url) as client:
        for number in range(4):
            topic = f"realtime:{number}{'x' * 40_000}"
            await client.send(json.dumps(["1", "1", topic, "phx_join", {"config": 5}]))
        with pytest.raises(ConnectionClosed) as ended:
            await asyncio.wait_for(client.recv(), PATIENCE)
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1008


async def test_a_message_in_fragments_is_heard_whole(
    start: Start, raw: Callable[[Running], Awaitable[Raw]]
) -> None:
    client = await raw(await start())
    heartbeat = b'[null,"9","phoenix","heartbeat",{}]'
    for opcode, first in ((1, heartbeat[:5]), (2, b"\x03")):
        client.send(opcode, first, fin=False)
        for byte in heartbeat[5:-1]:
            client.send(0, bytes([byte]), fin=False)
            client.send(0, b"", fin=False)
        client.send(0, heartbeat[-1:])
    client.send(1, heartbeat)
    answer = text_frame(b'[null,"9","phoenix","phx_reply",{"status":"ok","response":{"position":"p"}}]')
    # What came as bytes is no heartbeat, and was not taken for one.
    assert await asyncio.wait_for(client.reader.readexactly(2 * len(answer)), PATIENCE) == 2 * answer


async def test_a_message_in_any_number_of_fragments_takes_no_more_than_its_size(
    start: Start, raw: Callable[[Running], Awaitable[Raw]]
) -> None:
    running = await start()
    client = await raw(running)
    (connection,) = (one for one in running.server.server_state.connections if isinstance(one, FastLane))
    client.send(1, b"[", fin=False)
    for _ in range(200):
        for _ in range(500):
            client.send(0, b"", fin=False)
        await client.writer.drain()
    client.send(9, b"all read")
    await asyncio.wait_for(client.reader.readuntil(b"all read"), PATIENCE)
    assert connection.frames == []
    assert connection._fragments == b"["


@pytest.mark.parametrize("text", [b"\xff", b"[\xed\xa0\x80]"], ids=["no text", "half a pair"])
async def test_a_text_that_is_no_utf_8_closes_with_1007_and_logs_nothing(
    start: Start, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    server = await start(log_level="info")
    for _ in range(3):
        async with connect(server.url) as socket:
            await socket.send(text, text=True)
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1007
    assert not [record for record in caplog.records if "uvicorn" in record.name]


async def test_a_message_whose_fragments_are_too_big_together_closes_with_1009(
    start: Start, raw: Callable[[Running], Awaitable[Raw]]
) -> None:
    client = await raw(await start(max_frame=1_000))
    client.send(1, b"x" * 500, fin=False)
    client.send(0, b"x" * 501, fin=False)
    assert (1009).to_bytes(2, "big") in await client.rest()


async def test_a_silent_client_that_does_not_read_is_ended_without_spinning(
    start: Start, raw: Callable[[Running], Awaitable[Raw]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rowcast.session import connection

    ticks = 0
    tick = connection.Connection.tick

    def counting(self: connection.Connection, now: float) -> Any:
        nonlocal ticks
        ticks += 1
        return tick(self, now)

    monkeypatch.setattr(connection.Connection, "tick", counting)
    running = await start(lane_limit=64 << 20, limits=Limits(idle_timeout=0.5))
    await raw(running)
    (subscriber,) = running.feed.subscribers
    for _ in range(60):
        subscriber.lane.push(text_frame(b"x" * 500_000))
    await asyncio.wait_for(running.feed.gone.wait(), PATIENCE)
    assert 1 <= ticks <= 5


async def test_a_client_that_leaves_while_it_waits_for_its_refusal_is_no_error(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    running = await start(delay=0.2)
    client = await Raw.open(running.port, "/realtime/v1/websocket?apikey=wrong&vsn=2.0.0")
    while not running.server.server_state.tasks:  # noqa: ASYNC110 - nor for this
        await asyncio.sleep(0)
    (task,) = running.server.server_state.tasks
    await client.close()
    await asyncio.wait_for(task, PATIENCE)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_message_that_is_too_big_closes_under_the_server_of_others_too(start: Start) -> None:
    running = await start(limits=Limits(message_size=1_000))
    plain = uvicorn.Server(uvicorn.Config(running.app, port=0, log_config=None, lifespan="off"))
    async with (
        serving(plain),
        connect(f"ws://127.0.0.1:{bound_port(plain)}{running.path}") as client,
    ):
        await client.send("x" * 1_001)
        with pytest.raises(ConnectionClosed) as ended:
            await asyncio.wait_for(client.recv(), PATIENCE)
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1009


@pytest.mark.parametrize("protocol", ["websockets-sansio", "websockets"])
@pytest.mark.filterwarnings("ignore:The `websockets` implementation", "ignore::DeprecationWarning")
async def test_the_server_of_others_can_be_used_too(start: Start, protocol: Any) -> None:
    running = await start(lane_limit=1 << 20)
    plain = uvicorn.Server(uvicorn.Config(running.app, port=0, ws=protocol, log_config=None, lifespan="off"))
    async with (
        serving(plain),
        connect(f"ws://127.0.0.1:{bound_port(plain)}{running.path}", max_size=None) as client,
    ):
        await client.send(json.dumps(["1", "1", TOPIC, "phx_join", JOIN]))
        await hear(client, "system")
        (subscriber,) = running.feed.subscribers
        texts = [f"{number}:{'x' * (number * 997)}" for number in range(40)]
        for text in texts:
            subscriber.lane.push(text_frame(text.encode()))
        subscriber.lane.close(4000, "enough")
        async with asyncio.timeout(PATIENCE):
            assert [await client.recv() for _ in texts] == texts
            with pytest.raises(ConnectionClosed) as ended:
                await client.recv()
        assert ended.value.rcvd is not None
        assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (4000, "enough")
        await asyncio.wait_for(running.feed.gone.wait(), PATIENCE)
