"""Live changes beside a replay: how late they come while somebody is sent a million that it missed."""

import asyncio
import json
import time
from statistics import median, quantiles

import asyncpg
import websockets

from benchmarks.counting import CountingClient
from benchmarks.machine import Attached, attached, token
from benchmarks.replay import MISSED, WRITE, config, position_before
from rowcast.dev.postgres import Postgres

#: The replay is of so many changes, in as many turns as it takes.
CHANGES = 1_000_000
RATE = 50
_SECONDS_ALONE = 10.0


async def measure(server: Postgres) -> dict[str, tuple[float, float]]:
    """The p50 of live changes alone ÷ that beside a replay. Prints both with their p99."""
    connection = await asyncpg.connect(server.dsn)
    key = token()
    async with attached(server.dsn) as rowcast:
        await connection.execute(MISSED)
        await connection.execute(
            "create table live (id int); grant select on live to anon;"
            "alter publication supabase_realtime add table live"
        )
        position = await position_before(rowcast.url, key, connection)
        await connection.execute(WRITE)
        total = await connection.fetchval("select count(*) from missed") - 1
        alone = await _live(rowcast, key, connection, asyncio.create_task(asyncio.sleep(_SECONDS_ALONE)))
        replaying = asyncio.create_task(_replays(rowcast, key, position, total))
        beside = await _live(rowcast, key, connection, replaying)
        seconds = await replaying
    await connection.close()
    print(
        f"  live changes alone: {_shown(alone)}; beside a replay of {CHANGES:,} changes, {seconds:.0f} s: "
        f"{_shown(beside)}",
        flush=True,
    )
    return {"live changes, p50 alone ÷ beside a replay": (median(alone) / median(beside), 0.0)}


async def _replays(rowcast: Attached, key: str, position: str, total: int) -> float:
    """Seconds."""
    began = time.perf_counter()
    for _ in range(CHANGES // total):
        client = await CountingClient.join(rowcast.url, key, "r", config(position), expected=total, least=300)
        await client.done.wait()
        if client.lost is not None:
            raise client.lost
        client.close()
    return time.perf_counter() - began


async def _live(
    rowcast: Attached, key: str, connection: asyncpg.Connection, while_: "asyncio.Task[object]"
) -> list[float]:
    """Seconds from the commit of each change to its arrival."""
    address = f"ws{rowcast.url.removeprefix('http')}/realtime/v1/websocket?apikey={key}&vsn=2.0.0"
    taken: list[float] = []
    async with websockets.connect(address) as socket:
        entry = {"event": "*", "schema": "public", "table": "live"}
        join = ["1", "1", "realtime:live", "phx_join", {"config": {"postgres_changes": [entry]}}]
        await socket.send(json.dumps(join))
        while json.loads(await socket.recv())[3] != "system":
            pass
        while not while_.done():
            await asyncio.sleep(1 / RATE)
            await connection.execute("insert into live values (1)")
            committed = time.perf_counter()
            await socket.recv()
            taken.append(time.perf_counter() - committed)
    return taken


def _shown(taken: list[float]) -> str:
    return f"p50 {median(taken) * 1000:.1f} ms, p99 {quantiles(taken, n=100)[98] * 1000:.1f} ms"
