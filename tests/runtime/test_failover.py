"""A Postgres that goes away under a running server: stopped, crashed, or replaced by its standby.

Clients stay connected. Where the history is the same they miss nothing and do nothing; where a standby took
over, their channels end with ``phx_error``, and they join again on the same socket.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from rowcast.dev.postgres import Postgres
from rowcast.session.channel import AWAY, BACK
from support import databases
from support.server import Server
from support.standbys import promote, standby_of
from support.tokens import make_token
from support.waiting import until, until_so

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

Cluster = Callable[..., Postgres]
Serve = Callable[..., Awaitable[Server]]
TABLE = """
create table todos (id int primary key);
grant select on todos to anon;
alter publication supabase_realtime add table todos;
"""


class Client:
    """One socket with one channel."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._joins = socket, 0
        self._seen: list[tuple[str, dict[str, Any]]] = []
        self.answered = asyncio.Event()

    async def join(self) -> None:
        """Join, and wait until changes are certain to come."""
        self._joins += 1
        changes = [{"event": "*", "table": "todos"}]
        config = {"config": {"postgres_changes": changes, "rowcast": {"health": True}}}
        ref = str(self._joins)
        await self._socket.send(json.dumps([ref, ref, "realtime:todos", "phx_join", config]))
        while "Subscribed to PostgreSQL" not in (await self.event("system"))["message"]:
            pass

    async def event(self, name: str) -> dict[str, Any]:
        """The payload of the next message of that name. Others are kept."""
        async with asyncio.timeout(60):
            while True:
                for number, (event, payload) in enumerate(self._seen):
                    if event == name:
                        del self._seen[number]
                        return payload
                *_, event, payload = json.loads(await self._socket.recv())
                self._seen.append((event, payload))
                if event == "phx_reply":
                    self.answered.set()

    async def hears(self, *ids: int) -> bool:
        """Whether the next changes are of these rows."""
        changes = [await self.event("postgres_changes") for _ in ids]
        return [change["data"]["record"]["id"] for change in changes] == list(ids)


@contextlib.asynccontextmanager
async def joined(server: Server) -> AsyncIterator[Client]:
    """A client that hears the changes of todos."""
    async with connect(f"{server.websocket}?apikey={make_token()}&vsn=2.0.0") as socket:
        client = Client(socket)
        await client.join()
        yield client


async def until_ready(server: Server, code: int, says: str = "") -> None:
    """Wait for what ``/readyz`` answers."""

    async def answered() -> bool:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{server.url}/readyz")
        return answer.status_code == code and says in answer.text

    await until(answered)


def insert(postgres: Postgres, number: int) -> None:
    databases.execute(postgres.dsn, f"insert into todos values ({number})")


@pytest.mark.parametrize("end", [Postgres.stop, Postgres.kill], ids=["stopped", "crashed"])
async def test_clients_stay_and_hear_what_is_written_once_it_is_back(
    cluster: Cluster, serve: Serve, end: Callable[[Postgres], None]
) -> None:
    postgres = cluster()
    server = await serve(postgres.dsn)
    databases.execute(postgres.dsn, TABLE)
    async with joined(server) as client:
        insert(postgres, 1)
        assert await client.hears(1)
        await asyncio.to_thread(end, postgres)
        await until_ready(server, 503)
        assert (await client.event("system"))["message"] == AWAY
        async with connect(f"{server.websocket}?apikey={make_token()}&vsn=2.0.0") as socket:
            late = Client(socket)
            joining = asyncio.create_task(late.join())
            await late.answered.wait()
            await asyncio.to_thread(postgres.start)
            await joining
            insert(postgres, 2)
            assert await late.hears(2)
        assert (await client.event("system"))["message"] == BACK
        assert await client.hears(2)
    await until_ready(server, 200)


async def test_of_two_hosts_the_standby_is_followed_once_it_is_promoted(
    cluster: Cluster, serve: Serve
) -> None:
    postgres = cluster()
    standby = await asyncio.to_thread(standby_of, postgres)
    try:
        await asyncio.to_thread(standby.start)
        one, other = f"127.0.0.1:{postgres.port}", f"127.0.0.1:{standby.port}"
        # The standby comes first, and is passed over.
        server = await serve(postgres.dsn.replace(one, f"{other},{one}"))
        databases.execute(postgres.dsn, TABLE)
        async with joined(server) as client:
            insert(postgres, 1)
            assert await client.hears(1)
            connection = await asyncpg.connect(standby.dsn)
            await until_so(connection, "select to_regclass('todos') is not null")
            await connection.close()
            await asyncio.to_thread(postgres.kill)
            await until_ready(server, 503)
            await asyncio.to_thread(promote, standby)
            await goes_on(client, standby)
        await until_ready(server, 200)
    finally:
        standby.discard()


async def test_a_standby_that_takes_the_address_is_refused_until_it_is_promoted(
    cluster: Cluster, serve: Serve
) -> None:
    postgres = cluster()
    server = await serve(postgres.dsn)
    databases.execute(postgres.dsn, TABLE)
    async with joined(server) as client:
        insert(postgres, 1)
        assert await client.hears(1)
        standby = await asyncio.to_thread(standby_of, postgres, port=postgres.port)
        try:
            await asyncio.to_thread(postgres.kill)
            await asyncio.to_thread(standby.start)
            await until_ready(server, 503, "is a standby")
            await asyncio.to_thread(promote, standby)
            await goes_on(client, standby)
            await until_ready(server, 200)
        finally:
            standby.discard()


async def goes_on(client: Client, postgres: Postgres) -> None:
    """The client's channel ends, and joins again: another history has begun."""
    await client.event("phx_error")
    await client.join()
    insert(postgres, 2)
    assert await client.hears(2)
