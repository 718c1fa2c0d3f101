"""The real server over real sockets: handshakes, joins, changes, and its end."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from rowcast.session.connection import SUBSCRIBED
from support.server import Server

pytestmark = pytest.mark.anyio

QUICK = {"ROWCAST_HANDSHAKE_DELAY": "0", "ROWCAST_REFUSAL_DELAY": "0"}
TABLES = """
create table notes (id int primary key, body text);
grant select on notes to anon;
create table secrets (id int primary key);
create table guarded (id int primary key);
alter table guarded enable row level security;
grant select on guarded to anon, service_role;
alter publication supabase_realtime add table notes, secrets, guarded;
"""
Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
async def notes(migrated: str, serve: Serve) -> tuple[Server, asyncpg.Connection]:
    """A server, and a connection to its database."""
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLES)
    return await serve(migrated, **QUICK), connection


@pytest.fixture(autouse=True)
async def _closed(notes: tuple[Server, asyncpg.Connection]) -> AsyncIterator[None]:
    yield
    await notes[1].close()


class Socket:
    """A client of either version that speaks for itself."""

    def __init__(self, connection: ClientConnection, version: str) -> None:
        self.connection, self._version = connection, version

    async def say(self, topic: str, event: str, payload: Any, ref: str | None = "1") -> None:
        if self._version == "2.0.0":
            message: Any = [ref, ref, topic, event, payload]
        else:
            message = {"topic": topic, "event": event, "payload": payload, "ref": ref}
        await self.connection.send(json.dumps(message))

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(20):
            value = json.loads(await self.connection.recv())
        if isinstance(value, list):
            value = dict(zip(("join_ref", "ref", "topic", "event", "payload"), value, strict=True))
        assert isinstance(value, dict)
        return value

    async def join(
        self, *entries: dict[str, Any], topic: str = "realtime:notes", **more: Any
    ) -> dict[str, Any]:
        """Join, and return what is heard after the reply."""
        await self.say(topic, "phx_join", {"config": {"postgres_changes": list(entries)}, **more})
        reply = await self.hear()
        assert reply["payload"]["status"] == "ok", reply
        return await self.hear()


@contextlib.asynccontextmanager
async def opened(
    server: Server, role: str = "anon", version: str = "2.0.0", path: str = "/realtime/v1", **claims: Any
) -> AsyncIterator[Socket]:
    """A connection with a token for ``role``."""
    address = f"ws://127.0.0.1:{server.port}{path}/websocket?apikey={server.token(role, **claims)}"
    async with connect(address if version == "1.0.0" else f"{address}&vsn={version}") as connection:
        yield Socket(connection, version)


ALL = {"event": "*", "schema": "public", "table": "notes"}
Notes = tuple[Server, asyncpg.Connection]


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
@pytest.mark.parametrize("path", ["/realtime/v1", "/socket"])
async def test_an_insert_an_update_and_a_delete_arrive_as_the_protocol_has_them(
    notes: Notes, version: str, path: str
) -> None:
    server, database = notes
    async with opened(server, version=version, path=path) as socket:
        told = await socket.join(ALL)
        assert told["payload"]["message"] == SUBSCRIBED
        assert told["payload"]["position"]
        await database.execute("insert into notes values (1, 'a')")
        await database.execute("update notes set body = 'b'")
        await database.execute("delete from notes")
        inserted, updated, deleted = [await socket.hear() for _ in range(3)]
    assert (inserted["ref"], inserted.get("join_ref"), inserted["event"]) == (None, None, "postgres_changes")
    data = inserted["payload"]["data"]
    assert list(data) == [
        "table", "type", "record", "columns", "errors", "schema", "commit_timestamp", "seq", "position"
    ]  # fmt: skip
    assert data["record"] == {"id": 1, "body": "a"}
    assert data["columns"] == [{"name": "id", "type": "int4"}, {"name": "body", "type": "text"}]
    assert data["errors"] is None
    assert data["commit_timestamp"].endswith("Z")
    assert len(data["commit_timestamp"]) == len("2026-03-01T10:20:30.123Z")
    assert updated["payload"]["data"]["old_record"] == {"id": 1}
    assert updated["payload"]["data"]["record"] == {"id": 1, "body": "b"}
    assert "record" not in deleted["payload"]["data"]
    assert deleted["payload"]["data"]["old_record"] == {"id": 1}
    assert inserted["payload"]["ids"] == deleted["payload"]["ids"]


async def test_a_change_that_matches_several_entries_comes_once_with_all_their_ids(notes: Notes) -> None:
    server, database = notes
    entries = [
        ALL,
        {"event": "INSERT", "schema": "public"},
        {"event": "DELETE", "table": "notes"},
        {**ALL, "schema": "*"},
    ]
    async with opened(server) as socket:
        await socket.say("realtime:notes", "phx_join", {"config": {"postgres_changes": entries}})
        ids = [entry["id"] for entry in (await socket.hear())["payload"]["response"]["postgres_changes"]]
        assert (await socket.hear())["payload"]["message"] == SUBSCRIBED
        await database.execute("insert into notes values (1, 'a')")
        assert (await socket.hear())["payload"]["ids"] == [ids[0], ids[1], ids[3]]


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
async def test_a_channel_that_joined_the_old_way_hears_operations_as_events(
    notes: Notes, version: str
) -> None:
    server, database = notes
    topic = "realtime:public:notes"
    async with opened(server, version=version) as socket:
        await socket.say(topic, "phx_join", {"user_token": server.token()})
        (entry,) = (await socket.hear())["payload"]["response"]["postgres_changes"]
        assert list(entry) == ["id", "schema", "table"]
        assert (await socket.hear())["payload"]["message"] == SUBSCRIBED
        await database.execute("insert into notes values (1, 'a')")
        await database.execute("delete from notes")
        inserted, deleted = await socket.hear(), await socket.hear()
    assert [heard["event"] for heard in (inserted, deleted)] == ["INSERT", "DELETE"]
    assert (inserted["topic"], inserted["ref"], inserted.get("join_ref")) == (topic, None, None)
    assert inserted["payload"]["record"] == {"id": 1, "body": "a"}
    assert "ids" not in inserted["payload"]


@pytest.mark.parametrize(
    ("table", "role", "text"),
    [
        ("secrets", "anon", "GRANT SELECT ON public.secrets TO anon;"),
        ("notes", "postgres", "ROWCAST_ROLES"),
        ("missing", "anon", "Please check Realtime is enabled"),
    ],
)
async def test_what_may_not_be_read_is_refused_with_its_remedy_and_sends_nothing(
    notes: Notes, table: str, role: str, text: str
) -> None:
    server, database = notes
    async with opened(server, role) as socket:
        told = await socket.join({"event": "*", "schema": "public", "table": table})
        assert told["payload"]["status"] == "error"
        assert text in told["payload"]["message"]
        await database.execute("insert into secrets values (1); insert into guarded values (1)")
        await database.execute("insert into notes values (1, 'a')")
        await socket.say("phoenix", "heartbeat", {}, "9")
        assert (await socket.hear())["event"] == "phx_reply"


async def test_rights_that_are_taken_away_end_the_changes_until_they_are_given_back(notes: Notes) -> None:
    server, database = notes
    async with opened(server) as socket, opened(server, "service_role") as other:
        await database.execute("grant select on notes to service_role")
        assert (await socket.join(ALL))["payload"]["status"] == "ok"
        assert (await other.join(ALL))["payload"]["status"] == "ok"
        await database.execute("insert into notes values (1, 'seen')")
        assert (await socket.hear())["payload"]["data"]["record"]["id"] == 1
        # A change is judged by rights no older than itself: each is awaited before rights change again.
        assert (await other.hear())["payload"]["data"]["record"]["id"] == 1
        await database.execute("revoke select on notes from anon")
        await database.execute("insert into notes values (2, 'hidden')")
        assert (await other.hear())["payload"]["data"]["record"]["id"] == 2
        await database.execute("grant select on notes to anon")
        await database.execute("alter table notes enable row level security")
        # Without a policy no row is for anybody.
        await database.execute("insert into notes values (3, 'guarded')")
        assert (await other.hear())["payload"]["data"]["record"]["id"] == 3
        await socket.say("phoenix", "heartbeat", {}, "9")
        # It may have been told of its table by then; it was sent no change.
        while (heard := await socket.hear())["event"] == "system":
            assert heard["payload"]["extension"] == "postgres_changes"
        assert heard["event"] == "phx_reply"


@pytest.mark.parametrize(
    ("query", "status", "error"),
    [
        ("", 401, "API key is missing"),
        ("?apikey=garbage", 401, "The token provided is not a valid JWT"),
        ("?apikey={wrong}", 401, "Failed to validate JWT signature"),
        ("?apikey={expired}", 401, "Token has expired"),
        ("?apikey={good}&vsn=9.0.0", 403, None),
    ],
)
async def test_a_refused_handshake_says_why(notes: Notes, query: str, status: int, error: str | None) -> None:
    server, _ = notes
    query = query.format(
        wrong=server.token(secret="another-secret-of-at-least-32-bytes!"),
        expired=server.token(lifetime=-60),
        good=server.token(),
    )
    with pytest.raises(websockets.InvalidStatus) as refusal:
        async with connect(server.websocket + query):
            pass
    assert refusal.value.response.status_code == status
    body = refusal.value.response.body
    assert (json.loads(body) if body else None) == (None if error is None else {"error": error})


async def test_the_header_with_the_key_goes_before_the_query(notes: Notes) -> None:
    server, _ = notes
    async with connect(f"{server.websocket}?apikey=bad", additional_headers={"x-api-key": server.token()}):
        pass


async def test_malformed_frames_are_ignored_and_the_connection_kept(notes: Notes) -> None:
    server, _ = notes
    async with opened(server) as socket:
        for frame in ("this is not json", '{"a":1}', "[1]", "", b"\x00\x01\x02\xff", "[" * 10_000):
            await socket.connection.send(frame)
        await socket.say("phoenix", "heartbeat", {}, "9")
        assert (await socket.hear())["payload"] == {"status": "ok", "response": {}}


async def test_a_token_that_expires_closes_its_channel(notes: Notes) -> None:
    server, _ = notes
    async with opened(server) as socket:
        await socket.say("realtime:x", "phx_join", {"config": {}, "access_token": server.token(lifetime=2)})
        assert (await socket.hear())["payload"]["status"] == "ok"
        told, closed = await socket.hear(), await socket.hear()
        assert told["payload"]["message"].startswith("Token has expired")
        assert closed["event"] == "phx_close"


async def test_sigterm_closes_sockets_with_1012_and_ends_cleanly(notes: Notes) -> None:
    server, _ = notes
    async with opened(server) as socket:
        await socket.join(ALL)
        assert await server.stop() == 0
        with pytest.raises(websockets.ConnectionClosed):
            await socket.connection.recv()
        assert socket.connection.close_code == 1012


async def test_no_key_is_ever_logged(notes: Notes) -> None:
    server, _ = notes
    token = server.token()
    async with connect(f"{server.websocket}?apikey={token}"):
        pass
    with contextlib.suppress(websockets.InvalidStatus):
        async with connect(f"{server.websocket}?apikey={token}x"):
            pass
    await server.stop()
    assert token.split(".")[1] not in server.printed()
    assert "apikey" not in server.printed()


async def test_two_servers_of_one_database_started_at_once_both_deliver(database: str, serve: Serve) -> None:
    servers = await asyncio.gather(serve(database, **QUICK), serve(database, **QUICK))
    connection = await asyncpg.connect(database)
    await connection.execute(TABLES)
    async with opened(servers[0]) as first, opened(servers[1]) as second:
        for socket in (first, second):
            assert (await socket.join(ALL))["payload"]["message"] == SUBSCRIBED
        await connection.execute("insert into notes values (1, 'both')")
        heard = [(await socket.hear())["payload"]["data"] for socket in (first, second)]
        assert [data["record"]["id"] for data in heard] == [1, 1]
        assert heard[0]["seq"] == heard[1]["seq"]
    await connection.close()
