"""Broadcasts of the client, against the real server and a real Postgres."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rowcast_client import AuthError, Broadcast, Client, RetryPolicy, SendError, create_client
from support import databases
from support.heard import one, take, write
from support.official import OFFICIAL, drive
from support.server import Server

pytestmark = pytest.mark.anyio

SOON = RetryPolicy(first=0.02, cap=0.1)
READS = "create policy reads on realtime.messages for select to anon using (realtime.topic() = 'room')"
WRITES = "create policy writes on realtime.messages for insert to anon with check (realtime.topic() = 'room')"
ODD = "a/b ?x=%41&é 😀.."


def hears(client: Client, name: str = "room", **options: Any) -> "tuple[Any, asyncio.Queue[Broadcast]]":
    """A channel, and what it hears."""
    heard: asyncio.Queue[Broadcast] = asyncio.Queue(1000)
    return client.channel(name, **options).on("broadcast", heard.put), heard


async def test_whatever_is_sent_by_socket_or_request_is_heard_by_others_and_by_who_asked_for_an_echo(
    server: Server,
) -> None:
    payloads: list[Any] = [{"n": 1.5, "text": "é 😀"}, b"\x00\xff\xfe", {}, b"", [1, None], "text", 2**70]
    async with (
        create_client(server.url, server.token()) as sender,
        create_client(server.url, server.token()) as other,
    ):
        for name in ("room", ODD, ".."):
            echoing, echo = hears(sender, name, ack=True, echo=True)
            listening, heard = hears(other, name)
            only: asyncio.Queue[Broadcast] = asyncio.Queue(9)
            await listening.on("broadcast", {"event": ODD}, only.put).subscribe()
            await echoing.subscribe()
            for payload in payloads:
                await echoing.send("e", payload)
            assert [(one.event, one.payload) for one in await take(heard, 7)] == [("e", p) for p in payloads]
            assert [one.payload for one in await take(echo, 7)] == payloads
            await listening.send(ODD, {"n": 1})
            assert (await one(echo)).event == ODD
            # By a request: a client that is nowhere connected.
            async with asyncio.timeout(20):
                apart = create_client(server.url, server.token)
                for payload in payloads[:4]:
                    await apart.channel(name).send(ODD, payload)
                assert apart.state == "idle"
                await apart.close()
            assert [one.payload for one in await take(only, 4)] == payloads[:4]
            assert heard.qsize() == 4
