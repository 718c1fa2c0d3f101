"""What SQL sends, and its replay, as the official clients have it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from support import databases
from support.official import OFFICIAL, Driven, drive
from support.server import Server

pytestmark = pytest.mark.anyio

CONFIG = {"broadcast": {"replication_ready": True, "replay": {"since": 1, "limit": 1}}}


async def joined(client: Driven, server: Server) -> None:
    await client.connect(server.url, server.token())
    events = ["e", "bytes", "UPDATE"]
    await client.tell("subscribe", channel="room", private=True, config=CONFIG, hears=events)
    await client.event("system", channel="room", payload={"message": "Replication connection established"})


async def heard(client: Driven, name: str) -> tuple[Any, dict[str, Any]]:
    event = await client.event("broadcast", channel="room", name=name)
    return event["payload"], {key: value for key, value in event["meta"].items() if value is not None}


async def test_every_client_hears_what_sql_sends_and_what_it_sent_before(
    todos: str, serve: Callable[..., Awaitable[Server]]
) -> None:
    databases.execute(
        todos,
        """
        create policy room on realtime.messages for select to anon using (realtime.topic() = 'room');
        create function tell() returns trigger language plpgsql as $$
        begin
          perform realtime.broadcast_changes('room', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
          return null;
        end $$;
        create trigger tell after update on todos for each row execute function tell();
        insert into todos values (1, 'a');
        """,
    )
    server = await serve(todos)
    sender = await asyncpg.connect(todos)
    await sender.execute("select realtime.send('{\"n\": 0}', 'e', 'room')")
    before = await sender.fetchval("select id::text from realtime.messages")
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(drive(official)) for official in OFFICIAL]
        await asyncio.gather(*(joined(client, server) for client in clients))
        await sender.execute("select realtime.send('{\"n\": 1}', 'e', 'room')")
        await sender.execute("select realtime.send_binary('\\x0102ff', 'bytes', 'room')")
        await sender.execute("update todos set task = 'b'")
        rows = await sender.fetch("select id::text from realtime.messages order by inserted_at")
        ids = [row[0] for row in rows]
        for client in clients:
            assert await heard(client, "e") == ({"id": before, "n": 0}, {"id": before, "replayed": True})
            assert await heard(client, "e") == ({"id": ids[1], "n": 1}, {"id": ids[1]})
            change, meta = await heard(client, "UPDATE")
            tasks = [change[image]["task"] for image in ("record", "old_record")]
            assert (tasks, meta) == (["b", "a"], {"id": ids[3]})
            if client.official.vsn == "2.0.0":
                assert await heard(client, "bytes") == ({"bytes": "0102ff"}, {"id": ids[2]})
    await sender.close()
