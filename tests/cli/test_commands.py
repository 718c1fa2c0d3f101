"""The commands, each as a process of its own, against a real database and a real server."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from rowcast.auth.tokens import Verifier
from support.server import Server
from support.tokens import SECRET

pytestmark = pytest.mark.anyio

Run = Callable[..., Awaitable[tuple[int, str, str]]]


async def spawn(directory: Path, database: str, *arguments: str, **settings: str) -> Process:
    environment = {
        **os.environ,
        "DATABASE_URL": database,
        "ROWCAST_JWT_SECRET": SECRET,
        "COLUMNS": "200",
        **settings,
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rowcast.cli.main", *arguments),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=environment,
        cwd=directory,
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command to its end: its exit code and what it printed."""

    async def to_the_end(database: str, *arguments: str, **settings: str) -> tuple[int, str, str]:
        process = await spawn(tmp_path, database, *arguments, **settings)
        async with asyncio.timeout(60):
            out, error = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), error.decode()

    return to_the_end


async def test_a_database_is_migrated_once_and_a_dry_run_does_nothing(database: str, run: Run) -> None:
    code, out, _ = await run(database, "tables")
    assert code == 1
    code, out, _ = await run(database, "migrate", "--dry-run")
    assert (code, out.startswith("would run ")) == (0, True)
    code, out, _ = await run(database, "migrate")
    assert (code, out.startswith("ran ")) == (0, True)
    assert await run(database, "migrate") == (0, "The database is up to date.\n", "")


async def test_a_table_is_watched_shown_and_unwatched(migrated: str, run: Run) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute("create table notes (id int primary key)")
    await connection.close()
    code, out, error = await run(migrated, "watch", "notes")
    assert (code, "public.notes is captured" in out) == (0, True), error
    assert "(it was already)" in (await run(migrated, "watch", "public.notes"))[1]
    assert "public.notes" in (await run(migrated, "tables"))[1]
    assert "public.notes is no longer captured" in (await run(migrated, "unwatch", "notes"))[1]
    assert "No table is captured" in (await run(migrated, "tables"))[1]


async def test_a_table_that_is_not_there_is_one_line_and_an_exit_code(migrated: str, run: Run) -> None:
    code, _, error = await run(migrated, "watch", "missing")
    assert code == 1
    assert "missing" in error
    assert "Traceback" not in error


async def test_a_table_is_unwatched_only_where_rowcast_is(database: str, run: Run) -> None:
    tried = await run(database, "unwatch", "things")
    apart = await run(database, "watch", "things", ROWCAST_MIGRATE="off")
    for code, _, error in (tried, apart):
        assert (code, error) == (
            1,
            "This database was not migrated. Run `rowcast migrate` or `rowcast serve`.\n",
        )
    connection = await asyncpg.connect(database)
    assert await connection.fetchval("select to_regnamespace('rowcast') is null")
    await connection.close()


async def test_a_token_is_one_that_the_server_accepts(run: Run) -> None:
    arguments = ("token", "--role", "authenticated", "--sub", "u1", "--expires", "2h")
    code, out, _ = await run("postgresql://unused", *arguments)
    claims = Verifier(SECRET)(out, 0)
    assert (code, claims.role, claims.raw["sub"]) == (0, "authenticated", "u1")
    assert claims.expires_at - claims.raw["iat"] == 7200


async def test_settings_hide_what_is_secret(run: Run) -> None:
    code, out, _ = await run("postgresql://me:a-password@db.example/app", "settings", "--json")
    assert code == 0
    assert json.loads(out)["DATABASE_URL"]["value"] == "postgresql://me:********@db.example/app"
    assert SECRET not in out


async def test_wrong_settings_end_with_their_own_exit_code(run: Run) -> None:
    code, _, error = await run("mysql://me:a-password@db.example/app", "migrate")
    assert code == 2
    assert "DATABASE_URL" in error
    assert "a-password" not in error


@pytest.mark.parametrize("arguments", [("token", "--role", "anon"), ("tail", "todos")])
async def test_a_command_that_signs_says_what_is_missing_where_only_a_key_set_verifies(
    database: str, run: Run, arguments: tuple[str, ...]
) -> None:
    keys = {"keys": [{"kty": "oct", "kid": "one", "k": "c2VjcmV0" * 8}]}
    only_keys = {"ROWCAST_JWT_SECRET": "", "ROWCAST_JWKS": json.dumps(keys)}
    code, out, error = await run(database, *arguments, **only_keys)
    assert (code, out) == (2, "")
    assert "ROWCAST_JWT_SECRET is missing: tokens are signed with it." in error
    assert "Traceback" not in error


async def test_tail_prints_the_changes_of_a_table(server: Server, tmp_path: Path) -> None:
    connection = await asyncpg.connect(server.database)
    process = await spawn(
        tmp_path, server.database, "tail", "todos", "--json", "--role", "anon", "--url", server.url
    )
    assert process.stdout is not None
    line = asyncio.ensure_future(process.stdout.readline())
    try:
        async with asyncio.timeout(60):
            number = 0
            # It does not say when it listens: write until it has heard one.
            while not line.done():
                number += 1
                await connection.execute("insert into todos values ($1, 'x')", number)
                await asyncio.wait([line], timeout=0.1)
        change = json.loads(line.result())
    finally:
        line.cancel()
        process.kill()
        await process.communicate()
        await connection.close()
    assert (change["type"], change["table"], change["record"]["task"]) == ("INSERT", "todos", "x")


async def test_tables_shows_what_is_kept_of_each_and_how_to_mend_what_is_not_captured(
    migrated: str, run: Run
) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute("select rowcast.renew_lease(3600)")
    await connection.execute(
        "create table notes (id int primary key); create table others (id int primary key)"
    )
    await connection.execute("alter publication supabase_realtime add table notes, others")
    await connection.execute("insert into notes values (1), (2)")
    await connection.execute('alter table others disable trigger "!rowcast_insert"')
    await connection.close()
    mend = 'ALTER TABLE public.others ENABLE ALWAYS TRIGGER "!rowcast_insert";'
    code, out, error = await run(migrated, "tables")
    assert code == 0, error
    assert f"To capture public.others: {mend}" in out
    notes, others = json.loads((await run(migrated, "tables", "--json"))[1])
    assert (notes["table"], notes["captured"], notes["changes"], notes["mend"]) == ("notes", True, 2, None)
    assert notes["since"] < notes["last"]
    assert (others["captured"], others["since"], others["mend"]) == (False, None, mend)
    assert others["reason"] == "its triggers are disabled"
