"""What a row looked like: the versions of tables that changes refer to, read once and kept."""

from collections.abc import Iterable

import asyncpg
import msgspec

from rowcast.model.change import Column, Relation

_VERSIONS = """select id, root, schema_name, table_name, columns, identity, omitted, rls
from rowcast.relations where id = any($1::int[])"""


class Relations:
    """The versions seen so far, by id. A version never changes once it is made."""

    def __init__(self) -> None:
        self._known: dict[int, Relation] = {}

    async def load(self, connection: asyncpg.Connection, ids: Iterable[int]) -> None:
        """Make sure that these versions are known."""
        missing = [id_ for id_ in ids if id_ not in self._known]
        if missing:
            for record in await connection.fetch(_VERSIONS, missing):
                self._known[record["id"]] = _relation(record)

    def __getitem__(self, id_: int) -> Relation:
        return self._known[id_]


def _relation(record: asyncpg.Record) -> Relation:
    columns = msgspec.json.decode(record["columns"], type=list[tuple[str, str]])
    return Relation(
        id=record["id"],
        oid=record["root"],
        schema=record["schema_name"],
        table=record["table_name"],
        columns=tuple(Column(name, type_) for name, type_ in columns),
        identity=frozenset(record["identity"]),
        omitted=frozenset(record["omitted"]),
        rls=record["rls"],
    )
