"""What else docs/deploy.md prints: the unit, the queries, the backup, the probes."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from rowcast.dev.postgres import Postgres
from rowcast_client import Change, create_client
from support import databases
from support.gateways import printed
from support.postgres import binaries
from support.server import Server

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PAGE = "docs/deploy.md"
#: Of ten: below this, systemd calls a unit OK.
EXPOSURE = 2.0


def test_systemd_takes_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt install systemd")
    text, command = printed(PAGE, "ini", "# /etc/systemd/"), "/opt/rowcast/bin/rowcast serve"
    assert f"ExecStart={command}\n" in text
    unit = tmp_path / "rowcast.service"
    unit.write_text(text.replace(command, f"{sys.executable} -m rowcast.cli.main serve"))
    for arguments in (
        ["verify", "--man=no", str(unit)],
        ["security", "--offline=yes", f"--threshold={EXPOSURE * 10:.0f}", str(unit)],
    ):
        done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        # What it does not know it says, and goes on.
        assert "rowcast.service:" not in done.stderr


async def test_the_queries_answer(server: Server) -> None:
    text = (ROOT / PAGE).read_text()
    size, connections = re.findall(r"^```sql\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    connection = await asyncpg.connect(server.database)
    try:
        assert str(await connection.fetchval(size)).endswith(("bytes", "kB"))
        assert "rowcast listener" in [row["application_name"] for row in await connection.fetch(connections)]
    finally:
        await connection.close()


async def test_the_probes_are_of_pages_that_there_are(server: Server) -> None:
    paths = re.findall(r"httpGet: \{path: (\S+), port: 4000\}", printed(PAGE, "yaml", "containers:"))
    assert paths == ["/healthz", "/readyz"]
    for path in paths:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert b" 200 " in await asyncio.wait_for(reader.read(), 30)
        writer.close()


@pytest.mark.timeout(240)
async def test_a_backup_is_restored_where_nothing_was_and_is_captured_there(
    cluster: Callable[..., Postgres], serve: Callable[..., Awaitable[Server]], tmp_path: Path
) -> None:
    programs = binaries().folder
    if not all((programs / name).exists() for name in ("pg_dump", "pg_dumpall", "pg_restore", "psql")):
        pytest.skip(f"this Postgres has no pg_dump, pg_restore and psql beside it, in {programs}")
    origin, elsewhere = cluster(), cluster()
    databases.create(origin.dsn, "app")
    old = await serve(origin.dsn_of("app"))
    await execute(
        old.database,
        "create table todos (id int primary key); grant select on todos to anon;"
        "alter publication supabase_realtime add table todos",
        "insert into todos values (1)",
    )
    await old.stop()
    databases.create(elsewhere.dsn, "app")
    dump, restore = re.findall(
        r"^```sh\n((?:pg_dumpall|psql --dbname).*?)^```$", (ROOT / PAGE).read_text(), re.DOTALL | re.MULTILINE
    )
    for script in (dump, restore):
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"{script}\nexit $?"),
            cwd=tmp_path,
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            env={
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "DATABASE_URL": origin.dsn_of("app"),
                "RESTORED_URL": elsewhere.dsn_of("app"),
            },
        )
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
    new = await serve(elsewhere.dsn_of("app"))
    changes: asyncio.Queue[Change] = asyncio.Queue()
    async with create_client(new.url, new.token()) as client:
        await client.channel("todos").on("postgres_changes", changes.put, table="todos").subscribe()
        await execute(new.database, "insert into todos values (2)")
        async with asyncio.timeout(30):
            assert (await changes.get()).new == {"id": 2}


async def execute(database: str, *statements: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
