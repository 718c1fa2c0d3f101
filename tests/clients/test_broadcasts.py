"""Broadcasts between the official clients: each sends, and all of them hear."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from support import databases
from support.official import OFFICIAL, Driven, Official, drive
from support.server import Server

pytestmark = pytest.mark.anyio

BOTH = {"broadcast": {"self": True, "ack": True}}
POLICY = "create policy room on realtime.messages for select to anon using (realtime.topic() = 'room')"


@contextlib.asynccontextmanager
async def created(server: Server, officials: Sequence[Official]) -> AsyncIterator[list[Driven]]:
    """Some of the official clients, created for one server."""
    async with contextlib.AsyncExitStack() as stack:
        driven = [await stack.enter_async_context(drive(official)) for official in officials]
        await asyncio.gather(*(client.connect(server.url, server.token()) for client in driven))
        yield driven


async def join(clients: list[Driven], **more: Any) -> None:
    for client in clients:
        await client.tell("subscribe", channel="room", config=BOTH, hears=["e", "bytes", "last"], **more)
    for client in clients:
        await client.event("status", channel="room", status="SUBSCRIBED")


async def all_hear(clients: list[Driven], name: str, payload: Any) -> None:
    for client in clients:
        event = await client.event("broadcast", channel="room", name=name)
        assert event["payload"] == payload, client.official.name


async def test_whoever_sends_over_its_socket_or_by_rest_is_heard_by_all(server: Server) -> None:
    async with created(server, OFFICIAL) as clients:
        await join(clients)
        for number, sender in enumerate(clients):
            payload = {"from": number, "text": "é€ 😀", "list": [1, None, {"a": 1.5}]}
            await sender.tell("send", channel="room", name="e", payload=payload)
            assert (await sender.event("sent", channel="room"))["result"] == "ok"
            await all_hear(clients, "e", payload)
        # The Python client does not speak REST.
        for number, sender in enumerate(clients[:-1]):
            await sender.tell("post", channel="room", name="e", payload={"posted": number})
            assert (await sender.event("posted", channel="room"))["success"] is True
            await all_hear(clients, "e", {"posted": number})
        newest, *_ = clients
        await newest.tell("send", channel="room", name="bytes", bytes="0001fffe")
        await all_hear(clients[:1], "bytes", {"bytes": "0001fffe"})
        # Those of 1.0.0 were sent no bytes, and go on.
        await newest.tell("send", channel="room", name="last", payload={})
        await all_hear(clients, "last", {})
        assert not [event for client in clients for event in client.seen if event.get("name") == "bytes"]


async def test_who_may_not_send_is_told_at_once(server: Server) -> None:
    databases.execute(server.database, POLICY)
    async with created(server, [OFFICIAL[0], OFFICIAL[-1]]) as clients:
        await join(clients, private=True)
        newest, other = clients
        await newest.tell("send", channel="room", name="e", payload={})
        assert (await newest.event("sent", channel="room"))["result"] == "error"
        databases.execute(
            server.database, "create policy send on realtime.messages for insert to anon with check (true)"
        )
        await other.tell("send", channel="room", name="last", payload={"n": 1})
        await all_hear(clients, "last", {"n": 1})
        assert not [event for client in clients for event in client.seen if event["event"] == "broadcast"]


async def test_what_the_newest_client_has_kept_is_heard_by_all_and_replayed(server: Server) -> None:
    databases.execute(server.database, POLICY)
    send = "create policy send on realtime.messages for insert to anon with check (true)"
    databases.execute(server.database, send)
    async with created(server, [OFFICIAL[0], OFFICIAL[0], OFFICIAL[-1]]) as (newest, late, python):
        await join([newest, python], private=True)
        await newest.tell("send", channel="room", name="e", payload={"n": 1}, persist=True)
        assert (await newest.event("sent", channel="room"))["result"] == "ok"
        await all_hear([newest, python], "e", {"n": 1})
        post = {"name": "e", "payload": {"n": 2}, "private": True, "persist": {"ttl": 60}}
        await newest.tell("post", channel="room", **post)
        assert (await newest.event("posted", channel="room"))["success"] is True
        await all_hear([newest, python], "e", {"n": 2})
        await newest.tell("send", channel="room", name="e", payload={"n": "\0"}, persist=True)
        result = (await newest.event("sent", channel="room"))["result"]
        assert result.startswith("UnableToStoreMessages: ")
        replay = {"broadcast": {"replay": {"since": 1, "limit": 25}}}
        await late.tell("subscribe", channel="room", config=replay, hears=["e"], private=True)
        await all_hear([late], "e", {"n": 1})
        await all_hear([late], "e", {"n": 2})
