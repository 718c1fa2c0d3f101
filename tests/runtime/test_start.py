"""How a server starts: with a database, without one, behind a pooler, and with settings that are wrong."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import connect

from rowcast.dev.postgres import Postgres, free_port
from support import databases
from support.commands import Ended, run
from support.pgbouncer import pgbouncer
from support.server import Server
from support.tokens import SECRET, make_token

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

Serve = Callable[..., Awaitable[Server]]
JOIN = '["1","1","realtime:todos","phx_join",{"config":{"postgres_changes":[{"event":"*","table":"todos"}]}}]'


async def _serve(tmp_path: Path, dsn: str, **settings: str) -> Ended:
    """Serve to an end that comes by itself."""
    given = {"DATABASE_URL": dsn, "ROWCAST_JWT_SECRET": SECRET, "PORT": str(free_port()), **settings}
    return await run(tmp_path, given, "serve")


async def _get(server: Server, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"{server.url}{path}")


async def _until(server: Server, path: str, code: int, says: str = "") -> httpx.Response:
    """Ask until it is answered with a code, and with a text."""
    async with asyncio.timeout(60):
        while True:
            try:
                answer = await _get(server, path)
                if answer.status_code == code and says in answer.text:
                    return answer
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _subscribed(server: Server) -> AsyncIterator[Callable[[int], Awaitable[list[int]]]]:
    """Subscribe to todos; gives what waits for so many changes, and returns their ids."""
    async with connect(f"{server.websocket}?apikey={make_token()}&vsn=2.0.0") as client:
        await client.send(JOIN)
        ids: list[int] = []

        async def until(count: int) -> list[int]:
            async with asyncio.timeout(60):
                while len(ids) < count:
                    *_, event, payload = json.loads(await client.recv())
                    if event == "postgres_changes":
                        ids.append(payload["data"]["record"]["id"])
            return ids

        async with asyncio.timeout(60):
            while "Subscribed to PostgreSQL" not in str(await client.recv()):
                pass
        yield until


async def test_behind_nothing_but_a_pooler_of_transactions_it_polls_and_says_what_would_be_better(
    todos: str, serve: Serve
) -> None:
    with pgbouncer(todos) as pooler:
        server = await serve(pooler.address)
        answer = await _get(server, "/readyz")
        assert answer.status_code == 200
        assert "ROWCAST_DIRECT_URL" in answer.json()["degraded"]["listener"]
        writer = await asyncpg.connect(pooler.address, statement_cache_size=0)
        async with _subscribed(server) as until:
            for n in range(20):
                await writer.execute("insert into todos values ($1, 'x')", n)
            assert await until(20) == list(range(20))
            await asyncio.to_thread(pooler.kill)
            databases.execute(todos, "insert into todos values (20, 'x')")
            await asyncio.to_thread(pooler.start)
            assert await until(21) == list(range(21))
        writer.terminate()
        assert await server.stop() == 0
        warnings = [line for line in server.log.read_text().splitlines() if "ROWCAST_DIRECT_URL" in line]
        assert len(warnings) == 1


async def test_with_a_direct_address_beside_the_pooler_it_listens(todos: str, serve: Serve) -> None:
    with pgbouncer(todos) as pooler:
        server = await serve(pooler.address, ROWCAST_DIRECT_URL=todos)
        assert (await _get(server, "/readyz")).json() == {"status": "ready"}
        async with _subscribed(server) as until:
            databases.execute(todos, "insert into todos values (1, 'x')")
            assert await until(1) == [1]
        connection = await asyncpg.connect(todos)
        assert await connection.fetchval(
            "select count(*) from pg_stat_activity"
            " where application_name = 'rowcast listener' and datname = current_database()"
        ) == 1  # fmt: skip
        await connection.close()


async def test_a_database_is_migrated_through_a_pooler(database: str, serve: Serve) -> None:
    with pgbouncer(database) as pooler:
        server = await serve(pooler.address)
        assert (await _get(server, "/readyz")).status_code == 200


async def test_while_the_database_is_not_there_it_lives_says_why_and_joins_wait(
    cluster: Callable[..., Postgres], tmp_path: Path
) -> None:
    postgres = cluster()
    await asyncio.to_thread(postgres.stop)
    server = Server(postgres.dsn, tmp_path / "server.log", {})
    starting = asyncio.create_task(server.start())
    try:
        assert (await _until(server, "/healthz", 200)).json() == {"status": "ok"}
        answer = await _until(server, "/readyz", 503, "does not answer")
        assert list(answer.json()["faults"]) == ["database"]
        async with connect(f"{server.websocket}?apikey={make_token()}&vsn=2.0.0") as client:
            await client.send('["1","1","realtime:todos","phx_join",{}]')
            assert '"status":"ok"' in str(await asyncio.wait_for(client.recv(), 30))
        await asyncio.to_thread(postgres.start)
        await starting
        assert (await _get(server, "/readyz")).json() == {"status": "ready"}
        assert await server.stop() == 0
    finally:
        starting.cancel()
        await server.end()
    assert postgres.password not in server.log.read_text()


async def test_a_signal_ends_a_server_that_waits_for_its_database(tmp_path: Path) -> None:
    server = Server(f"postgresql://me:secret@127.0.0.1:{free_port()}/app", tmp_path / "server.log", {})
    starting = asyncio.create_task(server.start())
    try:
        await _until(server, "/healthz", 200)
        assert await server.stop(signal.SIGTERM) == 0
        with pytest.raises(Exception, match="ended with exit code 0"):
            await starting
    finally:
        await server.end()
    assert "secret" not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


async def test_a_password_that_is_changed_while_it_runs_is_warned_of_and_waited_for(
    cluster: Callable[..., Postgres], serve: Serve
) -> None:
    postgres = cluster()
    databases.execute(postgres.dsn, "create role app superuser login password 'first'")
    server = await serve(postgres.dsn.replace(f"postgres:{postgres.password}", "app:first"))
    databases.execute(postgres.dsn, "alter role app password 'second'")
    databases.execute(
        postgres.dsn, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'"
    )
    async with asyncio.timeout(60):
        answer = await _until(server, "/readyz", 503)
        while not all("password authentication" in why for why in answer.json()["faults"].values()):
            answer = await _until(server, "/readyz", 503)
    databases.execute(postgres.dsn, "alter role app password 'first'")
    await _until(server, "/readyz", 200)
    lines = [line for line in server.log.read_text().splitlines() if "database_unusable" in line]
    assert len(lines) == 1
    assert "password authentication failed" in lines[0]


@pytest.mark.parametrize(
    ("wrong", "says", "migrate"),
    [
        ("postgresql://postgres:secret@{host}/{name}", "password authentication failed", "true"),
        ("postgresql://postgres:secret@{host}/{name}", "password authentication failed", "false"),
        ("{url}?sslmode=require", "does not offer TLS", "true"),
        ("{admin}/nosuchdatabase", "does not exist", "false"),
        ("{url}?nosuchsetting=1", "nosuchsetting", "true"),
    ],
)
async def test_what_somebody_has_to_mend_ends_the_start_with_a_line(
    migrated: str, tmp_path: Path, wrong: str, says: str, migrate: str
) -> None:
    host, _, name = migrated.rpartition("@")[2].partition("/")
    dsn = wrong.format(url=migrated, host=host, name=name, admin=migrated.rpartition("/")[0])
    ended = await _serve(tmp_path, dsn, ROWCAST_MIGRATE=migrate)
    assert (ended.code, len(ended.error.splitlines())) == (1, 1), ended.error
    assert says in ended.error
    assert "secret" not in ended.error


async def test_a_wrong_address_beside_a_right_one_ends_the_start_too(migrated: str, tmp_path: Path) -> None:
    ended = await _serve(tmp_path, migrated.replace("@", "x@"), ROWCAST_DIRECT_URL=migrated)
    assert (ended.code, len(ended.error.splitlines())) == (1, 1), ended.error
    assert "password authentication failed" in ended.error


async def test_a_database_that_was_not_migrated_and_may_not_be_ends_the_start(
    database: str, tmp_path: Path
) -> None:
    ended = await _serve(tmp_path, database, ROWCAST_MIGRATE="false")
    assert (ended.code, len(ended.error.splitlines())) == (1, 1), ended.error
    assert "Run `rowcast migrate`" in ended.error


async def test_a_port_that_is_taken_is_said_before_anything_is_begun(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        # The database would be waited for.
        dsn = f"postgresql://me:secret@127.0.0.1:{free_port()}/app"
        ended = await _serve(tmp_path, dsn, PORT=port, ROWCAST_HOST="127.0.0.1")
    assert (ended.code, len(ended.error.splitlines())) == (1, 1), ended.error
    assert f"Port {port}" in ended.error
    assert "PORT" in ended.error


async def test_a_host_that_cannot_be_bound_is_said_with_its_setting(tmp_path: Path) -> None:
    ended = await _serve(tmp_path, "postgresql://me:secret@127.0.0.1:1/app", ROWCAST_HOST="192.0.2.1")
    assert (ended.code, len(ended.error.splitlines())) == (1, 1), ended.error
    assert "ROWCAST_HOST" in ended.error


async def test_a_secret_that_is_too_short_is_named_and_not_shown(tmp_path: Path) -> None:
    ended = await _serve(tmp_path, "postgresql://me:secret@127.0.0.1:1/app", ROWCAST_JWT_SECRET="too-short")
    assert ended.code == 2
    assert "ROWCAST_JWT_SECRET must have at least 32 bytes" in ended.error
    assert "too-short" not in ended.error
