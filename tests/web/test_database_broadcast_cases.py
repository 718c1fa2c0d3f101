"""The original's cases of broadcasts from the database and of their replay, over the real server.

Each test names its case, and has a client of either version.
"""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from websockets.asyncio.client import ClientConnection, connect

from rowcast.hub.messages import Messages
from rowcast.model.allowed import Allowed, ChannelUnavailable
from rowcast.model.message import Message
from rowcast.protocol.messages import Version
from support import databases
from support.broadcasts import user_broadcast
from support.frames import Client, both, opened
from support.server import Server
from support.serving import PATIENCE, Door, Running, Shelf, running
from support.tokens import make_token

pytestmark = pytest.mark.anyio

TOPIC = "realtime:room"
READY = {
    "message": "Replication connection established",
    "status": "ok",
    "extension": "system",
    "channel": "room",
}
POLICY = "create policy room on realtime.messages for select to anon using (realtime.topic() like 'room%')"
Serve = Callable[..., Awaitable[Server]]


@dataclasses.dataclass(frozen=True)
class Heard:
    """A broadcast, as a client of either version has it. ``join_ref`` is None where there is none."""

    event: str
    payload: Any
    meta: dict[str, Any]
    join_ref: str | None = None


class Listener:
    """A client that joins channels and hears broadcasts."""

    def __init__(self, connection: ClientConnection, version: Version) -> None:
        self.client = Client(connection, version)
        self.version = version

    async def join(self, topic: str = TOPIC, *, private: bool = True, **broadcast: Any) -> None:
        await self.client.join(topic, {"config": {"private": private, "broadcast": broadcast}})

    async def hears(self, *, topic: str = TOPIC) -> Heard:
        frame = await asyncio.wait_for(self.client.connection.recv(), PATIENCE)
        if isinstance(frame, bytes):
            assert self.version is Version.V2
            named, event, meta, raw, payload = user_broadcast(frame)
            assert named == topic
            return Heard(event, payload if raw else json.loads(payload), json.loads(meta))
        said = json.loads(frame)
        if self.version is Version.V1:
            assert list(said) == ["ref", "event", "payload", "topic"]
            said = [None, said["ref"], said["topic"], said["event"], said["payload"]]
        join_ref, ref, named, event, payload = said
        assert (ref, named, event, payload["type"]) == (None, topic, "broadcast", "broadcast")
        assert list(payload) == ["event", "meta", "payload", "type"]
        return Heard(payload["event"], payload["payload"], payload["meta"], join_ref)

    async def is_refused(self, reason: str, *, private: bool = True, replay: Any) -> None:
        config = {"private": private, "broadcast": {"replay": replay}}
        await self.client.is_refused(TOPIC, {"config": config}, reason)


@pytest.fixture
async def sender(todos: str) -> AsyncIterator[asyncpg.Connection]:
    databases.execute(todos, POLICY)
    connection = await asyncpg.connect(todos)
    yield connection
    await connection.close()


@contextlib.asynccontextmanager
async def listening(server: Server) -> AsyncIterator[list[Listener]]:
    """A client of each version."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for version in Version:
            address = f"{server.websocket}?apikey={make_token()}&vsn={version}"
            found.append(Listener(await stack.enter_async_context(connect(address)), version))
        yield found


async def test_cases_56_to_58_what_sql_sends_is_heard_on_its_topic_alone(
    todos: str, serve: Serve, sender: asyncpg.Connection
) -> None:
    server = await serve(todos)
    await sender.execute(
        """
        create table things (id int, v text);
        create function tell() returns trigger language plpgsql as $$
        begin
          perform realtime.broadcast_changes('room', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
          return null;
        end $$;
        create trigger tell after insert or update or delete on things for each row execute function tell();
        """
    )
    async with listening(server) as private, listening(server) as public:
        for one in private:
            await one.join(replication_ready=True)
            await one.client.hears(TOPIC, "system", READY, None)
        for one in public:
            await one.join(private=False)

        # Case 56
        await sender.execute(
            "insert into things values (1, 'a'); update things set v = 'b'; delete from things"
        )
        old, new = {"id": 1, "v": "a"}, {"id": 1, "v": "b"}
        for one in private:
            for operation, record, old_record in (
                ("INSERT", old, None),
                ("UPDATE", new, old),
                ("DELETE", None, new),
            ):
                heard = await one.hears()
                id_ = heard.meta["id"]
                change = {"operation": operation, "schema": "public", "table": "things"}
                rows = {"record": record, "old_record": old_record}
                assert heard == Heard(operation, {"id": id_, **change, **rows}, {"id": id_})

        # Case 57
        await sender.execute("select realtime.send('{\"n\": 1}', 'e', 'room', false)")
        await sender.execute("select realtime.send('{\"n\": 12345678901234567890.10}', 'e', 'room')")
        await sender.execute("select realtime.send('{\"id\": \"own\"}', 'other', 'room')")
        for one in public:
            heard = await one.hears()
            assert heard == Heard("e", {"id": heard.meta["id"], "n": 1}, {"id": heard.meta["id"]})
        for one in private:
            assert (await one.hears()).payload["n"] == 12345678901234567890.10
            heard = await one.hears()
            assert (heard.event, heard.payload, list(heard.meta)) == ("other", {"id": "own"}, ["id"])

        # Case 58
        await sender.execute("select realtime.send_binary('\\x0102ff', 'bytes', 'room')")
        await sender.execute("select realtime.send('[]', repeat('é', 200), 'room')")
        older, newer = private
        binary = await newer.hears()
        assert (binary.event, binary.payload, list(binary.meta)) == ("bytes", b"\x01\x02\xff", ["id"])
        # An event too long for a binary frame comes as text.
        for one in (older, newer):
            assert await one.hears() == Heard("é" * 200, [], (await _last(sender)))

        for one in public:
            await one.client.hears_nothing()


async def _last(sender: asyncpg.Connection) -> dict[str, Any]:
    """The meta of the message that was sent last."""
    return {
        "id": await sender.fetchval(
            "select id::text from realtime.messages order by inserted_at desc limit 1"
        )
    }


async def test_nothing_is_heard_on_any_node_before_its_commit_nor_after_a_rollback(
    todos: str, serve: Serve, sender: asyncpg.Connection
) -> None:
    server, another = await serve(todos), await serve(todos)
    other = await asyncpg.connect(todos)
    async with listening(server) as here, listening(another) as there:
        listeners = [*here, *there]
        for one in listeners:
            await one.join(replication_ready=True)
            await one.client.hears(TOPIC, "system", READY, None)
        transaction = sender.transaction()
        await transaction.start()
        await sender.execute("select realtime.send('{}', 'first written', 'room')")
        await other.execute("select realtime.send('{}', 'first committed', 'room')")
        for one in listeners:
            assert (await one.hears()).event == "first committed"
        await transaction.commit()
        transaction = sender.transaction()
        await transaction.start()
        await sender.execute("select realtime.send('{}', 'never', 'room')")
        await transaction.rollback()
        await other.execute("select realtime.send('{}', 'last', 'room')")
        for one in listeners:
            assert [(await one.hears()).event for _ in range(2)] == ["first written", "last"]
    await other.close()


async def test_cases_59_and_60_a_replay_has_the_newest_in_the_order_of_their_transactions(
    todos: str, serve: Serve, sender: asyncpg.Connection
) -> None:
    server = await serve(todos)
    other = await asyncpg.connect(todos)
    begun = int(time.time() * 1000) - 60_000
    await sender.execute(
        "insert into realtime.messages (topic, extension, event, payload, private, inserted_at) values"
        " ('room', 'broadcast', 'too old', '{}', true, now() at time zone 'utc' - interval '2 minutes'),"
        " ('room', 'presence', 'of presence', '{}', true, default),"
        " ('room', 'broadcast', 'public', '{}', false, default),"
        " ('another', 'broadcast', 'of another', '{}', true, default)"
    )
    async with other.transaction():
        await other.execute("select realtime.send('{\"b\": 1, \"a\": 2}', 'long 1', 'room')")
        await sender.execute("select realtime.send('{}', 'short', 'room')")
        await other.execute("select realtime.send_binary('\\x00ff', 'long 2', 'room')")
        await other.execute("select realtime.send('[1]', 'long 3', 'room')")
    await sender.execute(
        "insert into realtime.messages (topic, extension, event, payload, private)"
        " select 'room', 'broadcast', 'last ' || n, '{}', true from generate_series(1, 20) as n"
    )
    await other.close()
    async with listening(server) as (older, newer):
        await newer.join(replay={"since": begun, "limit": 25})
        heard = [await newer.hears() for _ in range(24)]
        assert [one.event for one in heard] == [
            *("short", "long 1", "long 2", "long 3"),
            *(f"last {n}" for n in range(1, 21)),
        ]
        ids = [row[0] for row in await sender.fetch("select id::text from realtime.messages")]
        assert all(one.meta["replayed"] is True and one.meta["id"] in ids for one in heard)
        assert {one.join_ref for one in heard} == {"11", None}
        assert heard[2] == Heard("long 2", b"\x00\xff", heard[2].meta)
        assert heard[1].payload == {"a": 2, "b": 1, "id": heard[1].meta["id"]}
        await newer.client.hears_nothing()

        await older.join(replay={"since": begun, "limit": 22})
        assert [(await older.hears()).event for _ in range(2)] == ["long 3", "last 1"]
        for _ in range(19):
            assert (await older.hears()).join_ref is None
        await older.client.hears_nothing()

        # The live ones follow, by nobody's reference.
        await sender.execute("select realtime.send('{}', 'live', 'room')")
        for one in (older, newer):
            heard = [await one.hears()]
            assert (heard[0].event, list(heard[0].meta), heard[0].join_ref) == ("live", ["id"], None)


async def test_case_61_a_replay_that_cannot_be_had_refuses_the_join(
    todos: str, serve: Serve, sender: asyncpg.Connection
) -> None:
    server = await serve(todos)
    invalid = "UnableToReplayMessages: Replay params are not valid"
    async with listening(server) as listeners:
        for one in listeners:
            wrong: list[Any] = [{}, {"since": "x"}, {"since": 1, "limit": "1"}, {"since": 10**17}]
            for replay in wrong:
                await one.is_refused(invalid, replay=replay)
            await one.is_refused(
                "UnableToReplayMessages: Replay is not allowed for public channels",
                private=False,
                replay={"since": 1},
            )
        await sender.execute("alter table realtime.messages rename column binary_payload to theirs")
        for one in listeners:
            await one.is_refused(
                "UnableToReplayMessages: Realtime was unable to replay messages", replay={"since": 1}
            )
            # Nothing is left of it.
            await one.join()
            await one.client.hears_nothing()


def stored(event: str, *, raw: bool = False) -> Message:
    return Message(f"id of {event}", "room", True, event, b"\x00" if raw else b"{}", raw)


@contextlib.asynccontextmanager
async def shelved(*kept: Message) -> AsyncIterator[tuple[Running, Shelf]]:
    async with running() as server:
        shelf = Shelf(list(kept))
        services = server.app.state.services
        door = Door(Allowed(True, True))
        server.app.state.services = dataclasses.replace(services, channels=door, stored=shelf)
        yield server, shelf


@both
async def test_case_62_what_was_replayed_is_not_sent_again_and_what_came_meanwhile_follows_it(
    version: Version,
) -> None:
    async with shelved(stored("first"), stored("second")) as (server, shelf):
        publish = Messages(server.app.state.services.topics, "realtime:", 1000).publish
        async with opened(server, version) as client:
            listener = Listener(client.connection, version)
            joining = asyncio.create_task(listener.join(replay={"since": 1}))
            await asyncio.wait_for(shelf.asked.wait(), PATIENCE)
            publish(stored("second"))
            publish(stored("third"))
            publish(stored("bytes", raw=True))
            shelf.answers.set()
            await joining
            publish(stored("first"))
            publish(stored("third, sent anew"))
            events = ["first", "second", "third", *(["bytes"] if version is Version.V2 else [])]
            heard = [await listener.hears() for _ in range(len(events) + 1)]
            assert [one.event for one in heard] == [*events, "third, sent anew"]
            assert [one.meta.get("replayed", False) for one in heard] == [
                one.event in ("first", "second") for one in heard
            ]


@both
async def test_who_is_refused_or_gone_during_a_replay_leaves_nothing_behind(version: Version) -> None:
    async with shelved() as (server, shelf):
        topics = server.app.state.services.topics
        async with opened(server, version) as client:
            listener = Listener(client.connection, version)
            shelf.failures.append(ChannelUnavailable("UnableToReplayMessages", "no"))
            shelf.answers.set()
            await listener.is_refused("UnableToReplayMessages: no", replay={"since": 1})
            Messages(topics, "realtime:", 1000).publish(stored("unheard"))
            assert topics.sent == 0
            shelf.asked.clear()
            shelf.answers.clear()
            await client.say(
                TOPIC, "phx_join", {"config": {"private": True, "broadcast": {"replay": {"since": 1}}}}
            )
            await asyncio.wait_for(shelf.asked.wait(), PATIENCE)
        shelf.answers.set()
        async with opened(server, version) as client:
            # Its server has ended what the other one began, by then.
            await client.hears_nothing()
        Messages(topics, "realtime:", 1000).publish(stored("unheard"))
        assert topics.sent == 0


@both
async def test_case_30_who_asks_is_told_once_the_databases_messages_are_certain(version: Version) -> None:
    async with running() as server, opened(server, version) as client, opened(server, version) as other:
        wants = {"config": {"broadcast": {"replication_ready": True}}}
        await client.join(TOPIC, wants)
        await other.join(TOPIC, {"config": {}})
        await client.hears_nothing()
        server.feed.certain.set()
        await client.hears(TOPIC, "system", READY, None)
        await other.hears_nothing()
        # Also when it is certain already.
        await other.join("realtime:another", wants)
        await other.hears("realtime:another", "system", READY | {"channel": "another"}, None)


@both
async def test_who_was_not_told_in_time_is_sent_away(version: Version) -> None:
    async with running() as server:
        services = server.app.state.services
        server.app.state.services = dataclasses.replace(services, ready_seconds=0.0)
        async with opened(server, version) as client:
            await client.join(TOPIC, {"config": {"broadcast": {"replication_ready": "true"}}})
            text = "Replication connection was not established in time"
            await client.hears(TOPIC, "system", READY | {"message": text, "status": "error"}, None)
            await client.hears(TOPIC, "phx_close", {}, "11")
