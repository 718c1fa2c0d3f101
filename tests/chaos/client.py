"""A raw client: one socket with some channels, which comes back from whatever ends it.

It knows the wire and nothing of the SDK, so that neither hides what the other does wrong.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from chaos.channel import Channel
from chaos.schema import Subject
from support.tokens import make_token

Doors = Callable[[], Sequence[int]]

_BEAT: Final = 0.5
_PATIENCE: Final = 4.0
_OPEN: Final = 3.0
_JOIN: Final = 8.0


class Client:
    """``doors`` gives the ports to connect to, one of them at random each time."""

    def __init__(self, channels: Sequence[Channel], doors: Doors, seed: str, *, adopts: bool = False) -> None:
        self.channels = channels
        self.reads = asyncio.Event()
        self.reads.set()
        self.away = asyncio.Event()  # cleared while it stays away
        self.away.set()
        self.refreshes = True
        self.sessions = 0
        self._adopts, self._doors, self._random = adopts, doors, random.Random(seed)
        self._refs = itertools.count(1)
        self._socket: ClientConnection | None = None
        self._answered = 0.0

    async def run(self) -> None:
        """Stay subscribed until cancelled."""
        while True:
            await self.away.wait()
            try:
                await self._session(self._random.choice(list(self._doors())))
            except (OSError, WebSocketException, TimeoutError, EOFError):
                pass
            finally:
                self._socket = None
                for channel in self.channels:
                    channel.lost()
            await asyncio.sleep(self._random.uniform(0.02, 0.2))

    def cut(self) -> None:
        """End the socket from this side, without a word."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def _session(self, port: int) -> None:
        url = f"ws://127.0.0.1:{port}/realtime/v1/websocket?apikey={make_token()}&vsn=2.0.0"
        opening = connect(
            url, compression=None, max_size=None, ping_interval=None, open_timeout=_OPEN, close_timeout=0.5
        )
        async with opening as self._socket:
            self.sessions += 1
            self._answered = time.monotonic()
            tasks = [asyncio.ensure_future(self._beat()), asyncio.ensure_future(self._join())]
            reading = asyncio.ensure_future(self._read(self._socket))
            try:
                await asyncio.wait([*tasks, reading], return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.cut()
                for task in (*tasks, reading):
                    task.cancel()
                done = await asyncio.gather(*tasks, reading, return_exceptions=True)
            for outcome in done:
                if isinstance(outcome, Exception) and not isinstance(outcome, (OSError, WebSocketException)):
                    raise outcome

    async def _say(self, topic: str, event: str, payload: Any, join_ref: str | None = None) -> str:
        ref = str(next(self._refs))
        assert self._socket is not None
        await self._socket.send(msgspec.json.encode([join_ref or ref, ref, topic, event, payload]).decode())
        return ref

    async def _join(self) -> None:
        """Join what is not joined, and give tokens that last to what is."""
        asked: dict[str, float] = {}
        renewed: dict[str, float] = {}
        while True:
            now = time.monotonic()
            for channel in self.channels:
                name, token = channel.name, channel.profile.token
                if not channel.join_ref:
                    ref = str(next(self._refs))
                    payload = channel.join(ref, _token(channel.profile.subject, token))
                    assert self._socket is not None
                    message = [ref, ref, channel.topic, "phx_join", payload]
                    asked[name] = renewed[name] = now
                    await self._socket.send(msgspec.json.encode(message).decode())
                elif not channel.answered and now - asked[name] > _JOIN and self.reads.is_set():
                    return  # connect again: perhaps to another
                elif channel.answered and self.refreshes and now - renewed[name] > token / 3:
                    renewed[name] = now
                    fresh = {"access_token": _token(channel.profile.subject, token)}
                    await self._say(channel.topic, "access_token", fresh, channel.join_ref)
            await asyncio.sleep(0.1)

    async def _beat(self) -> None:
        while True:
            await self._say("phoenix", "heartbeat", {})
            await asyncio.sleep(_BEAT)
            if self.reads.is_set() and time.monotonic() - self._answered > _PATIENCE:
                return

    async def _read(self, socket: ClientConnection) -> None:
        while True:
            if not self.reads.is_set():
                await self.reads.wait()
                self._answered = time.monotonic()
            frame = await socket.recv()
            self._answered = time.monotonic()
            if isinstance(frame, bytes):
                continue  # a message, before the subscription begins: it has no position
            join_ref, ref, topic, event, payload = msgspec.json.decode(frame)
            if topic == "phoenix":
                self._beaten(payload)
                continue
            channel = next((one for one in self.channels if one.topic == topic), None)
            if channel is None or not channel.join_ref or join_ref not in (None, channel.join_ref):
                continue
            self._hear(channel, ref, event, payload)

    def _hear(self, channel: Channel, ref: str | None, event: str, payload: Any) -> None:
        match event:
            case "postgres_changes" | "transaction":
                channel.changes(event, payload)
            case "broadcast":
                channel.message(payload)
            case "snapshot":
                channel.snapshot(payload)
            case "system":
                channel.told(payload)
            case "phx_reply" if ref == channel.join_ref:
                channel.replied(payload["status"], payload["response"])
            case "phx_error" | "phx_close":
                channel.trouble = event
                channel.lost()

    def _beaten(self, payload: Any) -> None:
        position = payload.get("response", {}).get("position")
        if position is not None:
            for channel in self.channels:
                channel.beat(position, adopt=self._adopts)


def _token(subject: Subject, lifetime: float) -> str:
    claims = {} if subject.sub is None else {"sub": subject.sub}
    return make_token(subject.role, lifetime=int(lifetime), **claims)
