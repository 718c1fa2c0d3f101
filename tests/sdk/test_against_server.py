"""The client against the real server and a real Postgres."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from rowcast_client import AuthError, Change, JoinError, RetryPolicy, create_client
from support.heard import take, write

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


async def test_insert_update_and_delete_arrive_and_go_on_after_a_restart(server: Any) -> None:
    changes: asyncio.Queue[Change] = asyncio.Queue(100)
    async with create_client(server.url, server.token, retry=RetryPolicy(first=0.02, cap=0.1)) as client:
        channel = client.channel("todos").on("postgres_changes", changes.put, table="todos")
        await channel.subscribe()
        await write(
            server.database,
            "insert into todos (id, task) values (1, 'milk')",
            "update todos set done = true where id = 1",
            "delete from todos where id = 1",
        )
        insert, update, delete = await take(changes, 3)
        assert [change.eventType for change in (insert, update, delete)] == ["INSERT", "UPDATE", "DELETE"]
        assert insert.new == {"id": 1, "task": "milk", "done": False}
        assert (update.new["done"], update.old, delete.old) == (True, {"id": 1}, {"id": 1})
        assert all(change.seq and change.position and change.commit_timestamp for change in (insert, update))
        await server.stop()
        await client.wait_until("reconnecting", timeout=20)
        await server.start()
        await channel.subscribe()
        await write(server.database, "insert into todos (id, task) values (2, 'bread')")
        (after,) = await take(changes, 1)
        assert after.new["task"] == "bread"


async def test_a_binding_without_schema_means_public(server: Any) -> None:
    changes: asyncio.Queue[Change] = asyncio.Queue(100)
    async with create_client(server.url, server.token) as client:
        channel = client.channel("todos").on("postgres_changes", {"table": "todos"}, changes.put)
        await channel.subscribe()
        await write(server.database, "insert into todos (id, task) values (1, 'milk')")
        (insert,) = await take(changes, 1)
        assert (insert["schema"], insert["new"]["task"]) == ("public", "milk")


async def test_a_wrong_key_is_an_auth_error(server: Any) -> None:
    async with create_client(server.url, "not-a-token") as client:
        with pytest.raises(AuthError):
            await client.channel("todos").subscribe()


async def test_a_table_that_is_not_there_is_refused_with_the_servers_reason(server: Any) -> None:
    async with create_client(server.url, server.token()) as client:
        with pytest.raises(JoinError) as raised:
            await client.channel("x").on("postgres_changes", print, table="no_such_table").subscribe()
        assert raised.value.code == "SubscriptionRefused"


async def first_line(database: str, *command: str) -> str:
    """Run a program that subscribes, write until it prints something, and end it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    program = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE, env=environment)
    assert program.stdout is not None
    printed = asyncio.ensure_future(program.stdout.readline())
    try:
        async with asyncio.timeout(20):
            number = 0
            while not printed.done():
                await write(database, f"insert into todos (id, task) values ({(number := number + 1)}, 'x')")
                await asyncio.wait([printed], timeout=0.1)
        return printed.result().decode()
    finally:
        program.kill()
        await program.communicate()


async def test_the_example_runs_as_printed(server: Any) -> None:
    example = str(ROOT / "examples" / "subscribe.py")
    assert "Change(eventType='INSERT'" in await first_line(
        server.database, example, server.url, server.token()
    )


async def test_the_first_subscription_of_the_readme_runs_as_printed(server: Any) -> None:
    snippet = (ROOT / "sdk" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    code = snippet.replace("http://localhost:4000", server.url).replace("YOUR_ANON_KEY", server.token())
    assert "Change(eventType='INSERT'" in await first_line(server.database, "-c", code)
