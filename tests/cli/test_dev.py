"""``rowcast demo`` and ``rowcast dev``: what they print, and how they end."""

import asyncio
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

import asyncpg
import httpx
import pytest

from rowcast.dev.postgres import free_port
from support.tokens import SECRET

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
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


async def test_dev_shows_an_example_with_its_page_its_program_and_its_users(
    tmp_path: Path, database: str
) -> None:
    process = await spawn(
        ROOT,
        *("dev", "--example", "examples/messages", "--user", "ann", "--user", "ben"),
        DATABASE_URL=database,
        PORT=str(port := free_port()),
        ROWCAST_JWT_SECRET=SECRET,
    )
    said = b""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while b"Ctrl-C ends it" not in said:
            line = await process.stdout.readline()
            assert line, await process.communicate()
            said += line
    pages = re.findall(r"Page +(\S+)#(\S+)", said.decode())
    assert [parse_qs(fragment)["name"] for _, fragment in pages] == [["ann"], ["ben"]]
    for address, fragment in pages:
        assert address == f"http://127.0.0.1:{port}/pages/messages/"
        token = parse_qs(fragment)["token"][0]
        program = f" examples/messages/messages.py http://127.0.0.1:{port} {parse_qs(fragment)['key'][0]}"
        assert f"{program} --name {parse_qs(fragment)['name'][0]} --token {token}\n" in said.decode()
    async with httpx.AsyncClient() as browser:
        assert "Private messages" in (await browser.get(pages[0][0])).text
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetchval("select count(*) from pg_policies where tablename = 'messages'") == 2
    finally:
        await connection.close()
    process.send_signal(signal.SIGINT)
    code, _, error = await to_the_end(process)
    assert (code, error) == (0, b"")


async def test_dev_says_in_a_line_what_is_wrong_with_an_example(tmp_path: Path, database: str) -> None:
    code, _, error = await to_the_end(await spawn(tmp_path, "dev", "--example", "nowhere"))
    assert (code, error) == (2, b"nowhere is no example: it has no index.html.\n")
    (tmp_path / "index.html").write_text("")
    (tmp_path / "setup.sql").write_text("create policy broken")
    process = await spawn(tmp_path, "dev", "--example", ".", DATABASE_URL=database, ROWCAST_JWT_SECRET=SECRET)
    code, _, error = await to_the_end(process)
    assert (code, error.splitlines()) == (
        1,
        [b"setup.sql cannot be run. Postgres says: syntax error at end of input"],
    )
