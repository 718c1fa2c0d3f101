"""From a write to a subscriber's callback, beside a row trigger that notifies the row, and its listener."""

import asyncio
import json
import time
from statistics import median, quantiles

import asyncpg
import jwt

from benchmarks.machine import SECRET, attached
from rowcast.dev.postgres import Postgres
from rowcast_client import Change, create_client

RATE = 100
SECONDS = 5.0
ROUNDS = 3
_NOTIFIED = """
create table notified (id bigint primary key);
create function notify_row() returns trigger language plpgsql as $$
begin perform pg_notify('ping', row_to_json(new)::text); return null; end $$;
create trigger notify_row after insert on notified for each row execute function notify_row();
"""


async def measure(server: Postgres) -> dict[str, tuple[float, float]]:
    """The trigger's median ÷ Rowcast's. Prints the times, which begin before the write."""
    ours, bare = [], []
    async with attached(server.dsn) as rowcast:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute(
            "create table if not exists pinged (id bigint primary key); grant select on pinged to anon"
        )
        await connection.execute(_NOTIFIED)
        await connection.execute("alter publication supabase_realtime add table pinged")
        for number in range(ROUNDS):
            bare.append(await _bare(server.dsn, connection))
            ours.append(await _ours(rowcast.url, connection))
            await connection.execute("truncate pinged, notified")
            print(f"  round {number + 1}: trigger {_shown(bare[-1])}, Rowcast {_shown(ours[-1])}", flush=True)
        await connection.close()
    ratio = median(median(one) / median(other) for one, other in zip(bare, ours, strict=True))
    return {"write to callback at 100/s, p50 of pg_notify by a trigger ÷ Rowcast": (ratio, 0.5)}


async def _ours(url: str, connection: asyncpg.Connection) -> list[float]:
    sent: dict[int, float] = {}
    taken: list[float] = []

    def arrived(change: Change) -> None:
        if change.eventType == "INSERT":
            taken.append(time.perf_counter() - sent[change.new["id"]])

    key = jwt.encode({"role": "anon", "exp": int(time.time()) + 600}, SECRET, algorithm="HS256")
    async with create_client(url, key) as client:
        channel = client.channel("pinged").on("postgres_changes", arrived, event="INSERT", table="pinged")
        await channel.subscribe()
        await _paced(connection, sent, "insert into pinged values ($1)")
        async with asyncio.timeout(10):
            while len(taken) < len(sent):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    return taken


async def _bare(dsn: str, connection: asyncpg.Connection) -> list[float]:
    sent: dict[int, float] = {}
    taken: list[float] = []
    listener = await asyncpg.connect(dsn)
    await listener.add_listener(
        "ping", lambda *told: taken.append(time.perf_counter() - sent[json.loads(str(told[3]))["id"]])
    )
    await _paced(connection, sent, "insert into notified values ($1)")
    async with asyncio.timeout(10):
        while len(taken) < len(sent):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await listener.close()
    return taken


async def _paced(connection: asyncpg.Connection, sent: dict[int, float], statement: str) -> None:
    began = time.perf_counter()
    for n in range(int(RATE * SECONDS)):
        await asyncio.sleep(max(0.0, began + n / RATE - time.perf_counter()))
        sent[n] = time.perf_counter()
        await connection.execute(statement, n)


def _shown(taken: list[float]) -> str:
    return f"p50 {median(taken) * 1000:.2f} ms, p99 {quantiles(taken, n=100)[98] * 1000:.2f} ms"
