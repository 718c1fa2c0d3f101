"""A subscription that begins with a large table: how fast, beside a COPY of its rows, and in what memory."""

import asyncio
import time

import asyncpg

from benchmarks.counting import CountingClient
from benchmarks.machine import Attached, attached, token
from benchmarks.replay import memory
from rowcast.dev.postgres import Postgres

ROWS = 10_000_000
BATCH = 500
_SECONDS = 1800.0


async def measure(server: Postgres) -> dict[str, tuple[float, float]]:
    """The rate of a snapshot ÷ that of a COPY of the rows as JSON. Prints rates, memory, and for how long
    vacuum was held back."""
    connection = await asyncpg.connect(server.dsn)
    rows = f"select id::bigint, repeat('x', 60) as body from generate_series(1, {ROWS}) as id"
    await connection.execute(f"create table large as {rows}")
    await connection.execute("alter table large add primary key (id)")
    await connection.execute("vacuum analyze large")
    async with attached(server.dsn) as rowcast:
        await connection.execute(
            "grant select on large to anon; alter publication supabase_realtime add table large"
        )
        copied = await _copy(connection)
        before = memory(rowcast.pid)
        seconds, most, held = await _snapshot(rowcast, connection)
    await connection.close()
    print(
        f"  {ROWS:,} rows: COPY {ROWS / copied:,.0f} rows/s, snapshot {ROWS / seconds:,.0f} rows/s; the "
        f"server's memory {before:.0f} MiB before, {most:.0f} MiB at most; vacuum held back for {held:.1f} s",
        flush=True,
    )
    return {"rows of a snapshot ÷ of a COPY, a second": (copied / seconds, 0.0)}


async def _copy(connection: asyncpg.Connection) -> float:
    """Seconds."""
    began = time.perf_counter()

    async def drop(_: bytes) -> None:
        pass

    await connection.copy_from_query("select to_jsonb(l) from large as l order by id", output=drop)
    return time.perf_counter() - began


async def _snapshot(rowcast: Attached, connection: asyncpg.Connection) -> tuple[float, float, float]:
    """Seconds, the server's memory at most, and for how many seconds its snapshot was open."""
    entry = {"event": "*", "schema": "public", "table": "large", "snapshot": {"batch": BATCH}}
    began = time.perf_counter()
    client = await CountingClient.join(
        rowcast.url, token(), "s", {"postgres_changes": [entry]}, expected=ROWS // BATCH, least=1000
    )
    most = held = 0.0
    async with asyncio.timeout(_SECONDS):
        while not client.done.is_set():
            most = max(most, memory(rowcast.pid))
            open_ = await connection.fetchval(
                "select max(extract(epoch from clock_timestamp() - xact_start))::float from pg_stat_activity"
                " where application_name like 'rowcast snapshot%' and backend_xmin is not null"
            )
            held = max(held, open_ or 0.0)
            await asyncio.sleep(0.1)
    if client.lost is not None:
        raise client.lost
    taken = time.perf_counter() - began
    client.close()
    return taken, most, held
