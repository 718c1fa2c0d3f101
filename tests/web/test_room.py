"""A room of a thousand who come, change and go at once: each is told the truth, in few messages."""

import asyncio
import contextlib
import dataclasses
import functools
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from rowcast.model.rates import RateWindow
from support.serving import PATIENCE, Running, running

pytestmark = pytest.mark.anyio

MEMBERS = 1_000
#: What comes within a turn of the server's loop is told in one message, and a thousand changes in few turns.
MOST_MESSAGES = 20
TOPIC = "realtime:room"
_SMALL = 126

Shown = dict[str, tuple[str, int]]


class Member:
    """A socket that shows a number under a key of its own, and keeps what it is told: both, by reference."""

    def __init__(self, key: str, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self.key = key
        self.reader, self.writer = streams
        self.shown: Shown = {}
        self.messages = 0

    def say(self, *messages: tuple[str, Any]) -> None:
        """Send messages in one write."""
        for event, payload in messages:
            text = json.dumps(["1", "1", TOPIC, event, payload])
            self.writer.write(Frame(Opcode.TEXT, text.encode()).serialize(mask=True))

    def enter(self) -> None:
        """Join, and show 0."""
        presence = {"enabled": True, "key": self.key}
        self.say(("phx_join", {"config": {"presence": presence}}), self._tracks(0))

    def show(self, number: int) -> None:
        """Show another number."""
        self.say(self._tracks(number))

    def _tracks(self, number: int) -> tuple[str, Any]:
        return "presence", {"type": "presence", "event": "track", "payload": {"n": number}}

    async def listen(self, told: asyncio.Event) -> None:
        """Keep what comes until the connection ends."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                joins, leaves = _presences(await self._frame())
                assert not joins.keys() & self.shown.keys(), "somebody came twice"
                self.shown |= joins
                assert leaves.keys() <= self.shown.keys(), "somebody left who was not there"
                for ref in leaves:
                    del self.shown[ref]
                self.messages += bool(joins or leaves)
                told.set()

    async def _frame(self) -> bytes:
        _, length = await self.reader.readexactly(2)
        if length >= _SMALL:
            length = int.from_bytes(await self.reader.readexactly(2 if length == _SMALL else 8))
        return await self.reader.readexactly(length)


@functools.lru_cache
def _presences(message: bytes) -> tuple[Shown, Shown]:
    """What joins and what leaves by a message: all are sent the same bytes, which are read once."""
    *_, event, payload = json.loads(message)
    if event == "presence_state":
        payload = {"joins": payload, "leaves": {}}
    elif event != "presence_diff":
        assert payload.get("status", "ok") == "ok", payload
        return {}, {}
    joins, leaves = (
        {meta["phx_ref"]: (key, meta["n"]) for key, one in payload[part].items() for meta in one["metas"]}
        for part in ("joins", "leaves")
    )
    return joins, leaves


@contextlib.asynccontextmanager
async def crowd(site: Running, told: asyncio.Event) -> AsyncIterator[Sequence[Member]]:
    """A thousand sockets that listen, and have not joined."""
    members = []
    for number in range(MEMBERS):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(
            f"GET {site.path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        members.append(Member(f"m{number}", (reader, writer)))
    async with asyncio.TaskGroup() as tasks:
        for member in members:
            tasks.create_task(member.listen(told))
        try:
            yield members
        finally:
            for member in members:
                member.writer.transport.abort()


async def until_all_know(members: Iterable[Member], truth: dict[str, int], told: asyncio.Event) -> None:
    """Wait until each knows of these keys and numbers, and of no others."""
    wanted = sorted(truth.items())
    async with asyncio.timeout(PATIENCE):
        for member in members:
            while len(member.shown) != len(wanted) or sorted(member.shown.values()) != wanted:
                told.clear()
                await told.wait()


async def test_a_thousand_members_know_who_is_there_after_all_came_changed_and_left_at_once() -> None:
    told = asyncio.Event()
    async with running(lane_limit=1 << 22) as site, contextlib.AsyncExitStack() as stack:
        services = site.app.state.services
        site.app.state.services = dataclasses.replace(services, joins=RateWindow(1e6))
        members = await stack.enter_async_context(crowd(site, told))
        for member in members:
            member.enter()
        await until_all_know(members, {one.key: 0 for one in members}, told)
        assert max(one.messages for one in members) <= MOST_MESSAGES
        truth = {}
        for number, member in enumerate(members):
            match number % 4:
                case 0:
                    member.say(("phx_leave", {}))
                case 1:
                    member.writer.transport.abort()
                case 2:
                    member.show(number)
                    truth[member.key] = number
                case _:
                    truth[member.key] = 0
        there = [member for member in members if member.key in truth]
        await until_all_know(there, truth, told)
        assert max(one.messages for one in there) <= 2 * MOST_MESSAGES
