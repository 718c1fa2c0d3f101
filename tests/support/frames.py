"""A client that speaks in frames of either version, and compares what it hears to the byte."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from rowcast.model.rates import RateWindow
from rowcast.protocol.messages import Version
from support.broadcasts import pushed, user_broadcast
from support.serving import PATIENCE, Running
from support.tokens import make_token

both = pytest.mark.parametrize("version", list(Version), ids=str)


class Client:
    """A client of either version. Frames are compared as they came."""

    def __init__(self, connection: ClientConnection, version: Version) -> None:
        self.connection, self.version = connection, version

    async def say(
        self, topic: str, event: str, payload: Any, ref: str | None = "1", join_ref: str | None = "11"
    ) -> None:
        slots = {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": join_ref}
        v2 = [join_ref, ref, topic, event, payload]
        await self.connection.send(json.dumps(slots if self.version is Version.V1 else v2))

    async def push(self, payload: bytes, *, topic: str, event: str = "e", raw: bool = False) -> None:
        """Send a broadcast in a binary frame, with reference 2."""
        await self.connection.send(pushed("11", "2", topic, event, payload, raw=raw))

    async def hear(self) -> str:
        return str(await asyncio.wait_for(self.connection.recv(), PATIENCE))

    async def hears_bytes(self, payload: bytes, *, topic: str, event: str = "e", raw: bool = False) -> None:
        """Assert that a broadcast in a binary frame comes next."""
        frame = await asyncio.wait_for(self.connection.recv(), PATIENCE)
        assert isinstance(frame, bytes)
        assert user_broadcast(frame) == (topic, event, b"", raw, payload)

    async def hears_broadcast(self, topic: str, payload: Any) -> None:
        """Assert that a broadcast in a text frame comes next."""
        await self.hears(topic, "broadcast", payload, None, None)

    async def hears(
        self, topic: str, event: str, payload: Any, ref: str | None = "1", join_ref: str | None = "11"
    ) -> None:
        """Assert what comes next, to the byte."""
        slots = {"ref": ref, "event": event, "payload": payload, "topic": topic}
        v2 = [join_ref, ref, topic, event, payload]
        expected: Any = slots if self.version is Version.V1 else v2
        assert await self.hear() == json.dumps(expected, separators=(",", ":"), ensure_ascii=False)

    async def hears_reply(
        self,
        topic: str,
        response: Any,
        ref: str | None = "1",
        join_ref: str | None = "11",
        status: str = "ok",
    ) -> None:
        await self.hears(topic, "phx_reply", {"status": status, "response": response}, ref, join_ref)

    async def join(
        self, topic: str, payload: Any, ref: str = "1", join_ref: str = "11", **response: Any
    ) -> None:
        """Join, and assert that it is accepted."""
        await self.say(topic, "phx_join", payload, ref, join_ref)
        await self.hears_reply(topic, {"postgres_changes": [], **response}, ref, join_ref)

    async def is_refused(self, topic: str, payload: Any, reason: str) -> None:
        await self.say(topic, "phx_join", payload)
        await self.hears_reply(topic, {"reason": reason}, status="error")

    async def hears_nothing(self) -> None:
        """Assert that nothing was due: an answer that was asked for comes next."""
        await self.say("phoenix", "heartbeat", {}, "999", None)
        await self.hears_reply("phoenix", {}, "999", None)

    async def close_code(self) -> int:
        """The code that the server closes with, once all was read."""
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await self.hear()
        assert self.connection.close_code is not None
        return self.connection.close_code


@contextlib.asynccontextmanager
async def opened(
    server: Running, version: Version, key: str | None = None, vsn: str | None = None, **headers: str
) -> AsyncIterator[Client]:
    """A client with a key of its own, or a good one."""
    address = (
        f"ws://127.0.0.1:{server.port}/realtime/v1/websocket?apikey={make_token() if key is None else key}"
    )
    vsn = str(version) if vsn is None else vsn
    extra = {name.replace("_", "-"): value for name, value in headers.items()}
    async with connect(address + (f"&vsn={vsn}" if vsn else ""), additional_headers=extra) as connection:
        yield Client(connection, version)


async def refusal(server: Running, query: str, **headers: str) -> tuple[int, str, str]:
    """Status, content type and body of a refused handshake."""
    extra = {name.replace("_", "-"): value for name, value in headers.items()}
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(
            f"ws://127.0.0.1:{server.port}/socket/websocket?{query}", additional_headers=extra
        ):
            pass
    response = refused.value.response
    body = (response.body or b"").decode()
    return response.status_code, response.headers.get("content-type", ""), body


def slow_down(server: Running, joins: float) -> RateWindow:
    """Let the clients of a server join only so often."""
    window = RateWindow(joins)
    server.app.state.services = dataclasses.replace(server.app.state.services, joins=window)
    return window


def stop_clock(server: Running) -> list[float]:
    """Stop the clock of a server's conversations, at a whole second; set it by the one item."""
    clock = [float(int(time.time()))]
    server.app.state.services = dataclasses.replace(server.app.state.services, clock=lambda: clock[0])
    return clock
