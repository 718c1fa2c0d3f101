"""How many joins a second a thousand members of a room are told of, one by one and all at once, beside
broadcasts of the same size to the same members.

The hub, its encoding and its lanes are the server's; frames are counted where a socket would take them.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median

from benchmarks.taking import Counted
from rowcast.dev.postgres import Postgres
from rowcast.hub.lanes import Lane
from rowcast.hub.rooms import Rooms
from rowcast.hub.topics import Member, Topics
from rowcast.protocol.broadcasts import event_broadcast
from rowcast.protocol.messages import Version
from rowcast.protocol.presence import tracked

MEMBERS = 1_000
JOINS = 200
ROUNDS = 3
#: The least that joins one by one may be of broadcasts, and joins at once of joins one by one.
BARS = {"one by one": 0.25, "at once": 10.0}
_TOPIC = "realtime:room"
_SHOWN = {"name": "somebody", "online_at": "2026-01-01T00:00:00.000Z", "typing": False}


class _Room:
    """A topic whose members all show themselves."""

    def __init__(self) -> None:
        self.counted = Counted()
        self.topics = Topics()
        self.rooms = Rooms(self.topics)
        self._number = 0

    async def fill(self) -> None:
        self.come(MEMBERS)
        await self.counted.take(2 * MEMBERS)

    def come(self, count: int) -> list[Member]:
        """Let so many join and track within this turn."""
        found = []
        for _ in range(count):
            self._number += 1
            lane = Lane(self.counted, 1 << 30)
            member = Member(_TOPIC, False, Version.V2, lane, key=f"user-{self._number}")
            self.topics.enter(member)
            self.rooms.tell(member, "1")
            self.rooms.track(member, tracked({**_SHOWN, "n": self._number}))
            found.append(member)
        return found

    async def go(self, members: Sequence[Member]) -> None:
        """Let them leave, and the others hear of it."""
        for member in members:
            self.topics.leave(member)
            self.rooms.untrack(member)
        await self.counted.take(MEMBERS)


async def _one_by_one(room: _Room) -> float:
    members = []
    began = time.perf_counter()
    for number in range(1, JOINS + 1):
        members += room.come(1)
        await room.counted.take(1 + MEMBERS + number)
    seconds = time.perf_counter() - began
    await room.go(members)
    return JOINS / seconds


async def _at_once(room: _Room) -> float:
    began = time.perf_counter()
    members = room.come(MEMBERS)
    await room.counted.take(MEMBERS + 2 * MEMBERS)
    seconds = time.perf_counter() - began
    await room.go(members)
    return MEMBERS / seconds


async def _broadcasts(room: _Room) -> float:
    began = time.perf_counter()
    for number in range(JOINS):
        room.topics.publish(_TOPIC, event_broadcast("e", {**_SHOWN, "n": number}), private=False)
        await room.counted.take(MEMBERS)
    return JOINS / (time.perf_counter() - began)


async def measure(_: Postgres) -> dict[str, tuple[float, float]]:
    """Ratios by name, each with its bar. The database is not asked."""
    room = _Room()
    await room.fill()
    rates = {}
    ways: dict[str, Callable[[_Room], Awaitable[float]]] = {
        "broadcasts": _broadcasts,
        "joins one by one": _one_by_one,
        "joins at once": _at_once,
    }
    for name, way in ways.items():
        rates[name] = median([await way(room) for _ in range(ROUNDS)])
        print(f"  {name}: {rates[name]:,.0f}/s to each of {MEMBERS:,} members", flush=True)
    return {
        "joins one by one ÷ broadcasts": (
            rates["joins one by one"] / rates["broadcasts"],
            BARS["one by one"],
        ),
        "joins at once ÷ one by one": (rates["joins at once"] / rates["joins one by one"], BARS["at once"]),
    }
