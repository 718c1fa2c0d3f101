"""Clients that come back: how fast what they missed is sent again, beside a plain SELECT of the same rows."""

import asyncio
import json
import subprocess
import time
from statistics import median

import asyncpg
import websockets

from benchmarks.counting import CountingClient
from benchmarks.machine import Attached, attached, token
from rowcast.dev.postgres import Postgres

CHANGES = 100_000
CROWD = 100
ROUNDS = 3
_SECONDS = 600.0
MISSED = """
create sequence missed_id; create table missed (id bigint primary key, body text, n int);
grant select on missed to anon; alter publication supabase_realtime add table missed;
"""
#: Rows of about 300 bytes, three in a transaction.
WRITE = """do $$ begin
  for n in 1..33334 loop
    insert into missed select nextval('missed_id'), repeat('x', 250), g from generate_series(1, 3) as g;
    commit;
  end loop; end $$"""
_SELECT = " union all ".join(
    f"select seq, record from rowcast.outbox_{n} where relation = $1" for n in range(3)
)


async def measure(server: Postgres) -> dict[str, tuple[float, float]]:
    """The rate of a replay ÷ that of a SELECT. Prints rates, times and the server's memory."""
    connection = await asyncpg.connect(server.dsn)
    key = token()
    async with attached(server.dsn) as rowcast:
        await connection.execute(MISSED)
        position = await position_before(rowcast.url, key, connection)
        await connection.execute(WRITE)
        total = await connection.fetchval("select count(*) from missed") - 1
        ratios = []
        for number in range(ROUNDS):
            plain = await _select(connection, total)
            first, replayed = await _replay(rowcast, key, position, total)
            ratios.append(replayed / plain)
            print(
                f"  round {number + 1}: SELECT {plain:,.0f} rows/s, replay {replayed:,.0f} changes/s, "
                f"the first after {first * 1000:.0f} ms",
                flush=True,
            )
        before = memory(rowcast.pid)
        seconds, most = await _crowd(rowcast, key, position, total)
        print(
            f"  {CROWD} clients at once, {total:,} changes each: {seconds:.1f} s, "
            f"{CROWD * total / seconds:,.0f} deliveries/s; the server's memory {before:.0f} MiB before, "
            f"{most:.0f} MiB at most",
            flush=True,
        )
    await connection.close()
    return {"changes replayed ÷ rows of a plain SELECT, a second": (median(ratios), 0.01)}


async def position_before(url: str, key: str, connection: asyncpg.Connection) -> str:
    """Where the stream stood before anything was missed: from a message of the server's own."""
    address = f"ws{url.removeprefix('http')}/realtime/v1/websocket?apikey={key}&vsn=2.0.0"
    async with websockets.connect(address) as socket:
        entry = {"event": "*", "schema": "public", "table": "missed"}
        config = {"postgres_changes": [entry]}
        await socket.send(json.dumps(["1", "1", "realtime:r", "phx_join", {"config": config}]))
        while True:
            *_, event, payload = json.loads(await socket.recv())
            if event == "system" and payload["status"] == "ok":
                break
        await connection.execute("insert into missed values (nextval('missed_id'), '', 0)")
        *_, event, payload = json.loads(await socket.recv())
        position: str = payload["data"]["position"]
        return position


def config(position: str) -> dict[str, object]:
    """The join of who missed everything after a position."""
    entry = {"event": "*", "schema": "public", "table": "missed"}
    return {"postgres_changes": [entry], "resume": {"position": position}}


async def _select(connection: asyncpg.Connection, total: int) -> float:
    relation = await connection.fetchval("select max(id) from rowcast.relations where table_name = 'missed'")
    began = time.perf_counter()
    rows = await connection.fetch(_SELECT, relation)
    taken = time.perf_counter() - began
    assert len(rows) >= total
    return len(rows) / taken


async def _replay(rowcast: Attached, key: str, position: str, total: int) -> tuple[float, float]:
    began = time.perf_counter()
    client = await CountingClient.join(rowcast.url, key, "r", config(position), expected=total, least=300)
    async with asyncio.timeout(_SECONDS):
        await client.first.wait()
        first = time.perf_counter() - began
        await client.done.wait()
    taken = time.perf_counter() - began
    if client.lost is not None:
        raise client.lost
    client.close()
    return first, total / taken


async def _crowd(rowcast: Attached, key: str, position: str, total: int) -> tuple[float, float]:
    """Seconds until all have all, and the server's memory at most."""
    began = time.perf_counter()
    clients = [
        await CountingClient.join(rowcast.url, key, "r", config(position), expected=total, least=300)
        for _ in range(CROWD)
    ]
    most = 0.0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, memory(rowcast.pid))
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(_SECONDS):
        for client in clients:
            await client.done.wait()
            if client.lost is not None:
                raise client.lost
    taken = time.perf_counter() - began
    watching.cancel()
    for client in clients:
        client.close()
    return taken, most


def memory(pid: int) -> float:
    """Resident mebibytes of a process."""
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True)
    return int(shown.stdout) / 1024
