"""The original's cases of broadcasts between sockets, over the real server. Each test names its case."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import connect

from rowcast.model.allowed import Allowed, ChannelUnavailable
from rowcast.model.rates import STEP_SECONDS
from rowcast.protocol.messages import Version
from rowcast.serving.server import bound_port
from rowcast.session.admission import Limits
from support.frames import Client, both, opened, stop_clock
from support.serving import Door, Running, running, serving
from support.tokens import make_token

pytestmark = pytest.mark.anyio

TOPIC = "realtime:room"
PING = {"event": "ping", "payload": {"a": [1, "é€"], "b": {"c": None}}, "type": "broadcast"}
ALL = Allowed(True, True)
DENIED = {"reason": "Unauthorized: You do not have permissions to write to this Channel topic: room"}


def config(*, ack: bool = False, echo: bool = False, private: bool = False) -> dict[str, Any]:
    return {"config": {"broadcast": {"ack": ack, "self": echo}, "private": private}}


def door(server: Running, writable: Allowed = ALL) -> Door:
    """Let everybody read, and write what is said, on private channels."""
    found = server.app.state.services.channels
    assert isinstance(found, Door)
    found.allowed, found.writable, found.asked = ALL, writable, 0
    return found


async def ping(client: Client, topic: str = TOPIC, payload: Any = PING, ref: str = "2") -> None:
    await client.say(topic, "broadcast", payload, ref)


async def self_joined(server: Running, client: Client, writable: Allowed) -> Door:
    """Join a private channel with ``self`` and ``ack`` where so much may be written."""
    gate = door(server, writable)
    await client.join(TOPIC, config(ack=True, echo=True, private=True))
    return gate


@contextlib.asynccontextmanager
async def three(server: Running) -> AsyncIterator[tuple[Client, Client, Client]]:
    """A sender of 2.0.0, and a listener of either version."""
    async with (
        opened(server, Version.V2) as sender,
        opened(server, Version.V1) as old,
        opened(server, Version.V2) as new,
    ):
        yield sender, old, new


@both
async def test_who_wants_to_hears_itself_and_everybody_else_always(version: Version) -> None:
    """Cases 40, 41 and 43: a client that hears itself does so before the answer."""
    async with running() as server, opened(server, version) as sender, opened(server, version) as other:
        for echo in (True, False):
            for ack in (True, False):
                topic = f"realtime:{echo}{ack}"
                await sender.join(topic, config(ack=ack, echo=echo))
                await other.join(topic, config())
                await ping(sender, topic)
                await other.hears_broadcast(topic, PING)
                if echo:
                    await sender.hears_broadcast(topic, PING)
                if ack:
                    await sender.hears_reply(topic, {}, "2")
                await sender.hears_nothing()
                await other.hears_nothing()


@pytest.mark.parametrize("name", ["room", "room:1", "a:b:c"])
async def test_a_public_and_a_private_channel_of_one_name_never_mix(name: str) -> None:
    """Case 42, where there is one project."""
    topic = f"realtime:{name}"
    async with running() as server, three(server) as (first, public, private):
        door(server)
        await first.join(topic, config(ack=True))
        await public.join(topic, config())
        await private.join(topic, config(private=True))
        await ping(first, topic)
        await first.hears_reply(topic, {}, "2")
        await public.hears_broadcast(topic, PING)
        await private.hears_nothing()
        await ping(private, topic)
        await private.hears_nothing()
        for client in (first, public):
            await client.hears_nothing()


@both
async def test_a_text_of_one_version_reaches_the_other(version: Version) -> None:
    """Case 44."""
    async with running() as server, opened(server, version) as sender, three(server) as clients:
        for client in (sender, *clients):
            await client.join(TOPIC, config())
        await ping(sender)
        for client in clients:
            await client.hears_broadcast(TOPIC, PING)


async def test_json_in_a_binary_frame_reaches_both_versions() -> None:
    """Case 44."""
    async with running() as server, three(server) as (sender, old, new):
        for client in (sender, old, new):
            await client.join(TOPIC, config())
        await sender.push(b'{"n": 1}', topic=TOPIC, event="ping")
        await new.hears_bytes(b'{"n": 1}', topic=TOPIC, event="ping")
        message = '"payload":{"event":"ping","payload":{"n": 1},"type":"broadcast"}'
        assert await old.hear() == f'{{"ref":null,"event":"broadcast",{message},"topic":"realtime:room"}}'
        await sender.hears_nothing()


@pytest.mark.parametrize("private", [True, False])
async def test_bytes_reach_2_0_0_and_leave_1_0_0_alone(private: bool) -> None:
    """Cases 45 and 46."""
    async with running() as server, three(server) as (sender, old, new):
        door(server)
        await sender.join(TOPIC, config(ack=True, echo=True, private=private))
        for client in (old, new):
            await client.join(TOPIC, config(private=private))
        await sender.push(bytes(range(256)), topic=TOPIC, raw=True)
        for client in (sender, new):
            await client.hears_bytes(bytes(range(256)), topic=TOPIC, raw=True)
        await sender.hears_reply(TOPIC, {}, "2")
        await ping(sender)
        await old.hears_broadcast(TOPIC, PING)


@both
async def test_who_may_only_read_hears_and_is_told_that_it_may_not_write(version: Version) -> None:
    """Case 47. There nothing is answered, so that a client waits until its time is over."""
    async with running() as server, opened(server, version) as reader, opened(server, version) as writer:
        gate = await self_joined(server, reader, Allowed())
        for _ in range(2):
            await ping(reader)
            await reader.hears_reply(TOPIC, DENIED, "2", status="error")
        assert gate.asked == 1
        door(server)
        await writer.join(TOPIC, config(ack=True, private=True))
        await ping(writer)
        await writer.hears_reply(TOPIC, {}, "2")
        await reader.hears_broadcast(TOPIC, PING)
        await writer.hears_nothing()


@both
async def test_silence_may_be_had_as_with_supabase(version: Version) -> None:
    """Case 47."""
    limits = Limits(silent_denials=True)
    async with running(limits=limits) as server, opened(server, version) as reader:
        await self_joined(server, reader, Allowed())
        await ping(reader)
        await reader.hears_nothing()


async def test_a_new_token_has_the_right_to_write_asked_for_again() -> None:
    """Case 37."""
    async with running() as server, opened(server, Version.V2) as client:
        await self_joined(server, client, ALL)
        for number, writable in enumerate((ALL, Allowed(), ALL)):
            gate = door(server, writable)
            await client.say(TOPIC, "access_token", {"access_token": make_token(number=number)})
            for _ in range(2):
                await ping(client)
                if writable:
                    await client.hears_broadcast(TOPIC, PING)
                    await client.hears_reply(TOPIC, {}, "2")
                else:
                    await client.hears_reply(TOPIC, DENIED, "2", status="error")
            assert gate.asked == 1


async def test_policies_that_cannot_be_asked_let_nothing_through_and_are_asked_again() -> None:
    away = ChannelUnavailable("QueryCanceled", "Query was cancelled, please try again")
    async with running() as server, opened(server, Version.V2) as client:
        gate = await self_joined(server, client, ALL)
        gate.failures.append(away)
        await ping(client)
        reason = {"reason": "QueryCanceled: Query was cancelled, please try again"}
        await client.hears_reply(TOPIC, reason, "2", status="error")
        await ping(client)
        await client.hears_broadcast(TOPIC, PING)


@both
@pytest.mark.parametrize("ack", [True, False])
async def test_a_payload_over_the_limit_is_dropped_and_the_channel_lives(version: Version, ack: bool) -> None:
    """Case 50."""
    limits = Limits(payload_size=1000)
    async with (
        running(limits=limits) as server,
        opened(server, version) as sender,
        opened(server, version) as other,
    ):
        await sender.join(TOPIC, config(ack=ack))
        await other.join(TOPIC, config())
        await ping(sender, payload={"event": "e", "payload": "x" * 1000})
        if ack:
            await sender.hears_reply(TOPIC, {"reason": "payload_size_exceeded"}, "2", status="error")
        await ping(sender)
        await other.hears_broadcast(TOPIC, PING)


@both
async def test_who_sends_too_much_loses_its_channel_and_who_listens_never_does(version: Version) -> None:
    """Case 51. There it is the listeners whose channels end."""
    limits = Limits(events_per_second=2)
    async with running(limits=limits) as server:
        clock = stop_clock(server)
        async with opened(server, version) as sender, opened(server, version) as other:
            await sender.join(TOPIC, config())
            await other.join(TOPIC, config())
            burst = int(2 * STEP_SECONDS)
            for _ in range(burst + 1):
                await ping(sender)
            for _ in range(burst):
                await other.hears_broadcast(TOPIC, PING)
            message = {"message": "Too many messages per second", "status": "error", "extension": "system"}
            await sender.hears(TOPIC, "system", {**message, "channel": "room"}, None, "11")
            await sender.hears(TOPIC, "phx_close", {}, "11", "11")
            await other.hears_nothing()
            # Time makes room, and the socket was kept.
            clock[0] += STEP_SECONDS
            await sender.join(TOPIC, config())
            await ping(sender)
            await other.hears_broadcast(TOPIC, PING)


@both
@pytest.mark.parametrize("payload", [None, "just a string", [1, 2], 3, {"no": "event"}])
async def test_any_payload_is_passed_on(version: Version, payload: Any) -> None:
    """Case 52."""
    async with running() as server, opened(server, version) as client:
        await client.join(TOPIC, config(echo=True, ack=True))
        await ping(client, payload=payload)
        await client.hears_broadcast(TOPIC, payload)
        await client.hears_reply(TOPIC, {}, "2")


async def test_who_left_or_is_gone_hears_nothing_more() -> None:
    async with running() as server, three(server) as (sender, old, new):
        for client in (sender, old, new):
            await client.join(TOPIC, config(ack=True))
        await new.say(TOPIC, "phx_leave", {}, "3")
        await new.hears_reply(TOPIC, {}, "3")
        await new.hears(TOPIC, "phx_close", {}, "11", "11")
        await old.connection.close()
        await ping(sender)
        await sender.hears_reply(TOPIC, {}, "2")
        await new.hears_nothing()
        topics = server.app.state.services.topics
        assert [len(members) for members in topics._listeners.values()] == [1]


@both
async def test_fifty_broadcasts_to_oneself_all_come_in_order(version: Version) -> None:
    """Case 100, but for its time."""
    async with running() as server, opened(server, version) as client:
        await client.join(TOPIC, config(echo=True))
        for number in range(50):
            await ping(client, payload={"event": "e", "payload": {"n": number}, "type": "broadcast"})
        for number in range(50):
            await client.hears_broadcast(TOPIC, {"event": "e", "payload": {"n": number}, "type": "broadcast"})


async def test_bytes_pass_under_the_server_of_others_too() -> None:
    async with running() as server:
        plain = uvicorn.Server(uvicorn.Config(server.app, port=0, log_config=None, lifespan="off"))
        async with serving(plain), connect(f"ws://127.0.0.1:{bound_port(plain)}{server.path}") as connection:
            client = Client(connection, Version.V2)
            await client.join(TOPIC, config(echo=True, ack=True))
            await client.push(b"\x00\xff", topic=TOPIC, raw=True)
            await client.hears_bytes(b"\x00\xff", topic=TOPIC, raw=True)
            await client.hears_reply(TOPIC, {}, "2")
