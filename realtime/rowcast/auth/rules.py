"""What SELECT on a table means for a role: all rows, none, or those that its policies let through.

A rule is read from the catalog and kept until the stream of changes says that the catalog changed. It also
says which images its policies can be applied to: those that hold every column they read, with the type they
read it as.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import asyncpg

from rowcast.db.connection import Session
from rowcast.model.change import Relation

_RULES: Final = "select * from rowcast.rules($1, $2)"
_ORIGIN: Final = "select oid from rowcast.relations where id = $1"
_TABLEOID: Final = -6


class Sees(StrEnum):
    """What a role sees of a table. ``BARRED``: its policies count, and this server may not assume it."""

    EVERYTHING = "everything"
    NOTHING = "nothing"
    SOME = "some"
    BARRED = "barred"


class Attribute(NamedTuple):
    """A column as the table has it now. ``type`` is qualified as SQL writes it; ``read`` says whether a
    policy reads it, ``exact`` whether the JSON of its values reads back; ``computed`` is the expression of a
    virtual generated column.
    """

    name: str
    type: str
    read: bool
    exact: bool
    computed: str | None


class KeyColumn(NamedTuple):
    """A column of the primary key, and the operator that its index compares with."""

    name: str
    type: str
    operator: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What a role sees of a table. Two rules are equal when the same functions judge by them.

    ``condition`` is SQL over a row under the table's own name; empty unless ``sees`` is SOME.
    """

    oid: int
    role: str
    sees: Sees
    condition: str = ""
    schema: str = ""
    table: str = ""
    columns: tuple[Attribute, ...] = ()
    whole: bool = False
    system: frozenset[int] = frozenset()
    key: tuple[KeyColumn, ...] = ()

    @property
    def reads_tableoid(self) -> bool:
        return _TABLEOID in self.system

    def fits(self, relation: Relation) -> bool:
        """Whether an image of this version of the table says all that the policies ask of a row."""
        if self.system - {_TABLEOID} or (self.system and self.whole):
            return False
        types = {column.name: column.sql for column in relation.columns}
        # What a virtual column is computed from is not known: then every column has to be as it was.
        virtual = any(column.read and column.computed is not None for column in self.columns)
        return all(
            (column.name in relation.omitted or types.get(column.name) == column.type)
            and (column.exact or not column.read)
            for column in self.columns
            if column.computed is None and (column.read or virtual)
        )

    def finds(self, relation: Relation) -> bool:
        """Whether an image of this version says which row of the table it is of."""
        types = {column.name: column.sql for column in relation.columns}
        return bool(self.key) and all(types.get(column.name) == column.type for column in self.key)


class Rules:
    """The rules of one database, by table and role. ``seconds`` bounds the reading of those of a table."""

    def __init__(self, roles: Iterable[str], seconds: float) -> None:
        self.roles = frozenset(roles)
        self._seconds = seconds
        self._known: dict[tuple[int, str], Rule] = {}
        self._generation = 0
        self._origins: dict[int, int] = {}

    def forget(self) -> None:
        """The catalog changed: ask again before the next change."""
        self._known.clear()
        self._generation += 1

    async def load(self, connection: Session, oid: int, roles: Iterable[str]) -> dict[str, Rule]:
        """The rules of a table, by role. A role that is gone, or that is none of ours, sees nothing.

        Raises ``asyncpg.QueryCanceledError`` after ``seconds``: a table that a policy names may be locked.
        """
        wanted = set(roles)
        while missing := [role for role in wanted & self.roles if (oid, role) not in self._known]:
            generation = self._generation
            async with connection.transaction():
                await connection.execute(f"set local statement_timeout = {int(self._seconds * 1000)}")
                statement = await connection.prepare(_RULES, name="")
                records = await statement.fetch(oid, missing)
            found = {record["role"]: _rule(oid, record) for record in records}
            # What was read before the catalog changed must not stand over what is read after it.
            if generation == self._generation:
                for role in missing:
                    self._known[oid, role] = found.get(role, Rule(oid, role, Sees.NOTHING))
        nothing = {role: Rule(oid, role, Sees.NOTHING) for role in wanted - self.roles}
        return nothing | {role: self._known[oid, role] for role in wanted & self.roles}

    async def origin(self, connection: Session, relation: Relation) -> int:
        """The oid of the table or partition that rows of this version were written to."""
        if relation.id not in self._origins:
            statement = await connection.prepare(_ORIGIN, name="")
            self._origins[relation.id] = await statement.fetchval(relation.id) or relation.oid
        return self._origins[relation.id]


def _rule(oid: int, record: asyncpg.Record) -> Rule:
    return Rule(
        oid=oid,
        role=record["role"],
        sees=Sees(record["sees"]),
        condition=record["condition"] if record["sees"] == Sees.SOME else "",
        schema=record["schema_name"],
        table=record["table_name"],
        columns=tuple(Attribute(*entry) for entry in json.loads(record["columns"] or "[]")),
        whole=record["whole"],
        system=frozenset(record["system"]),
        key=tuple(KeyColumn(*entry) for entry in json.loads(record["key"] or "[]")),
    )
