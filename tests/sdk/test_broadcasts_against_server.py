"""Broadcasts of the client: every way to send, to every way to hear, and what refuses them."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rowcast.session.admission import Limits
from rowcast_client import AuthError, Broadcast, Channel, Client, RetryPolicy, SendError, create_client
from support import databases
from support.heard import one, take, write
from support.links import Relay
from support.official import OFFICIAL, drive
from support.server import Server
from support.serving import running
from support.tokens import make_token

pytestmark = pytest.mark.anyio

SOON = RetryPolicy(first=0.02, cap=0.1)
ODD = "a/b ?x=%41&é 😀.."
PAYLOADS: list[Any] = [{"n": 1.5, "text": "é 😀"}, b"\x00\xff\xfe", {}, b"", [1, None], "text", 2**70]

Heard = asyncio.Queue[Broadcast]


def room(client: Client, name: str = "room", **options: Any) -> tuple[Channel, Heard]:
    """A channel, and what it hears."""
    heard: Heard = asyncio.Queue(2000)
    return client.channel(name, **options).on("broadcast", heard.put), heard


async def payloads(heard: Heard, number: int) -> list[Any]:
    return [broadcast.payload for broadcast in await take(heard, number)]


async def test_what_is_sent_by_socket_or_request_is_heard_by_others_and_by_who_asked_for_an_echo() -> None:
    async with running() as server:
        url, token = f"http://127.0.0.1:{server.port}", make_token()
        async with create_client(url, token) as sender, create_client(url, token) as other:
            for name in ("room", ODD, ".."):
                echoing, echo = room(sender, name, ack=True, echo=True)
                listening, heard = room(other, name)
                odd: Heard = asyncio.Queue(9)
                await listening.on("broadcast", {"event": ODD}, odd.put).subscribe()
                await echoing.subscribe()
                for payload in PAYLOADS:
                    await echoing.send("e", payload)
                assert [await payloads(queue, 7) for queue in (heard, echo)] == [PAYLOADS, PAYLOADS]
                await listening.send(ODD, {"n": 1})
                assert (await one(echo)).event == ODD
                # By requests of a client that is nowhere connected.
                apart = create_client(url, lambda: token)
                for payload in PAYLOADS[:4]:
                    await apart.channel(name).send(ODD, payload)
                assert apart.state == "idle"
                assert await payloads(odd, 4) == PAYLOADS[:4]


async def test_official_clients_and_this_one_hear_each_other(server: Server) -> None:
    async with create_client(server.url, server.token()) as client:
        channel, heard = room(client, ack=True)
        await channel.subscribe()
        for official in OFFICIAL:
            async with drive(official) as driven:
                await driven.connect(server.url, server.token())
                await driven.tell("subscribe", channel="room", hears=["e", "bytes"])
                await driven.event("status", channel="room", status="SUBSCRIBED")
                await channel.send("e", {"n": 1})
                # Not joined, and so by a request.
                await create_client(server.url, server.token()).channel("room").send("e", {"n": 2})
                for number in (1, 2):
                    event = await driven.event("broadcast", channel="room", name="e")
                    assert event["payload"] == {"n": number}, official.name
                await driven.tell("send", channel="room", name="e", payload={"text": "é 😀"})
                assert [(b.event, b.payload) for b in await take(heard, 2)] == [
                    ("e", {"n": 2}), ("e", {"text": "é 😀"}),
                ]  # fmt: skip
                if official.vsn == "2.0.0":
                    await channel.send("bytes", b"\x00\xff")
                    said = await driven.event("broadcast", channel="room", name="bytes")
                    assert said["payload"] == {"bytes": "00ff"}
                    await driven.tell("send", channel="room", name="bytes", bytes="0001ff")
                    assert (await one(heard)).payload == b"\x00\x01\xff"


async def test_policies_say_who_sends_and_the_database_speaks_too(server: Server) -> None:
    databases.execute(
        server.database,
        """create policy reads on realtime.messages for select to anon, authenticated
        using (realtime.topic() = 'room');
        create policy writes on realtime.messages for insert to authenticated with check (true)""",
    )
    since = datetime.now(UTC) - timedelta(minutes=1)
    await write(server.database, "select realtime.send('{\"n\": 1}', 'e', 'room')")
    async with (
        create_client(server.url, server.token()) as reader,
        create_client(server.url, server.token("authenticated")) as writer,
    ):
        reading, heard = room(reader, private=True, ack=True, replay={"since": since})
        await reading.subscribe()
        earlier = await one(heard)
        assert (earlier.event, earlier.payload["n"], earlier.replayed) == ("e", 1, True)
        assert earlier.id == earlier.payload["id"]
        writing, _ = room(writer, private=True, ack=True)
        await writing.send("by request", {"n": 2})
        await writing.subscribe()
        await writing.send("by socket", {"n": 3})
        await write(server.database, "select realtime.send_binary('\\x00ff', 'b', 'room')")
        said = await take(heard, 3)
        assert [(b.event, b.payload) for b in said[:2]] == [("by request", {"n": 2}), ("by socket", {"n": 3})]
        assert (said[2].payload, said[2].replayed, said[2].id is None) == (b"\x00\xff", False, False)
        with pytest.raises(SendError, match="permissions to write") as denied:
            await reading.send("e")
        assert (denied.value.code, "for insert" in denied.value.hint) == ("Unauthorized", True)
        await reading.unsubscribe()
        with pytest.raises(AuthError, match="403") as refused:
            await reading.send("e")
        assert (refused.value.code, "for insert" in refused.value.hint) == ("Forbidden", True)
    with pytest.raises(AuthError, match="401"):
        await create_client(server.url, "no-token").channel("room").send("e")


async def test_what_is_too_large_or_too_much_is_refused_and_the_channel_goes_on() -> None:
    limits = Limits(payload_size=1000, events_per_second=20, refusal_delay=0)
    async with running(limits=limits) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with create_client(url, make_token(), retry=SOON) as client:
            channel, _ = room(client, ack=True)
            for joined in (False, True):
                if joined:
                    await channel.subscribe()
                with pytest.raises(SendError) as refused:
                    await channel.send("e", "x" * 1000)
                assert refused.value.code == "payload_size_exceeded"
                assert refused.value.status == (None if joined else 422)
            statuses: asyncio.Queue[Any] = asyncio.Queue(9)
            channel.subscribe(lambda status: statuses.put_nowait(status))
            with pytest.raises(SendError, match="Too many messages per second") as ended:
                await asyncio.gather(*(channel.send("e") for _ in range(200)))
            assert ended.value.code == "ChannelEnded"
            assert await take(statuses, 2) == ["CHANNEL_ERROR", "SUBSCRIBED"]


async def test_many_broadcasts_without_an_answer_keep_their_order() -> None:
    async with running(limits=Limits(events_per_second=10_000), lane_limit=1 << 24) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with create_client(url, make_token()) as client:
            sending, _ = room(client)
            async with create_client(url, make_token()) as other:
                hearing, heard = room(other)
                await sending.subscribe()
                await hearing.subscribe()
                for first in range(0, 1500, 3):
                    # Those who wait for room are served in the order in which they came.
                    await asyncio.gather(*(sending.send("e", first + number) for number in range(3)))
                assert await payloads(heard, 1500) == list(range(1500))


async def test_a_callback_may_await_the_answer_to_what_it_sends_though_much_waits_behind_it() -> None:
    async with running(limits=Limits(events_per_second=10_000)) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with (
            create_client(url, make_token(), buffer=1) as bot,
            create_client(url, make_token()) as other,
        ):
            answering = bot.channel("room", ack=True)

            async def answer(broadcast: Broadcast) -> None:
                await answering.send("answer", broadcast.payload)

            await answering.on("broadcast", answer, event="question").subscribe()
            asking, heard = room(other)
            await asking.subscribe()
            for number in range(100):
                await asking.send("question", number)
            assert await payloads(heard, 100) == list(range(100))


async def test_a_connection_that_is_cut_leaves_it_open_whether_it_was_sent() -> None:
    async with running() as server:
        relay = Relay(("127.0.0.1", server.port))
        await relay.start()
        async with create_client(f"http://127.0.0.1:{relay.port}", make_token(), retry=SOON) as client:
            channel, heard = room(client, ack=True, echo=True)
            await channel.subscribe()
            for link in relay.links:
                link.swallow()
            sending = asyncio.ensure_future(channel.send("e", 1))
            await asyncio.sleep(0)
            relay.cut(list(relay.links), reset=True)
            with pytest.raises(Exception, match="not known whether it was sent") as lost:
                await sending
            assert type(lost.value).__name__ == "ConnectionLost"
            await channel
            await channel.send("e", 2)
            assert await payloads(heard, 1) == [2]
        await relay.stop()
