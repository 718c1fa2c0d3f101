"""The programs of the SDK's README, as printed, against the real server."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support.waiting import until_so

pytestmark = pytest.mark.anyio

PROGRAMS = (Path(__file__).parents[2] / "sdk" / "README.md").read_text().split("```python\n")[1:]


async def start(server: Any, number: int) -> Process:
    """The README's program of this number, under way."""
    code = PROGRAMS[number].split("```")[0]
    code = code.replace("http://localhost:4000", server.url).replace("YOUR_ANON_KEY", server.token())
    code = code.replace("postgresql://localhost/shop", server.database)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    return await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=PIPE, env=environment)


async def test_the_worker_does_each_effect_once_though_it_is_killed(server: Any) -> None:
    connection = await asyncpg.connect(server.database)
    try:
        await connection.execute("""
            create table orders (id int primary key); grant select on orders to anon;
            alter publication supabase_realtime add table orders;
            create table audit (seq bigint, what text);
        """)
        for first in (1, 3):
            worker = await start(server, 1)
            await until_so(connection, "select to_regclass('rowcast_client.positions') is not null")
            await until_so(connection, "select count(*) = 1 from rowcast_client.positions")
            await connection.execute("insert into orders values ($1)", first)
            await until_so(connection, f"select count(*) >= {first} from audit")
            worker.kill()
            await worker.communicate()
            await connection.execute("insert into orders values ($1)", first + 1)
        worker = await start(server, 1)
        await until_so(connection, "select count(*) = 4 from audit")
        worker.kill()
        await worker.communicate()
        assert await connection.fetchval("select count(distinct seq) from audit") == 4
    finally:
        await connection.close()


async def test_the_room_is_joined_and_spoken_in(server: Any) -> None:
    program = await start(server, 3)
    assert program.stdout is not None
    async with asyncio.timeout(30):
        said = sorted([await program.stdout.readline(), await program.stdout.readline()])
    program.kill()
    await program.communicate()
    assert said[0].startswith(b"Broadcast(event='cursor', payload={'x': 1, 'y': 2}")
    assert said[1].startswith(b"PresenceEvent(event='join', key='ann'")


async def test_the_rows_are_printed_as_they_change(server: Any) -> None:
    connection = await asyncpg.connect(server.database)
    try:
        await connection.execute("insert into todos values (1, 'milk', false), (2, 'bread', true)")
        program = await start(server, 2)
        assert program.stdout is not None
        async with asyncio.timeout(30):
            assert await program.stdout.readline() == b"[1]\n"
            await connection.execute("update todos set done = not done")
            said = sorted([await program.stdout.readline(), await program.stdout.readline()])
        program.kill()
        await program.communicate()
        bread = {"id": 2, "done": False, "task": "bread"}
        assert said == [b"1 None\n", f"2 {bread}\n".encode()]
    finally:
        await connection.close()
