"""Concurrent sessions that write as users do, and what must have been delivered of it.

Every update raises its row's counter, so what must arrive is known exactly: for each row the numbers 1, 2, 3,
…, each once and in order. Nothing here de-duplicates.
"""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import asyncpg

ROWS = 6

SETUP = f"""
create table counters (id int primary key, n bigint not null);
create table entries (id bigserial primary key, writer int not null, note text);
insert into counters select g, 0 from generate_series(1, {ROWS}) as g;
alter publication supabase_realtime add table counters, entries;
"""

ISOLATION: tuple[Literal["read_committed", "repeatable_read", "serializable"], ...] = (
    "read_committed",
    "read_committed",
    "repeatable_read",
    "serializable",
)
EXPECTED = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InFailedSQLTransactionError,
)


@dataclass
class Tally:
    """What the writers did."""

    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))


async def write(dsn: str, seed: int, *, writers: int = 8, transactions: int = 25) -> Tally:
    """Run the writers to their end."""
    tally = Tally()
    await asyncio.gather(
        *(_writer(dsn, random.Random(seed * 1000 + n), n, transactions, tally) for n in range(writers))
    )
    return tally


async def _writer(dsn: str, rnd: random.Random, number: int, transactions: int, tally: Tally) -> None:
    connection = await asyncpg.connect(dsn, server_settings={"deadlock_timeout": "20ms"})
    try:
        for _ in range(transactions):
            tally.outcomes[await _transaction(connection, rnd, number)] += 1
    finally:
        await connection.close()


async def _transaction(connection: asyncpg.Connection, rnd: random.Random, number: int) -> str:
    outer = connection.transaction(isolation=rnd.choice(ISOLATION))
    await outer.start()
    try:
        for _ in range(rnd.randint(1, 4)):
            if rnd.random() < 0.3:
                inner = connection.transaction()
                await inner.start()
                await _statement(connection, rnd, number)
                await (inner.rollback() if rnd.random() < 0.5 else inner.commit())
            else:
                await _statement(connection, rnd, number)
        if rnd.random() < 0.1:
            # A transaction that stays open while others commit.
            await connection.execute("select pg_sleep($1)", rnd.random() * 0.15)
        if rnd.random() < 0.15:
            await outer.rollback()
            return "rolled back"
        await outer.commit()
        return "committed"
    except EXPECTED as error:
        # A COMMIT that failed has ended the transaction already.
        if connection.is_in_transaction():
            await outer.rollback()
        return type(error).__name__


async def _statement(connection: asyncpg.Connection, rnd: random.Random, number: int) -> None:
    match rnd.randrange(6):
        case 0:
            await connection.execute("insert into entries (writer, note) values ($1, 'one')", number)
        case 1:
            await connection.execute(
                "insert into entries (writer, note) select $1, 'of ' || g from generate_series(1, $2) as g",
                number,
                rnd.randint(2, 40),
            )
        case 2:
            await connection.execute("update counters set n = n + 1 where id % 2 = $1", rnd.randrange(2))
        case _:
            await connection.execute("update counters set n = n + 1 where id = $1", rnd.randint(1, ROWS))


@dataclass(frozen=True)
class Seen:
    """One delivered change, as the checker wants it."""

    xid: int
    seq: int
    table: str
    record: str


async def faults(connection: asyncpg.Connection, delivered: Iterable[Seen]) -> dict[str, int]:
    """What is wrong with what was delivered, counted; empty when nothing is."""
    found: dict[str, int] = defaultdict(int)
    counters: dict[int, int] = dict.fromkeys(range(1, ROWS + 1), 0)
    entries: dict[int, int] = defaultdict(int)
    ended: set[int] = set()
    last: tuple[int, int] | None = None
    for change in delivered:
        if last is None or last[0] != change.xid:
            if change.xid in ended:
                found["transaction split"] += 1
            if last is not None:
                ended.add(last[0])
        elif change.seq <= last[1]:
            found["order in a transaction"] += 1
        last = (change.xid, change.seq)
        row = json.loads(change.record)
        if change.table == "counters":
            if row["n"] <= counters[row["id"]]:
                found["repeated or out of order"] += 1
            elif row["n"] > counters[row["id"]] + 1:
                found["missing before"] += row["n"] - counters[row["id"]] - 1
            counters[row["id"]] = row["n"]
        else:
            entries[row["id"]] += 1
            if entries[row["id"]] > 1:
                found["repeated"] += 1
    for record in await connection.fetch("select id, n from counters"):
        if counters[record["id"]] != record["n"]:
            found["lost at the end"] += 1
    kept = {record["id"] for record in await connection.fetch("select id from entries")}
    if kept != set(entries):
        found["lost"] += len(kept - set(entries))
        found["phantom"] += len(set(entries) - kept)
    return {what: count for what, count in found.items() if count}
