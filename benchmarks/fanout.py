"""How many changes a second reach every subscriber, where each has claims of its own and rows are judged by
policies, beside the same without row level security.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from statistics import median

import asyncpg

from benchmarks.taking import Counted
from rowcast.auth.access import Access
from rowcast.auth.visibility import SEARCH_PATH, Visibility
from rowcast.capture.retention import Retention
from rowcast.capture.snapshots import Snapshots
from rowcast.capture.stream import Stream
from rowcast.capture.watching import watch
from rowcast.db.migrations import migrate
from rowcast.db.pool import create_pool
from rowcast.dev.postgres import Postgres
from rowcast.hub.feed import Subscriber
from rowcast.hub.lanes import Lane
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.binding import parse_binding
from rowcast.model.claims import Claims
from rowcast.protocol.messages import Version

ROLE = "anon"
#: Subscribers, and the least that the rate under policies may be of the rate without.
SIZES = {500: 0.2, 3_000: 0.2}
CHANGES = 400
ROUNDS = 3
_SECONDS = 120.0

# Everybody sees every row, so that both are sent the same; nobody's claims are another's.
_SETUP = """
create table open (id int8 generated always as identity, owner text, body text);
create table judged (like open including all);
alter table open add primary key (id);
alter table judged add primary key (id);
alter table judged enable row level security;
create policy others on judged using (owner <> (select auth.jwt() ->> 'sub'));
grant select on open, judged to anon;
"""


async def measure(server: Postgres) -> dict[str, tuple[float, float]]:
    """Ratios by name, each with its bar."""
    await migrate(server.dsn)
    connection = await asyncpg.connect(server.dsn)
    await connection.execute(_SETUP)
    for table in ("open", "judged"):
        await watch(connection, table)
    ratios = {}
    for size, bar in SIZES.items():
        rates = {table: await _rate(server, connection, table, size) for table in ("open", "judged")}
        for table, rate in rates.items():
            print(f"  {table}, {size:,} subscribers: {rate:,.0f} changes/s to each", flush=True)
        ratios[f"{size:,} subscribers: changes/s under policies ÷ without"] = (
            rates["judged"] / rates["open"],
            bar,
        )
    await connection.close()
    return ratios


async def _rate(server: Postgres, connection: asyncpg.Connection, table: str, size: int) -> float:
    async with _streaming(server.dsn) as stream:
        counted = Counted()
        for number in range(size):
            subscriber = Subscriber("realtime:x", Version.V2, Lane(counted, 1 << 30), _lost, told=_told)
            entry = {"event": "INSERT", "schema": "public", "table": table}
            claims = Claims(ROLE, 2e9, {"role": ROLE, "sub": f"u{number}"})
            result = await stream.subscribe(subscriber, [parse_binding(entry)], claims)
            assert result.ok, result.refused
        times = []
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            await connection.execute(
                f"insert into {table} (owner, body) select 'nobody', 'some text of a row'"
                f" from generate_series(1, {CHANGES})"
            )
            await counted.take(CHANGES * size)
            times.append(time.perf_counter() - began)
        return CHANGES / median(times[1:])


@contextlib.asynccontextmanager
async def _streaming(dsn: str) -> AsyncIterator[Stream]:
    pool = await create_pool(dsn, 5)
    stream = Stream(
        direct_dsn=dsn,
        pool=pool,
        subscriptions=Subscriptions(limit=1 << 20),
        rights=Access([ROLE]),
        visibility=Visibility([ROLE], seconds=30.0, limit=_SECONDS),
        retention=Retention(age=3600.0, size=1 << 30, lease=3600),
        filter_timeout=5.0,
        snapshots=Snapshots(dsn, search_path=SEARCH_PATH),
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(stream.run())
        try:
            yield stream
        finally:
            running.cancel()
            pool.terminate()


def _lost() -> None:
    raise RuntimeError("changes were lost")


def _told(status: str, text: str) -> None:
    raise RuntimeError(f"{status}: {text}")
