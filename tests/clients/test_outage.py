"""The official clients while the database is away: they stay connected, and need to do nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from rowcast.dev.postgres import Postgres
from support import databases
from support.official import OFFICIAL, Driven, binding, drive, rows
from support.server import Server

pytestmark = pytest.mark.timeout(240)

TABLE = """
create table todos (id int primary key);
grant select on todos to anon;
alter publication supabase_realtime add table todos;
"""


async def ids(client: Driven, channel: str, count: int) -> list[int]:
    """The rows of the next changes."""
    return [new["id"] for _, new, _ in rows(await client.changes(channel, count))]


async def test_channels_go_on_when_it_is_back_those_that_were_joined_meanwhile_too(
    cluster: Callable[..., Postgres], serve: Callable[..., Awaitable[Server]]
) -> None:
    postgres = cluster()
    server = await serve(postgres.dsn)
    databases.execute(postgres.dsn, TABLE)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(drive(official)) for official in OFFICIAL]
        for client in clients:
            await client.connect(server.url, server.token())
            await client.subscribe("room", binding())
        databases.execute(postgres.dsn, "insert into todos values (1)")
        for client in clients:
            assert await ids(client, "room", 1) == [1]
            # What it says of its subscription from here on would be about the outage.
            await client.event("status", channel="room")
        await asyncio.to_thread(postgres.stop)
        for client in clients:
            await client.tell("subscribe", channel="late", bindings=[binding()])
            await client.event("status", channel="late", status="SUBSCRIBED")
        await asyncio.to_thread(postgres.start)
        for client in clients:
            await client.ready("late")
        databases.execute(postgres.dsn, "insert into todos values (2)")
        for client in clients:
            assert await ids(client, "room", 1) == [2]
            assert await ids(client, "late", 1) == [2]
            told = [event for event in client.seen if event["event"] in ("status", "error", "closed")]
            assert told == [], client.official.name
