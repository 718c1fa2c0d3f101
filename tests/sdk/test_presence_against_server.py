"""Presence of the client: rooms of several, connections that are cut, policies, and the official clients."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from rowcast.session.admission import Limits
from rowcast_client import (
    Channel,
    Client,
    PresenceEvent,
    RetryPolicy,
    SendError,
    UsageError,
    create_client,
)
from support import databases
from support.heard import take
from support.links import Relay
from support.official import OFFICIAL, drive
from support.server import Server
from support.serving import Running, running
from support.tokens import make_token

pytestmark = pytest.mark.anyio

SOON = RetryPolicy(first=0.02, cap=0.1)
State = dict[str, list[dict[str, Any]]]
Told = tuple[str, str | None, list[Any], list[Any]]


class Member:
    """A client in the room, and what it hears of the others."""

    def __init__(self, client: Client, name: str, **options: Any) -> None:
        self.client, self.name = client, name
        self.events: asyncio.Queue[PresenceEvent] = asyncio.Queue(1000)
        self.synced = asyncio.Event()
        self.channel: Channel = client.channel("room", presence_key=name, **options)
        self.channel.on("presence", self._hear)

    def _hear(self, event: PresenceEvent) -> None:
        self.events.put_nowait(event)
        self.synced.set()

    @property
    def state(self) -> State:
        there = self.channel.presence_state()
        return {key: [one.payload for one in those] for key, those in there.items()}

    async def sees(self, state: State) -> None:
        """Wait until that is who is there."""
        async with asyncio.timeout(20):
            while self.state != state:
                self.synced.clear()
                await self.synced.wait()

    async def told(self, number: int) -> list[Told]:
        """The next events that are no syncs."""
        found: list[Told] = []
        while len(found) < number:
            found += plain(await take(self.events, 1))
        return found

    def told_so_far(self) -> list[Told]:
        """Those that came already."""
        return plain([self.events.get_nowait() for _ in range(self.events.qsize())])


def plain(events: list[PresenceEvent]) -> list[Told]:
    """Payloads for presences, without syncs."""
    return [
        (event.event, event.key, [one.payload for one in event.joined], [one.payload for one in event.left])
        for event in events
        if event.event != "sync"
    ]


@contextlib.asynccontextmanager
async def crowd(port: int, *names: str) -> AsyncIterator[list[Member]]:
    """Clients that have joined."""
    async with contextlib.AsyncExitStack() as stack:
        members = []
        for name in names:
            client = create_client(f"http://127.0.0.1:{port}", make_token(), retry=SOON)
            members.append(Member(await stack.enter_async_context(client), name))
            await members[-1].channel.subscribe()
        yield members


@pytest.fixture
async def server_here() -> AsyncIterator[Running]:
    async with running(limits=Limits(refusal_delay=0, payload_size=2000)) as server:
        yield server


async def test_each_sees_each_other_come_change_and_go(server_here: Running) -> None:
    async with crowd(server_here.port, "ann", "bob", "bob") as (ann, bob, other):
        await ann.channel.track({"n": 1})
        await bob.channel.track({"n": 2})
        await other.channel.track({"n": 3})
        for member in (ann, bob, other):
            await member.sees({"ann": [{"n": 1}], "bob": [{"n": 2}, {"n": 3}]})
        assert (await ann.told(3))[2] == ("join", "bob", [{"n": 3}], [])
        await bob.channel.track({"n": 4})
        assert await ann.told(2) == [
            ("join", "bob", [{"n": 4}], [{"n": 2}]),
            ("leave", "bob", [{"n": 4}], [{"n": 2}]),
        ]
        await bob.channel.untrack()
        await bob.channel.untrack()
        await other.client.close()
        await ann.sees({"ann": [{"n": 1}]})
        await bob.sees({"ann": [{"n": 1}]})
        assert [event[:2] for event in await ann.told(2)] == [("leave", "bob")] * 2
        # Who comes late is told who is there; who left knows of nobody.
        await bob.channel.unsubscribe()
        assert bob.state == {}
        async with crowd(server_here.port, "dan") as (dan,):
            await dan.sees({"ann": [{"n": 1}]})
            assert await dan.told(1) == [("join", "ann", [{"n": 1}], [])]


async def test_a_cut_connection_shows_it_again_and_tells_what_happened_meanwhile(
    server_here: Running,
) -> None:
    relay = Relay(("127.0.0.1", server_here.port))
    await relay.start()
    async with crowd(relay.port, "ann") as (ann,), crowd(server_here.port, "bob", "cleo") as (bob, cleo):
        for member in (ann, bob, cleo):
            await member.channel.track({"who": member.name})
        everybody: State = {name: [{"who": name}] for name in ("ann", "bob", "cleo")}
        await ann.sees(everybody)
        await bob.sees(everybody)
        await ann.told(3)
        relay.closed = True
        relay.cut(list(relay.links), reset=True)
        await bob.sees({name: everybody[name] for name in ("bob", "cleo")})
        await cleo.channel.untrack()
        await bob.channel.track({"who": "b"})
        # While there is no connection the state stays, and a call waits for the next one.
        assert ann.state == everybody
        calling = asyncio.ensure_future(ann.channel.track({"who": "a"}))
        relay.closed = False
        await calling
        now: State = {"ann": [{"who": "a"}], "bob": [{"who": "b"}]}
        await ann.sees(now)
        await bob.sees(now)
        meanwhile = [event for event in ann.told_so_far() if event[1] != "ann"]
        assert meanwhile == [
            ("join", "bob", [{"who": "b"}], [{"who": "bob"}]),
            ("leave", "bob", [{"who": "b"}], [{"who": "bob"}]),
            ("leave", "cleo", [], [{"who": "cleo"}]),
        ]
    await relay.stop()


async def test_what_ends_the_channel_is_told_and_what_was_shown_comes_back(server_here: Running) -> None:
    async with crowd(server_here.port, "ann", "bob") as (ann, bob):
        await ann.channel.track({"n": 1})
        with pytest.raises(SendError, match="Track message size exceeded"):
            await ann.channel.track({"text": "x" * 2000})
        for number in range(2, 5):
            await ann.channel.track({"n": number})
        with pytest.raises(SendError, match="Client presence rate limit exceeded"):
            await asyncio.gather(*(ann.channel.track({"n": number}) for number in range(5, 9)))
        await bob.sees({"ann": [{"n": 5}]})
        await ann.channel
        await ann.channel.untrack()
        await bob.sees({})


async def test_wrong_uses_say_what_is_wrong(server_here: Running) -> None:
    async with crowd(server_here.port, "ann") as (ann,):
        other = ann.client.channel("other")
        wrong: list[Callable[[], Any]] = [
            lambda: other.track({}),
            lambda: ann.channel.track("ann"),  # type: ignore[arg-type]
            lambda: ann.channel.track({"a": {1}}),
        ]
        for use in wrong:
            with pytest.raises(UsageError):
                await use()
        await other.untrack()
        await other.subscribe()
        with pytest.raises(UsageError, match="before subscribe"):
            other.on("presence", print)
        ann.channel.on("presence", print)


async def test_policies_say_who_is_shown_and_official_clients_see_this_one(server: Server) -> None:
    databases.execute(
        server.database,
        """create policy sees on realtime.messages for select to authenticated using (true);
        create policy shows on realtime.messages for insert to authenticated
        with check (auth.jwt() ->> 'sub' = 'ann')""",
    )
    async with contextlib.AsyncExitStack() as stack:
        members = []
        for name in ("ann", "bob"):
            token = server.token("authenticated", sub=name)
            client = await stack.enter_async_context(create_client(server.url, token))
            members.append(Member(client, name, private=True))
            await members[-1].channel.subscribe()
        ann, bob = members
        with pytest.raises(SendError, match="permissions to write") as denied:
            await bob.channel.track({"n": 1})
        assert denied.value.code == "Unauthorized"
        await ann.channel.track({"n": 2})
        await bob.sees({"ann": [{"n": 2}]})
        public = Member(await stack.enter_async_context(create_client(server.url, server.token())), "cleo")
        await public.channel.subscribe()
        await public.channel.track({"n": 3})
        for official in (OFFICIAL[0], OFFICIAL[-1]):
            driven = await stack.enter_async_context(drive(official))
            await driven.connect(server.url, server.token())
            await driven.tell("subscribe", channel="room", presence={"key": official.name})
            await driven.event("status", channel="room", status="SUBSCRIBED")
            seen = (await driven.event("sync", channel="room"))["state"]
            assert [meta["n"] for meta in seen["cleo"]] == [3]
            await driven.tell("track", channel="room", payload={"n": 4})
            await driven.event("tracked")
            async with asyncio.timeout(20):
                while public.state.get(official.name) != [{"n": 4}]:
                    public.synced.clear()
                    await public.synced.wait()
