"""Fixtures for the SDK's tests: a server of real sockets whose every word the test says."""

import asyncio
import http
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from rowcast_client import Change, Client, RetryPolicy, RowcastError, SubscribeStatus

_TIMEOUT = 10.0


class Line:
    """One connection, seen from the server. Heartbeats are answered by itself while ``beats`` is true."""

    def __init__(self, socket: ServerConnection, beats: bool) -> None:
        self.socket = socket
        self.beats = beats
        self.query = parse_qs(urlsplit(socket.request.path if socket.request else "").query)
        self.frames: asyncio.Queue[list[Any]] = asyncio.Queue(1000)
        self.heartbeats: asyncio.Queue[str] = asyncio.Queue(10_000)
        self.ended = asyncio.Event()

    async def listen(self) -> None:
        try:
            async for text in self.socket:
                frame = json.loads(text)
                if frame[3] == "heartbeat":
                    self.heartbeats.put_nowait(frame[1])
                    if self.beats:
                        await self.say(
                            None, frame[1], "phoenix", "phx_reply", {"status": "ok", "response": {}}
                        )
                else:
                    self.frames.put_nowait(frame)
        except ConnectionClosed:
            pass
        finally:
            self.ended.set()

    async def hear(self, event: str) -> list[Any]:
        """The next frame, which must be this event."""
        async with asyncio.timeout(_TIMEOUT):
            frame = await self.frames.get()
        assert frame[3] == event, frame
        return frame

    async def say(
        self, join_ref: str | None, ref: str | None, topic: str, event: str, payload: object
    ) -> None:
        await self.socket.send(json.dumps([join_ref, ref, topic, event, payload]))

    async def accept(self, *, confirm: bool = True, **more: Any) -> list[Any]:
        """Hear a join and answer it as the server does; binding n gets the id n + 1."""
        join = await self.hear("phx_join")
        entries = join[4]["config"]["postgres_changes"]
        echo = [{**entry, "id": index + 1} for index, entry in enumerate(entries)]
        reply = {"status": "ok", "response": {"postgres_changes": echo}}
        await self.say(join[0], join[1], join[2], "phx_reply", reply)
        if confirm and entries:
            await self.system(join, "ok", "Subscribed to PostgreSQL", **more)
        return join

    async def system(
        self,
        join: list[Any],
        status: str,
        message: str,
        extension: str = "postgres_changes",
        **more: Any,
    ) -> None:
        payload = {"status": status, "message": message, "extension": extension, "channel": join[2][9:]}
        payload |= more
        await self.say(join[0], None, join[2], "system", payload)

    async def refuse(self, reason: str) -> list[Any]:
        join = await self.hear("phx_join")
        await self.say(
            join[0], join[1], join[2], "phx_reply", {"status": "error", "response": {"reason": reason}}
        )
        return join

    async def rows(self, topic: str, ids: list[int], position: str, last: bool = True) -> None:
        """A batch of a snapshot."""
        data = {
            "schema": "public",
            "table": "todos",
            "columns": [{"name": "id", "type": "int8"}],
            "records": [{"id": id_} for id_ in ids],
            "key": ["id"],
            "last": last,
            "position": position,
        }
        await self.say(None, None, topic, "snapshot", {"ids": [1], "data": data})

    async def insert(self, topic: str, record: dict[str, Any], /, **more: Any) -> None:
        columns = [{"name": name, "type": "int8" if name == "id" else "text"} for name in record]
        data = {
            "schema": "public",
            "table": "todos",
            "type": "INSERT",
            "commit_timestamp": "2026-03-01T10:20:30.123Z",
            "columns": columns,
            "record": record,
            "errors": None,
            **more,
        }
        await self.say(None, None, topic, "postgres_changes", {"ids": [1], "data": data})


class Peer:
    """The server: refuses the handshakes it was told to, and hands each accepted connection to the test."""

    def __init__(self) -> None:
        self.refusals: list[tuple[int, str]] = []
        self.keys: list[str] = []
        self.beats = True
        self._lines: asyncio.Queue[Line] = asyncio.Queue(100)
        self._server: Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await serve(
            self._accept, "127.0.0.1", self.port, process_request=self._check, max_size=None, close_timeout=1
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def line(self) -> Line:
        """The next connection."""
        async with asyncio.timeout(_TIMEOUT):
            return await self._lines.get()

    def _check(self, socket: ServerConnection, request: Request) -> Response | None:
        self.keys.append(parse_qs(urlsplit(request.path).query)["apikey"][0])
        if not self.refusals:
            return None
        status, text = self.refusals.pop(0)
        return socket.respond(http.HTTPStatus(status), json.dumps({"error": text}))

    async def _accept(self, socket: ServerConnection) -> None:
        line = Line(socket, self.beats)
        self._lines.put_nowait(line)
        await line.listen()


class Heard:
    """Callbacks that keep what they are given."""

    def __init__(self) -> None:
        self.changes: asyncio.Queue[Change] = asyncio.Queue(1000)
        self.statuses: asyncio.Queue[tuple[SubscribeStatus, RowcastError | None]] = asyncio.Queue(1000)

    def change(self, change: Change) -> None:
        self.changes.put_nowait(change)

    def status(self, status: SubscribeStatus, error: RowcastError | None) -> None:
        self.statuses.put_nowait((status, error))

    async def next_status(self) -> SubscribeStatus:
        async with asyncio.timeout(10):
            return (await self.statuses.get())[0]

    async def next_change(self) -> Change:
        async with asyncio.timeout(10):
            return await self.changes.get()


@pytest.fixture
def heard() -> Heard:
    """Callbacks, and what they heard."""
    return Heard()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A running scripted server."""
    peer = Peer()
    await peer.start()
    yield peer
    await peer.stop()


@pytest.fixture
async def connect(peer: Peer) -> AsyncIterator[Callable[..., Client]]:
    """Make a client of ``peer`` that tries again at once: ``connect("key", **options)``. Closed at the
    end."""
    async with AsyncExitStack() as stack:

        def make(key: Any = "the-key", **options: Any) -> Client:
            options.setdefault("retry", RetryPolicy(first=0.001, cap=0.01))
            client = Client(options.pop("url", peer.url), key, **options)
            stack.push_async_callback(client.close)
            return client

        yield make
