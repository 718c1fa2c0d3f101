"""What capture costs the writers, the server attached."""

from statistics import median

import asyncpg

from benchmarks.machine import attached, pgbench
from rowcast.capture.watching import watch
from rowcast.dev.postgres import Postgres

WRITERS = 16
#: Many short rounds, since a shared machine's speed drifts within seconds.
SECONDS = 2.0
ROUNDS = 9
SLOW_FLUSH = "-c commit_delay=2000 -c commit_siblings=0"

_SETUP = """
create table plain (id bigserial primary key, name text, n int, at timestamptz default now(), note text);
create table captured (like plain including all);
create table notified (like plain including all);
create function notify_row() returns trigger language plpgsql as $$
begin perform pg_notify('rows', row_to_json(new)::text); return null; end $$;
create trigger notify_row after insert on notified for each row execute function notify_row();
"""
_INSERT = "insert into {} (name, n, note) values ('a name', 5, repeat('some text of a row ', 8));"


async def measure(server: Postgres) -> dict[str, tuple[float, float]]:
    """Ratios by name, each with its bar."""
    async with attached(server.dsn):
        connection = await asyncpg.connect(server.dsn)
        await connection.execute(_SETUP)
        await watch(connection, "captured")
        await connection.close()
        fast = _rounds(server, ("plain", "captured", "notified"), "")
        slow = _rounds(server, ("plain", "captured"), SLOW_FLUSH)
    return {
        "16 writers, captured ÷ not": (_ratio(fast, "captured", "plain"), 0.5),
        "16 writers, captured ÷ row trigger with pg_notify": (_ratio(fast, "captured", "notified"), 2.0),
        "16 writers at a 2 ms flush, captured ÷ not": (_ratio(slow, "captured", "plain"), 0.85),
    }


def _rounds(server: Postgres, tables: tuple[str, ...], settings: str) -> list[dict[str, float]]:
    rounds = []
    for number in range(ROUNDS):
        rates = {
            table: pgbench(server, _INSERT.format(table), WRITERS, SECONDS, settings) for table in tables
        }
        shown = ", ".join(f"{table} {rate:,.0f}/s" for table, rate in rates.items())
        print(f"  round {number + 1}{' (2 ms flush)' if settings else ''}: {shown}", flush=True)
        rounds.append(rates)
    return rounds


def _ratio(rounds: list[dict[str, float]], one: str, other: str) -> float:
    return median(rates[one] / rates[other] for rates in rounds)
