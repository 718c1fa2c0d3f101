"""Snapshot: rows of a table as they were at one moment, as an ``on_snapshot`` callback receives them."""

from dataclasses import dataclass
from typing import Any

import msgspec

from .errors import ProtocolError
from .values import convert_row


class _Column(msgspec.Struct):
    name: str
    type: str


class _Wire(msgspec.Struct):
    schema: str
    table: str
    columns: list[_Column] = []
    records: list[msgspec.Raw] = []
    key: list[str] = []
    errors: list[str] | None = None
    last: bool = False
    position: str | None = None


_wire = msgspec.json.Decoder(_Wire)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A batch of the rows that the channel's role could see and its filter let through, at ``position``.

    ``first`` says that the snapshot begins: what an earlier one gave is void. Changes after the moment of the
    snapshot follow once all snapshots of the channel had their ``last`` batch.
    """

    schema: str
    table: str
    rows: list[dict[str, Any]]
    """The rows with Python values, in the order asked for."""
    key: tuple[str, ...]
    """The columns by which ``old`` of a change names a row; empty where there is no such key."""
    first: bool
    last: bool
    position: str | None
    errors: list[str] | None
    """Why the rows are not whole (one was too large, say), or None."""


def read_snapshot(data: bytes, first: bool) -> Snapshot:
    """A batch from its JSON. Raises ProtocolError."""
    try:
        wire = _wire.decode(data)
        types = {column.name: column.type for column in wire.columns}
        rows = [convert_row(record, types) for record in wire.records]
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise ProtocolError("a snapshot has another shape than the protocol's") from fault
    return Snapshot(
        wire.schema, wire.table, rows, tuple(wire.key), first, wire.last, wire.position, wire.errors
    )
