"""A stage: a server with a database of its own, where conversations are had one after the other.

What a test leaves behind in its tables is its own affair, but not what it wrote: before the next begins,
everything written so far has been sent. So nothing has to wait for time.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from websockets.asyncio.client import ClientConnection, connect

from rowcast.protocol.messages import Version
from support.server import Server
from support.tokens import make_token
from transcripts.frames import OK, POSITION, Change, Told, frame, mismatch, read

both = pytest.mark.parametrize("version", list(Version), ids=str)
PATIENCE = 30

# Both witnesses hear of `fences.fence`, which no other role may read: not even a binding to everything.
_FENCE = """
create schema fences;
create table fences.fence (id int generated always as identity primary key, word text);
grant usage on schema fences to service_role;
grant select on fences.fence to service_role;
alter publication supabase_realtime add table fences.fence;
"""
TABLES = """
create type mood as enum ('sad', 'ok', 'happy');
create table alltypes (
  id int8 primary key, big int8, num numeric, txt text, flag bool, ts timestamptz, tsn timestamp, d date,
  tm time, iv interval, j jsonb, jj json, u uuid, tags text[], nums int4[], raw bytea, m mood, ms mood[],
  f8 float8, f4 float4, vc varchar, i2 int2, ip inet, rng int4range, pt point);
create table fullident (id int primary key, body text, n numeric);
alter table fullident replica identity full;
create table notpub (id int primary key);
grant select on alltypes, fullident, notpub to anon;
alter publication supabase_realtime add table alltypes, fullident;
"""


class Client:
    """One socket. It hears every frame in its order, and compares each with what is expected."""

    def __init__(self, connection: ClientConnection, version: Version, ids: dict[str, int]) -> None:
        self.connection, self.version, self._ids = connection, version, ids
        self.joined: dict[str, tuple[str, list[int]]] = {}

    async def say(
        self, topic: str, event: str, payload: Any, ref: str | None = "1", join_ref: str | None = "1"
    ) -> None:
        named = {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": join_ref}
        listed = [join_ref, ref, topic, event, payload]
        await self.connection.send(json.dumps(named if self.version is Version.V1 else listed))

    async def hear(self) -> Any:
        """The next frame, as JSON."""
        return read(str(await asyncio.wait_for(self.connection.recv(), PATIENCE)))

    async def hears(self, topic: str, event: str, payload: Any, ref: str | None, join_ref: str | None) -> Any:
        """Assert what comes next; its payload."""
        said = await self.hear()
        fault = mismatch(said, frame(self.version, topic, event, payload, ref, join_ref))
        assert fault is None, f"{fault} in {said}"
        return said["payload"] if self.version is Version.V1 else said[4]

    async def join(self, topic: str, *entries: Any, ref: str = "1", **payload: Any) -> list[int]:
        """Join with these entries of `postgres_changes`, and assert the reply; the ids of its entries.

        Equal parameters have equal ids on every socket, others others.
        """
        config = {"postgres_changes": list(entries)}
        await self.say(topic, "phx_join", {"config": config, **payload}, ref, ref)
        said = await self.hear()
        listed = (said["payload"] if self.version is Version.V1 else said[4])["response"]["postgres_changes"]
        ids = [entry["id"] for entry in listed]
        kept = [entry for entry in entries if entry is not None]
        echo = [
            {"id": number, **dict(sorted(entry.items()))} for number, entry in zip(ids, kept, strict=True)
        ]
        reply = {"status": "ok", "response": {"postgres_changes": echo}}
        fault = mismatch(said, frame(self.version, topic, "phx_reply", reply, ref, ref))
        assert fault is None, f"{fault} in {said}"
        for number, entry in zip(ids, kept, strict=True):
            assert self._ids.setdefault(json.dumps(entry, sort_keys=True), number) == number
        assert len(set(self._ids.values())) == len(self._ids)
        self.joined[topic] = (ref, ids)
        return ids

    async def subscribe(self, topic: str, *entries: Any, ref: str = "1") -> list[int]:
        """The same, and assert that all of them took."""
        ids = await self.join(topic, *entries, ref=ref)
        await self.hears_event(topic, OK)
        return ids

    async def hears_event(self, topic: str, event: Change | Told) -> Any:
        """Assert that this comes next on a channel; its payload."""
        join_ref, ids = self.joined[topic]
        if isinstance(event, Change):
            return await self.hears(topic, "postgres_changes", event.payload(ids), None, None)
        name = topic.removeprefix("realtime:")
        return await self.hears(topic, "system", event.payload(name), None, join_ref)

    async def hears_nothing(self, *, listening: bool) -> None:
        """Assert that nothing has come: the answer to a heartbeat is next.

        ``listening`` says that a channel of this socket is subscribed; the answer has a position then.
        """
        await self.say("phoenix", "heartbeat", {}, "beat", None)
        response = {"position": POSITION} if listening else {}
        await self.hears("phoenix", "phx_reply", {"status": "ok", "response": response}, "beat", None)

    async def rows(self, topic: str) -> list[tuple[str, Any]]:
        """What changes have come: the operation and the `id` of the row of each."""
        found: list[tuple[str, Any]] = []
        await self.say("phoenix", "heartbeat", {}, "beat", None)
        while True:
            said = await self.hear()
            _, ref, from_, event, payload = (
                (None, said["ref"], said["topic"], said["event"], said["payload"])
                if self.version is Version.V1
                else said
            )
            if ref == "beat":
                return found
            assert (from_, event) == (topic, "postgres_changes")
            data = payload["data"]
            found.append((data["type"], data.get("record", data.get("old_record"))["id"]))


class Stage:
    """A running server and its database. Conversations are had one at a time."""

    def __init__(self, server: Server, database: asyncpg.Connection) -> None:
        self.server, self.database = server, database
        self._witnesses: list[Client] = []
        self._ids: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def client(
        self, version: Version = Version.V2, role: str = "anon", **claims: Any
    ) -> AsyncIterator[Client]:
        """A socket with a token for a role, and with these claims."""
        address = f"{self.server.websocket}?apikey={make_token(role, **claims)}&vsn={version}"
        async with connect(address, max_size=None) as connection:
            yield Client(connection, version, self._ids)

    async def run(self, *statements: str) -> None:
        """Run SQL, each text as one transaction."""
        for statement in statements:
            await self.database.execute(statement)

    async def settle(self) -> None:
        """Return when all that was written before this call has been sent."""
        number = await self.database.fetchval(
            "insert into fences.fence (word) values ('here') returning id", timeout=PATIENCE
        )
        for witness in self._witnesses:
            while (await witness.hear())[4]["data"]["record"]["id"] != number:
                pass

    async def summon(self, stack: contextlib.AsyncExitStack) -> None:
        """Have two witnesses: those whose filters Postgres judges hear of a change later than others."""
        for filter_ in ("", "word=like.%"):
            witness = await stack.enter_async_context(self.client(role="service_role"))
            entry = {"event": "INSERT", "schema": "fences", "table": "fence", "filter": filter_}
            await witness.subscribe("realtime:fence", entry)
            self._witnesses.append(witness)


@contextlib.asynccontextmanager
async def open_stage(
    database: str, log: Path, sql: Sequence[str] = (TABLES,), **settings: str
) -> AsyncIterator[Stage]:
    """A stage on a migrated database, where this SQL was run first; ``settings`` are the server's."""
    async with contextlib.AsyncExitStack() as stack:
        connection = await asyncpg.connect(database)
        stack.push_async_callback(connection.close)
        for statement in (_FENCE, *sql):
            await connection.execute(statement)
        server = Server(database, log, settings)
        stack.push_async_callback(server.end)
        await server.start()
        stage = Stage(server, connection)
        await stage.summon(stack)
        yield stage
