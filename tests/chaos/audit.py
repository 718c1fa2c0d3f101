"""Reads the truth from the database, when nobody writes any more."""

from collections.abc import Iterable

import asyncpg

from chaos.schema import COLUMNS, SAID, TABLES
from chaos.truth import Entry, Look, Row, Truth
from rowcast.model.position import Snapshot


async def settle(connection: asyncpg.Connection) -> Snapshot:
    """A snapshot that sees all that was written."""
    return Snapshot.parse(await connection.fetchval("select pg_current_snapshot()::text"))


async def load(connection: asyncpg.Connection, looks: Iterable[Look]) -> Truth:
    """The truth, as far as these looks need it."""
    lines = await connection.fetch(
        f"select log, xid::text, op::text, tab, {', '.join(COLUMNS)} from audit order by log"
    )
    shown = {look: await _shown(connection, look) for look in set(looks)}
    return Truth([_entry(line) for line in lines], shown)


async def table_faults(connection: asyncpg.Connection, truth: Truth, looks: Iterable[Look]) -> list[str]:
    """Where the audit and the tables differ: then one of the writers is at fault, and not the server."""
    wrong = []
    for look in {look for look in looks if look.table != SAID}:
        rows = await connection.fetch(
            f"select {', '.join(COLUMNS)} from {look.table} where {_condition(look)}"
        )
        given = {str(row["uid"]): _row(row) for row in rows}
        if given != truth.rows(look):
            wrong.append(f"the audit of {look.table} does not say what is in it, where {_condition(look)}")
    return wrong


def _condition(look: Look) -> str:
    return f"({look.subject.sees(look.table)}) and ({look.condition})"


async def _shown(connection: asyncpg.Connection, look: Look) -> frozenset[int]:
    assert look.table in (*TABLES, SAID)
    rows = await connection.fetch(
        f"select log from audit where tab = $1 and uid is not null and {_condition(look)}", look.table
    )
    return frozenset(row["log"] for row in rows)


def _entry(line: asyncpg.Record) -> Entry:
    uid = None if line["uid"] is None else str(line["uid"])
    row = {} if uid is None else _row(line)
    return Entry(line["log"], int(line["xid"]), line["op"], line["tab"], uid, line["n"] or 0, row)


def _row(record: asyncpg.Record) -> Row:
    return {name: str(record[name]) if name == "uid" else record[name] for name in COLUMNS}
