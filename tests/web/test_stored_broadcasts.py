"""Broadcasts that are stored, and messages that are heard as a part of the stream, over the real server."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from rowcast.capture.storing import FULL, UNFIT, UNKNOWN
from rowcast.protocol.messages import Version
from support import databases
from support.broadcasts import pushed, user_broadcast
from support.frames import both
from support.server import Server
from support.serving import PATIENCE
from support.tokens import make_token
from support.waiting import until

pytestmark = pytest.mark.anyio

TOPIC = "realtime:room"
RIGHTS = """
create policy hear on realtime.messages for select to anon, authenticated
  using (realtime.topic() like 'room%');
create policy say on realtime.messages for insert to anon with check (realtime.topic() = 'room');
"""
Serve = Callable[..., Awaitable[Server]]


class Talker:
    """A client that joins one channel; of what it hears, replies are kept apart from the rest."""

    def __init__(self, socket: ClientConnection, version: Version) -> None:
        self.socket, self.version = socket, version

    async def say(self, event: str, payload: Any, ref: str = "2", topic: str = TOPIC) -> None:
        slots = {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": "1"}
        v2 = ["1", ref, topic, event, payload]
        await self.socket.send(json.dumps(slots if self.version is Version.V1 else v2))

    async def hears(self) -> tuple[str, Any]:
        """The next event and its payload; a broadcast's as a dict, whatever its frame."""
        frame = await asyncio.wait_for(self.socket.recv(), PATIENCE)
        if isinstance(frame, bytes):
            _, event, meta, raw, payload = user_broadcast(frame)
            body = payload if raw else json.loads(payload)
            return "broadcast", {"event": event, "meta": json.loads(meta), "payload": body}
        said = json.loads(frame)
        if self.version is Version.V1:
            return said["event"], said["payload"]
        return said[3], said[4]

    async def replied(self) -> dict[str, Any]:
        event, payload = await self.hears()
        assert event == "phx_reply"
        return payload  # type: ignore[no-any-return]

    async def message(self) -> dict[str, Any]:
        event, payload = await self.hears()
        assert event == "broadcast"
        return payload  # type: ignore[no-any-return]

    async def join(self, *, private: bool = True, resume: str | None = None, **config: Any) -> dict[str, Any]:
        """The response."""
        wanted = {"private": private, **config}
        if resume is not None:
            wanted["resume"] = {"position": resume}
        await self.say("phx_join", {"config": wanted}, "1")
        reply = await self.replied()
        assert reply["status"] == "ok", reply
        return reply["response"]  # type: ignore[no-any-return]

    async def subscribed(self) -> str:
        """The position that it is told."""
        event, payload = await self.hears()
        assert (event, payload["message"]) == ("system", "Subscribed to PostgreSQL")
        return payload["position"]  # type: ignore[no-any-return]

    async def is_refused(self, reason: str, **config: Any) -> None:
        await self.say("phx_join", {"config": config}, "1")
        assert await self.replied() == {"status": "error", "response": {"reason": reason}}


@contextlib.asynccontextmanager
async def talking(server: Server, version: Version = Version.V2, role: str = "anon") -> AsyncIterator[Talker]:
    url = f"{server.websocket}?apikey={make_token(role)}&vsn={version}"
    async with connect(url, max_size=None) as socket:
        yield Talker(socket, version)


@pytest.fixture
async def database(todos: str) -> AsyncIterator[asyncpg.Connection]:
    databases.execute(todos, RIGHTS)
    connection = await asyncpg.connect(todos)
    yield connection
    await connection.close()


@both
async def test_what_a_client_stores_is_heard_by_all_and_kept(
    todos: str, serve: Serve, database: asyncpg.Connection, version: Version
) -> None:
    server = await serve(todos)
    store = {"store": True, "ack": True}
    async with talking(server, version) as sender, talking(server) as other, talking(server) as loud:
        await sender.join(broadcast=store)
        await other.join()
        await loud.join(broadcast={**store, "self": True})
        id_ = str(uuid.uuid4())
        await sender.say("broadcast", {"event": "e", "payload": {"n": 1}, "type": "broadcast", "id": id_})
        assert await sender.replied() == {"status": "ok", "response": {}}
        for one in (other, loud):
            assert await one.message() == {
                "event": "e",
                "meta": {"id": id_},
                "payload": {"n": 1},
            } | ({} if one.version is Version.V2 else {"type": "broadcast"})
        # It hears others, and not itself; one that wants to does.
        await loud.socket.send(pushed("1", "2", TOPIC, "bytes", b"\xff", raw=True))
        heard = sorted([await loud.hears(), await loud.hears()], key=lambda one: one[0])
        assert [event for event, _ in heard] == ["broadcast", "phx_reply"]
        assert heard[0][1]["payload"] == b"\xff"
        assert (await other.message())["payload"] == b"\xff"
        await loud.say("broadcast", {"event": "last"})
        if version is Version.V2:
            assert (await sender.message())["payload"] == b"\xff"
        assert ((await sender.message())["event"], (await other.message())["event"]) == ("last", "last")
        kept = await database.fetch(
            "select id::text, event, payload::text, binary_payload, private, extension from realtime.messages"
            " order by inserted_at"
        )
        assert tuple(kept[0]) == (id_, "e", '{"n": 1}', None, True, "broadcast")
        assert [row["event"] for row in kept] == ["e", "bytes", "last"]


async def test_what_cannot_be_stored_is_told_to_its_sender_alone(
    todos: str, serve: Serve, database: asyncpg.Connection
) -> None:
    server = await serve(todos)
    async with talking(server) as sender, talking(server, role="authenticated") as reader:
        await reader.is_refused(
            "UnableToStoreMessages: Storing is not allowed for public channels", broadcast={"store": True}
        )
        await sender.join(broadcast={"store": True, "ack": True})
        await reader.join(broadcast={"store": True, "ack": True})
        await reader.say("broadcast", {"event": "e"})
        denied = (await reader.replied())["response"]["reason"]
        assert denied == "Unauthorized: You do not have permissions to write to this Channel topic: room"
        bad: list[tuple[Any, str]] = [
            ([], "expected an object with an `event` that is a string"),
            ({"event": "e", "id": "x"}, "expected `id` to be a UUID"),
            ({"event": "e", "payload": "\0"}, UNFIT),
        ]
        for payload, reason in bad:
            await sender.say("broadcast", payload)
            assert (await sender.replied())["response"]["reason"] == f"UnableToStoreMessages: {reason}"
        # Several that are written together: one that does not fit takes no other with it.
        for number in range(5):
            body = {"n": number} if number != 2 else "\0"
            await sender.say("broadcast", {"event": "e", "payload": body}, str(number))
        statuses = [(await sender.replied())["status"] for _ in range(5)]
        assert sorted(statuses) == ["error", "ok", "ok", "ok", "ok"]
        assert [(await reader.message())["payload"]["n"] for _ in range(4)] == [0, 1, 3, 4]
        await database.execute('alter table realtime.messages disable trigger "!rowcast_message"')
        await database.execute("select pg_notify('rowcast', 'tables')")

        async def told() -> str:
            while True:
                await sender.say("broadcast", {"event": "e"})
                reply = await sender.replied()
                if reply["status"] == "error":
                    return str(reply["response"]["reason"])

        async with asyncio.timeout(PATIENCE):
            assert "not captured" in await told()


async def test_who_stores_more_than_is_written_is_refused_and_others_are_not(
    todos: str, serve: Serve, database: asyncpg.Connection
) -> None:
    server = await serve(todos)
    large = {"event": "e", "payload": "x" * 2_500_000}
    async with talking(server) as greedy, talking(server) as other:
        for one in (greedy, other):
            await one.join(broadcast={"store": True, "ack": True})
        # The right to send is asked for with the first.
        for one, another in ((greedy, other), (other, greedy)):
            await one.say("broadcast", {"event": "first"})
            assert (await one.replied())["status"] == "ok"
            assert (await another.message())["event"] == "first"
        async with database.transaction():
            await database.execute("lock table realtime.messages in share mode")
            for _ in range(2):
                await greedy.say("broadcast", large)
            refused = await greedy.replied()
            assert refused["response"]["reason"] == f"UnableToStoreMessages: {FULL}"
            await other.say("broadcast", {"event": "e"})
        heard = dict([await other.hears(), await other.hears()])
        assert (heard["broadcast"]["event"], heard["phx_reply"]["status"]) == ("e", "ok")


async def test_what_may_have_been_stored_is_not_heard_by_its_sender_where_it_was(
    todos: str, serve: Serve, database: asyncpg.Connection
) -> None:
    server = await serve(todos)
    id_ = str(uuid.uuid4())
    async with talking(server) as sender:
        await sender.join(broadcast={"store": True, "ack": True})
        await sender.say("broadcast", {"event": "first"})
        assert (await sender.replied())["status"] == "ok"
        ended = """select pg_terminate_backend(pid) from pg_locks
                   where relation = 'realtime.messages'::regclass and not granted
                   and database = (select oid from pg_database where datname = current_database())"""

        async def is_ended() -> bool:
            return bool(await database.fetch(ended))

        async with database.transaction():
            await database.execute("lock table realtime.messages in share mode")
            await sender.say("broadcast", {"event": "e", "id": id_})
            await until(is_ended)
            assert (await sender.replied())["response"]["reason"] == f"UnableToStoreMessages: {UNKNOWN}"
        # As if it had been.
        await database.execute(
            "insert into realtime.messages (id, topic, extension, event, private, payload)"
            " values ($1, 'room', 'broadcast', 'e', true, '{}')",
            id_,
        )
        await database.execute("select realtime.send('{}', 'next', 'room')")
        assert (await sender.message())["event"] == "next"


async def test_requests_store_as_well(todos: str, serve: Serve, database: asyncpg.Connection) -> None:
    server = await serve(todos)
    headers = {"apikey": make_token()}
    id_ = str(uuid.uuid4())
    async with talking(server) as reader, httpx.AsyncClient(base_url=server.url, headers=headers) as client:
        await reader.join()
        message = {"topic": "room", "event": "e", "payload": {"n": 1}, "private": True, "store": True}
        batch = [message | {"id": id_}, message | {"topic": "room-2"}, message | {"store": False}]
        assert (await client.post("/api/broadcast", json={"messages": batch})).status_code == 202
        heard = [await reader.message(), await reader.message()]
        assert [one.get("meta", {}) for one in heard].count({"id": id_}) == 1
        path = "/api/broadcast/room/events/single"
        stored = await client.post(f"{path}?private=true&store=true&id={id_}", json={"n": 2})
        assert stored.status_code == 202
        assert await reader.message() == {"event": "single", "meta": {"id": id_}, "payload": {"n": 2}}
        raw = {"content": b"\xff", "headers": {"content-type": "application/octet-stream"}}
        assert (await client.post(f"{path}?private=true&store=true", **raw)).status_code == 202  # type: ignore[arg-type]
        assert (await reader.message())["payload"] == b"\xff"
        for query, errors in (
            ("store=true", {"store": ["is not allowed for public topics"]}),
            ("private=true&store=true&id=x", {"id": ["is invalid"]}),
        ):
            refused = await client.post(f"{path}?{query}", json={})
            assert (refused.status_code, refused.json()) == (422, {"errors": errors})
        public = await client.post("/api/broadcast", json={"messages": [message | {"private": False}]})
        assert public.json() == {"errors": {"messages": [{"store": ["is not allowed for public topics"]}]}}
        null = await client.post(f"{path}?private=true&store=true", json={"a": "\0"})
        assert null.status_code == 503
        assert "u0000" in null.json()["message"]
        for query in ("persist=true", "persist[ttl]=60"):
            assert (await client.post(f"{path}?private=true&{query}", json={})).status_code == 202
            assert (await reader.message())["event"] == "single"
        assert await database.fetchval("select count(*) from realtime.messages") == 5


async def test_public_channels_store_and_replay_where_the_operator_says_so(
    todos: str, serve: Serve, database: asyncpg.Connection
) -> None:
    server = await serve(todos, ROWCAST_STORE_PUBLIC="true")
    async with talking(server) as sender, talking(server) as late, talking(server) as private:
        await sender.join(private=False, broadcast={"store": True, "ack": True})
        await sender.say("broadcast", {"event": "e", "payload": {"n": 1}})
        assert (await sender.replied())["status"] == "ok"
        await late.join(private=False, broadcast={"replay": {"since": 1}})
        replayed = await late.message()
        assert (replayed["payload"], replayed["meta"]["replayed"]) == ({"n": 1}, True)
        # The private channel of that name is another one.
        await private.join(broadcast={"replay": {"since": 1}})
        await sender.say("broadcast", {"event": "e", "payload": {"n": 2}})
        assert (await late.message())["payload"] == {"n": 2}
        await database.execute("select realtime.send('{}', 'alone', 'room')")
        assert (await private.message())["event"] == "alone"


@both
async def test_a_stream_of_messages_goes_on_after_a_cut_and_ends_with_the_right(
    todos: str, serve: Serve, database: asyncpg.Connection, version: Version
) -> None:
    server = await serve(todos)
    wanted: dict[str, Any] = {"rowcast": {"messages": True, "gap": True}}

    async def send(number: int) -> None:
        await database.execute(
            "select realtime.send(jsonb_build_object('n', $1::int, 'id', 0), 'e', 'room')", number
        )

    async with talking(server, version) as client:
        assert await client.join(**wanted) == {"postgres_changes": [], "messages": True}
        begin = await client.subscribed()
        await send(1)
        heard = await client.message()
        assert heard["payload"] == {"n": 1, "id": 0}
        assert list(heard) == ["event", "meta", "payload", "type"]
        assert list(heard["meta"]) == ["id", "position"]
    await send(2)
    await database.execute("select realtime.send_binary('\\xff', 'bytes', 'room')")
    async with talking(server, version) as client, talking(server, version) as late:
        await client.join(**wanted, resume=heard["meta"]["position"])
        assert await client.subscribed() == heard["meta"]["position"]
        assert (await client.message())["payload"] == {"n": 2, "id": 0}
        raw = await client.message()
        assert (raw["payload"], raw["meta"]["encoding"]) == ("/w==", "base64")
        await late.join(**wanted, resume=begin)
        await late.subscribed()
        assert [(await late.message())["payload"] for _ in range(3)][:2] == [
            {"n": 1, "id": 0},
            {"n": 2, "id": 0},
        ]
        # What others say is sent as ever, without a position.
        await late.say("broadcast", {"event": "e", "payload": {"n": 3}, "type": "broadcast"})
        assert "meta" not in await client.message()
        await database.execute("alter policy hear on realtime.messages using (false)")
        await client.say("access_token", {"access_token": make_token(sub="x")})
        event, payload = await client.hears()
        assert (event, payload["status"]) == ("system", "error")
        assert "permissions to read" in payload["message"]
        assert (await client.hears())[0] == "phx_close"
        await send(4)
        assert (await late.message())["payload"]["n"] == 4
        await client.say("heartbeat", {}, topic="phoenix")
        assert (await client.hears())[0] == "phx_reply"
    await database.execute("alter policy hear on realtime.messages using (true)")
    async with talking(server, version) as client:
        # A place that nobody knows is told.
        await client.join(**wanted, resume="elsewhere")
        event, payload = await client.hears()
        assert (event, payload["gap"]["reason"]) == ("system", "unreadable")
        await client.subscribed()
        await send(5)
        assert (await client.message())["payload"] == {"n": 5, "id": 0}
