"""Snapshots as tests take them: of tables by their names, and what came of them."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg

from rowcast.auth.visibility import SEARCH_PATH
from rowcast.capture.cursors import Wanted
from rowcast.capture.snapshots import Batch, Snapshots, Taken
from rowcast.model.binding import Binding, parse_binding
from rowcast.model.claims import Subject
from support.visible import subject


class Table(NamedTuple):
    """A table, as a binding is accepted for it."""

    oid: int


def snapshots(dsn: str, **options: Any) -> Snapshots:
    """Snapshots of a database."""
    return Snapshots(dsn, search_path=SEARCH_PATH, **options)


def asked(table: str, **entry: Any) -> Binding:
    """A binding that wants a snapshot of a table of the schema public."""
    return parse_binding({"event": "*", "schema": "public", "table": table, "snapshot": True, **entry})


async def wanted(connection: asyncpg.Connection, *bindings: Binding) -> list[Wanted]:
    """The bindings, each with the table that it names."""
    sql = "select format('%I.%I', $1::text, $2::text)::regclass::oid::int"
    return [Wanted(one, [Table(await connection.fetchval(sql, one.schema, one.table))]) for one in bindings]


@asynccontextmanager
async def taken(
    source: Snapshots, connection: asyncpg.Connection, who: Subject, *bindings: Binding
) -> AsyncIterator[Taken]:
    async with source.take(who, await wanted(connection, *bindings)) as found:
        yield found


async def batches(
    source: Snapshots, connection: asyncpg.Connection, who: Subject, *bindings: Binding
) -> tuple[list[Batch], Mapping[int, str]]:
    """Everything that comes, and the faults."""
    async with taken(source, connection, who, *bindings) as found:
        return [batch async for batch in found.batches()], found.faults


def records(found: Sequence[Batch], place: int = 0) -> list[dict[str, Any]]:
    """The rows of one binding, before they are rewritten for the wire."""
    return [json.loads(image) for batch in found if batch.place == place for image in batch.images]


async def rows(
    source: Snapshots, connection: asyncpg.Connection, table: str, who: Subject | None = None, **entry: Any
) -> list[dict[str, Any]]:
    """The rows of a table that a role is given; AssertionError where there is a fault."""
    found, faults = await batches(source, connection, who or subject(), asked(table, **entry))
    assert not faults, faults
    assert [batch.last for batch in found] == [False] * (len(found) - 1) + [True]
    return records(found)


async def fault(
    source: Snapshots, connection: asyncpg.Connection, table: str, who: Subject | None = None, **entry: Any
) -> str:
    """Why there is no snapshot of a table."""
    found, faults = await batches(source, connection, who or subject(), asked(table, **entry))
    assert not found
    return faults[0]
