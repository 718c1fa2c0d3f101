"""What a row change is: a relation as it looked when the row was written, and the row's two images.

This module performs no I/O. Row images stay the JSON text that Postgres wrote; nothing here parses them.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from rowcast.model.shape import Shape


class Op(StrEnum):
    """The operation of a change, as it stands on the wire in ``data.type``.

    A LEAVE is an UPDATE as those see it who are no longer shown the row. Nobody writes one.
    """

    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    TRUNCATE = "TRUNCATE"
    LEAVE = "LEAVE"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a relation: its name and its ``pg_type.typname`` (``int8``, ``_text``, ``mood``).

    ``shape`` says what the JSON of its values is; None where the relation was described before shapes were.
    ``sql`` and ``collation`` are its type and collation, qualified as SQL writes them; an empty collation is
    the type's own. ``shown`` is the type as people read it (``bigint``).
    """

    name: str
    type: str
    shape: Shape | None = None
    sql: str = ""
    collation: str = ""
    shown: str = ""


@dataclass(frozen=True, slots=True)
class Relation:
    """One version of a captured table. DDL makes a new version; a change refers to the one it was made under.

    ``schema``, ``table`` and ``oid`` are those of the table to report, whose rights count: the topmost
    published ancestor when the row was written to a partition. ``identity`` names the columns of the replica
    identity, which are those ``old_record`` may show. ``omitted`` names columns of the images that are not
    reported. ``rls`` says whether row level security was on. ``key`` names the columns of the primary key.
    """

    id: int
    oid: int
    schema: str
    table: str
    columns: tuple[Column, ...]
    identity: frozenset[str]
    omitted: frozenset[str] = frozenset()
    rls: bool = False
    key: frozenset[str] = frozenset()
    whole_identity: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "whole_identity", self.identity >= {column.name for column in self.columns})

    def __hash__(self) -> int:
        # Relations key caches that are asked once a change: a hash over every column would cost more than
        # what is cached.
        return hash(self.id)


@dataclass(frozen=True, slots=True)
class Change:
    """One committed row change, or one TRUNCATE (both images are None then).

    ``record`` and ``old_record`` are JSON objects as bytes: the new row of an INSERT or UPDATE, and the whole
    old row of an UPDATE or DELETE. ``seq`` is the change's own number, unique within an epoch. ``position``
    is the opaque text from which to resume after this change, ``before`` the one that precedes it.
    ``commit_timestamp`` is UTC with milliseconds.
    """

    relation: Relation
    op: Op
    record: bytes | None
    old_record: bytes | None
    seq: int
    position: str
    commit_timestamp: str
    before: str = ""

    def leave(self) -> "Change":
        """An UPDATE as those see it who are no longer shown its row."""
        return replace(self, op=Op.LEAVE, record=None)
