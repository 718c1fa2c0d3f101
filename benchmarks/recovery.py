"""How long a subscriber waits after a fault, from when whatever was broken is there again."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import median

import asyncpg
import jwt

from benchmarks.machine import SECRET, Attached, attached
from rowcast.db.connection import LOST
from rowcast.dev.postgres import Postgres
from rowcast_client import Change, create_client

ROUNDS = 3
_SECONDS = 60.0
_PACE = 0.02
_CALM = 5.0

Fault = Callable[[Attached, Postgres], Awaitable[None]]


async def measure(server: Postgres) -> dict[str, tuple[float, float]]:
    """No ratios: seconds are printed for each fault."""
    async with attached(server.dsn) as rowcast:
        await _setup(server.dsn)
        for name, fault in _FAULTS.items():
            times = [await _recovery(rowcast, server, fault) for _ in range(ROUNDS)]
            print(f"  {name}: {median(times):.2f} s (longest {max(times):.2f} s)", flush=True)
    return {}


async def _setup(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("create table beats (id bigint primary key); grant select on beats to anon")
    await connection.execute("alter publication supabase_realtime add table beats")
    await connection.close()


async def _recovery(rowcast: Attached, server: Postgres, fault: Fault) -> float:
    """From the end of a fault until everything has come that was committed until then, and the next row."""
    heard: set[int] = set()
    more = asyncio.Event()

    def take(change: Change) -> None:
        assert change.new["id"] not in heard
        heard.add(change.new["id"])
        more.set()

    key = jwt.encode({"role": "anon", "exp": int(time.time()) + 600}, SECRET, algorithm="HS256")
    async with create_client(rowcast.url, key, on_error=lambda _: None) as client:
        await client.channel("beats").on("postgres_changes", take, event="INSERT", table="beats").subscribe()
        async with _writing(server) as written:
            # Long enough that nothing tries again more slowly for the last fault's sake.
            await asyncio.sleep(_CALM)
            await fault(rowcast, server)
            began = time.perf_counter()
            missing = set(written)
            async with asyncio.timeout(_SECONDS):
                while not (missing <= heard and (written & heard) - missing):
                    more.clear()
                    await more.wait()
            taken = time.perf_counter() - began
    return taken


@contextlib.asynccontextmanager
async def _writing(server: Postgres) -> AsyncIterator[set[int]]:
    """What was committed so far, by a writer that goes on whatever happens."""
    written: set[int] = set()

    async def write() -> None:
        while True:
            try:
                connection = await asyncpg.connect(server.dsn)
                while True:
                    id_ = await connection.fetchval(
                        "insert into beats select coalesce(max(id), 0) + 1 from beats returning id"
                    )
                    written.add(id_)
                    await asyncio.sleep(_PACE)
            except (*LOST, asyncpg.PostgresError):
                await asyncio.sleep(_PACE)

    writer = asyncio.create_task(write())
    try:
        yield written
    finally:
        writer.cancel()


async def _server_restarted(rowcast: Attached, server: Postgres) -> None:
    await rowcast.end()
    await rowcast.start()


async def _server_killed(rowcast: Attached, server: Postgres) -> None:
    await rowcast.end(kill=True)
    await rowcast.start()


async def _postgres_restarted(rowcast: Attached, server: Postgres) -> None:
    await asyncio.to_thread(server.restart)


async def _postgres_killed(rowcast: Attached, server: Postgres) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def _backends_ended(rowcast: Attached, server: Postgres) -> None:
    connection = await asyncpg.connect(server.dsn)
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ '^rowcast'"
    )
    await connection.close()


_FAULTS: dict[str, Fault] = {
    "server stopped and started": _server_restarted,
    "server killed and started": _server_killed,
    "Postgres restarted": _postgres_restarted,
    "Postgres killed and started": _postgres_killed,
    "its connections to Postgres ended": _backends_ended,
}
