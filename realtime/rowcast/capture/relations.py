"""What a row looked like: the versions of tables that changes refer to, read once and kept."""

from collections.abc import Iterable
from typing import Any

import asyncpg
import msgspec

from rowcast.db.connection import Session
from rowcast.model.change import Column, Relation
from rowcast.model.shape import parse_shape

_VERSIONS = """select id, root, schema_name, table_name, columns, identity, omitted, rls
from rowcast.relations where id = any($1::int[])"""


class _Entry(msgspec.Struct, array_like=True):
    """A column as it stands in ``rowcast.relations.columns``. Older versions have the first members only."""

    name: str
    type: str
    shape: Any = None
    key: bool = False
    sql: str | None = None
    collation: str | None = None
    shown: str | None = None


class Relations:
    """The versions seen so far, by id. A version never changes within a history of the database."""

    def __init__(self) -> None:
        self._known: dict[int, Relation] = {}

    async def load(self, connection: Session, ids: Iterable[int]) -> None:
        """Make sure that these versions are known."""
        missing = [id_ for id_ in ids if id_ not in self._known]
        if missing:
            for record in await connection.fetch(_VERSIONS, missing):
                self._known[record["id"]] = _relation(record)

    def forget(self) -> None:
        """Another history of the database gives the same ids to others."""
        self._known.clear()

    def __getitem__(self, id_: int) -> Relation:
        return self._known[id_]


def _relation(record: asyncpg.Record) -> Relation:
    entries = msgspec.json.decode(record["columns"], type=list[_Entry])
    return Relation(
        id=record["id"],
        oid=record["root"],
        schema=record["schema_name"],
        table=record["table_name"],
        columns=tuple(_column(entry) for entry in entries),
        identity=frozenset(record["identity"]),
        omitted=frozenset(record["omitted"]),
        rls=record["rls"],
        key=frozenset(entry.name for entry in entries if entry.key),
    )


def _column(entry: _Entry) -> Column:
    return Column(
        entry.name,
        entry.type,
        None if entry.shape is None else parse_shape(entry.shape),
        entry.sql or f'pg_catalog."{entry.type}"',
        entry.collation or "",
        entry.shown or entry.type,
    )
