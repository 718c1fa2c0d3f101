"""``rowcast migrate --print-admin-sql`` and ``rowcast uninstall`` as a user types them."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import asyncpg
import pytest

from support.tokens import SECRET

pytestmark = pytest.mark.anyio


async def run(directory: Path, database: str, *arguments: str, answer: str = "") -> tuple[int, str, str]:
    """Run a command to its end: its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rowcast.cli.main", *arguments),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "DATABASE_URL": database, "ROWCAST_JWT_SECRET": SECRET},
        cwd=directory,
    )
    async with asyncio.timeout(60):
        out, error = await process.communicate(answer.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def stands(database: str) -> bool:
    connection = await asyncpg.connect(database)
    try:
        return bool(await connection.fetchval("select to_regnamespace('rowcast') is not null"))
    finally:
        await connection.close()


async def test_it_asks_first_and_an_answer_or_yes_lets_it(migrated: str, tmp_path: Path) -> None:
    for answer in ("", "n\n"):
        code, out, _ = await run(tmp_path, migrated, "uninstall", answer=answer)
        assert (code, "Take Rowcast and all kept changes out of 127.0.0.1" in out) == (1, True)
        assert await stands(migrated)
    code, out, error = await run(tmp_path, migrated, "uninstall", answer="y\n")
    assert (code, "removed the schema rowcast\n" in out) == (0, True), error
    assert not await stands(migrated)
    code, out, _ = await run(tmp_path, migrated, "uninstall", "--yes")
    assert (code, out) == (0, "Rowcast is not in this database.\n")


async def test_nothing_is_asked_of_an_administrator_where_nothing_is_missing(
    migrated: str, tmp_path: Path
) -> None:
    code, out, _ = await run(tmp_path, migrated, "migrate", "--print-admin-sql")
    assert (code, out) == (0, "-- Nothing is missing here that an administrator would have to make.\n")
