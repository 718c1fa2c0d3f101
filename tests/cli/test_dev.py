"""``rowcast demo`` and ``rowcast dev``: what they print, and how they end."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from support.tokens import SECRET

pytestmark = pytest.mark.anyio

OPERATIONS = (b"INSERT ", b"UPDATE ", b"DELETE ")


async def spawn(
    directory: Path, *arguments: str, before: Callable[[], object] | None = None, **settings: str
) -> Process:
    kept = {k: v for k, v in os.environ.items() if k != "DATABASE_URL" and not k.startswith("ROWCAST_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rowcast.cli.main", *arguments),
        stdin=DEVNULL, stdout=PIPE, stderr=PIPE, cwd=directory, preexec_fn=before,
        env={**kept, "PYTHONPATH": os.pathsep.join(sys.path), **settings},
    )  # fmt: skip


async def to_the_end(process: Process) -> tuple[int | None, bytes, bytes]:
    async with asyncio.timeout(100):
        out, error = await process.communicate()
    return process.returncode, out, error


async def test_the_demo_shows_so_many_changes_and_ends_well(tmp_path: Path) -> None:
    code, out, error = await to_the_end(await spawn(tmp_path, "demo", "--changes", "5"))
    lines = out.splitlines()
    assert code == 0, error
    assert len([line for line in lines if line.startswith(OPERATIONS)]) == 5
    for word in (b"Address ", b"Anon key ", b"Service key ", b"Database "):
        assert any(line.startswith(word) for line in lines)


def ignore_interrupts() -> None:
    """As a shell does for what it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


async def test_dev_serves_a_database_of_ones_own_until_it_is_ended(tmp_path: Path, database: str) -> None:
    process = await spawn(
        tmp_path,
        "dev",
        before=ignore_interrupts,
        DATABASE_URL=database,
        PORT="0",
        ROWCAST_JWT_SECRET=SECRET,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while b"Ctrl-C ends it" not in (line := await process.stdout.readline()):
            assert line, await process.communicate()
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetchval("select captured from rowcast.tables where table_name = 'todos'")
    finally:
        await connection.close()
    process.send_signal(signal.SIGTERM)
    code, _, error = await to_the_end(process)
    assert (code, b"Traceback" in error) == (0, False), error


async def test_dev_says_in_a_line_that_its_port_is_taken(tmp_path: Path, database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = await spawn(tmp_path, "dev", DATABASE_URL=database, PORT=port, ROWCAST_JWT_SECRET=SECRET)
        code, _, error = await to_the_end(process)
    assert code == 1
    assert f"Port {port} of 127.0.0.1 is taken. Set PORT to another." in error.decode()
    assert b"Traceback" not in error


async def test_dev_names_a_wrong_setting(tmp_path: Path, database: str) -> None:
    process = await spawn(tmp_path, "dev", DATABASE_URL=database, PORT="high", ROWCAST_JWT_SECRET=SECRET)
    code, _, error = await to_the_end(process)
    assert code == 2
    assert b"  PORT " in error
    assert b"Traceback" not in error
