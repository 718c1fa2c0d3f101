"""Messages of the database, and broadcasts that are stored, as a part of the stream: heard once and in order,
after cuts and restarts, from every server."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rowcast_client import (
    Broadcast,
    Change,
    Channel,
    Client,
    FileStore,
    Gap,
    JoinError,
    RetryPolicy,
    SendError,
    Transaction,
    create_client,
)
from support import databases
from support.heard import one, take, write
from support.links import Relay
from support.server import Server

pytestmark = pytest.mark.anyio

SOON = RetryPolicy(first=0.02, cap=0.1)
RIGHTS = """
create policy hear on realtime.messages for select to anon, authenticated using (realtime.topic() = 'room');
create policy say on realtime.messages for insert to anon with check (realtime.topic() = 'room');
"""

Heard = asyncio.Queue[Broadcast]


@pytest.fixture
def rooms(todos: str) -> str:
    """A database with the right to hear a private room, and for ``anon`` to speak there."""
    databases.execute(todos, RIGHTS)
    return todos


def room(client: Client, **options: Any) -> tuple[Channel, Heard]:
    heard: Heard = asyncio.Queue(10_000)
    return client.channel("room", private=True, **options).on("broadcast", heard.put), heard


def said(number: int) -> str:
    """SQL that sends a number."""
    return f"select realtime.send(jsonb_build_object('n', {number}), 'e', 'room');"


def added(number: int) -> str:
    return f"insert into todos (id) values ({number});"


async def numbers(heard: Heard, count: int) -> list[int]:
    return [broadcast.payload["n"] for broadcast in await take(heard, count)]


async def test_what_is_stored_is_heard_from_every_server_and_by_who_was_cut_off(
    rooms: str, serve: Callable[..., Awaitable[Server]]
) -> None:
    server, other = await asyncio.gather(serve(rooms), serve(rooms))
    relay = Relay(("127.0.0.1", other.port))
    await relay.start()
    async with (
        create_client(server.url, server.token()) as sender,
        create_client(f"http://127.0.0.1:{relay.port}", server.token(), retry=SOON) as far,
    ):
        storing, own = room(sender, store=True)
        echoing = create_client(other.url, server.token())
        hearing, heard = room(far)
        await storing.subscribe()
        await hearing.subscribe()
        payloads: list[Any] = [{"text": "é 😀"}, b"\x00\xff", [1, None], {}]
        for payload in payloads:
            await storing.send("e", payload)
        there = await take(heard, 4)
        assert [broadcast.payload for broadcast in there] == payloads
        assert all(broadcast.id and broadcast.position for broadcast in there)
        relay.closed = True
        relay.cut(list(relay.links), reset=True)
        await storing.send("e", {"n": 1})
        # By a request, as this one is not joined; and the database itself.
        await room(echoing, store=True)[0].send("e", {"n": 2})
        await write(rooms, said(3))
        relay.closed = False
        assert await numbers(heard, 3) == [1, 2, 3]
        # What it stored itself it does not hear, though it was cut off, too.
        assert sender._link._socket is not None
        await storing.send("e", {"n": 4})
        sender._link._socket.transport.abort()
        await sender.wait_until("reconnecting")
        await storing
        await write(rooms, said(5))
        assert await numbers(own, 3) == [2, 3, 5]
        assert await numbers(heard, 2) == [4, 5]
    await relay.stop()


async def test_what_cannot_be_stored_is_refused_by_a_reason_that_says_so(
    rooms: str, serve: Callable[..., Awaitable[Server]]
) -> None:
    server = await serve(rooms)
    async with create_client(server.url, server.token()) as client:
        public = client.channel("public", store=True)
        with pytest.raises(SendError, match="not allowed for public") as refused:
            await public.send("e")
        assert refused.value.code == "UnableToStoreMessages"
        with pytest.raises(JoinError, match="not allowed for public") as unjoined:
            await public.subscribe()
        assert (unjoined.value.code, "private=True" in unjoined.value.hint) == ("UnableToStoreMessages", True)
        await public.unsubscribe()
        storing, heard = room(client, store=True, echo=True)
        await storing.subscribe()
        with pytest.raises(SendError, match="u0000") as unwritten:
            await storing.send("e", "\0")
        assert unwritten.value.code == "UnableToStoreMessages"
        await storing.send("e", {"n": 1})
        assert await numbers(heard, 1) == [1]
    async with create_client(server.url, server.token("authenticated")) as reader:
        reading, _ = room(reader, store=True)
        await reading.subscribe()
        with pytest.raises(SendError, match="permissions to write"):
            await reading.send("e")


async def test_messages_and_changes_come_once_and_in_order_though_the_connection_is_cut_again_and_again(
    rooms: str, serve: Callable[..., Awaitable[Server]]
) -> None:
    server = await serve(rooms)
    told: dict[str, list[tuple[str, int]]] = {"changes": [], "transactions": []}
    done = asyncio.Event()
    cuts = 0

    def keep(client: Client, name: str, kind: str, number: int) -> None:
        nonlocal cuts
        told[name].append((kind, number))
        if len(told[name]) % 20 == 0 and client._link._socket is not None:
            cuts += 1
            client._link._socket.transport.abort()
        if all(("message", 1000) in heard for heard in told.values()):
            done.set()

    def follow(client: Client, name: str) -> Channel:
        channel = client.channel("room", private=True)

        def on_transaction(part: Transaction) -> None:
            for change in part.changes:
                keep(client, name, "change", change.new["id"])

        def on_change(change: Change) -> None:
            keep(client, name, "change", change.new["id"])

        if name == "transactions":
            channel.on("transaction", {"table": "todos"}, on_transaction)
        else:
            channel.on("postgres_changes", on_change, table="todos")
        return channel.on("broadcast", lambda said: keep(client, name, "message", said.payload["n"]))

    async with contextlib.AsyncExitStack() as stack:
        for name in told:
            client = create_client(server.url, server.token(), retry=SOON, heartbeat_interval=0.005)
            await follow(await stack.enter_async_context(client), name).subscribe()
        sender = await stack.enter_async_context(create_client(server.url, server.token()))
        storing, _ = room(sender, store=True)
        await storing.subscribe()
        for first in range(0, 200, 5):
            await write(rooms, f"{added(first)} {said(first + 1)} {added(first + 2)}")
            await asyncio.gather(*(storing.send("e", {"n": first + number}) for number in (3, 4)))
        await write(rooms, said(1000))
        async with asyncio.timeout(60):
            await done.wait()
    expected = [("change" if n % 5 in (0, 2) else "message", n) for n in range(200)] + [("message", 1000)]
    assert told["changes"] == expected
    # Messages come before the rest of their transaction where changes are told by it.
    in_groups = sorted(
        expected, key=lambda item: (item[1] // 5, max(item[1] % 5 - 2, 0), item[0] == "change")
    )
    assert told["transactions"] == in_groups
    assert cuts > 10


async def test_a_worker_goes_on_after_the_last_message_that_it_handled(
    rooms: str, serve: Callable[..., Awaitable[Server]], tmp_path: Any
) -> None:
    server = await serve(rooms)
    heard: asyncio.Queue[int] = asyncio.Queue(100)
    fails = iter([False, False, True])

    def handle(broadcast: Broadcast) -> None:
        if next(fails, False):
            raise ValueError
        heard.put_nowait(broadcast.payload["n"])

    for first in (1, 6):
        async with create_client(server.url, server.token(), retry=SOON) as client:
            channel = client.channel("room", private=True).on("broadcast", handle)
            await channel.subscribe(resume=FileStore(tmp_path))
            await write(rooms, *(said(number) for number in range(first, first + 3)))
            # A message that has a place is handled again where its callback failed.
            assert await take(heard, 3 if first == 1 else 5) == list(range(4 - 3 * (first == 1), first + 3))
            await client.channel("room", private=True).send("e", {"n": 0})
        await write(rooms, said(first + 3), said(first + 4))


async def test_messages_that_cannot_be_had_any_more_are_a_gap(
    rooms: str, serve: Callable[..., Awaitable[Server]]
) -> None:
    server = await serve(rooms)
    gaps: asyncio.Queue[Gap] = asyncio.Queue(9)
    async with create_client(server.url, server.token()) as client:
        channel, heard = room(client)
        await channel.on("gap", gaps.put).subscribe(resume="nonsense")
        await write(rooms, said(1))
        assert await numbers(heard, 1) == [1]
        gap = await one(gaps)
        assert (gap.reason, gap.from_position) == ("unreadable", "nonsense")
        assert gap.position
        # What somebody says of a position is no position.
        before = channel.position
        forged = (
            '["9","9","realtime:room","broadcast",{"event":"e","payload":{"n":2},"meta":{"position":"x"}}]'
        )
        async with create_client(server.url, server.token()) as other:
            await room(other)[0].subscribe()
            other._link.send(forged)
            assert await numbers(heard, 1) == [2]
        assert channel.position == before
