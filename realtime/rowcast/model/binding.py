"""What a subscriber asks of ``postgres_changes``: an event, a schema, a table.

This module performs no I/O.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

WILDCARD = "*"
_EVENTS = frozenset({"INSERT", "UPDATE", "DELETE"})
# Below 2**53, so that JavaScript keeps every digit.
_ID_BYTES = 6

_canonical = msgspec.json.Encoder(order="deterministic")


class BindingError(ValueError):
    """A binding that cannot be subscribed. The text goes to the client in a ``system`` message."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One entry of a join's ``config.postgres_changes``, read.

    ``event`` is ``*``, ``INSERT``, ``UPDATE`` or ``DELETE``; ``schema`` and ``table`` are names or ``*``.
    ``id`` is what the client finds in the ``ids`` of a change: a hash of the entry's parameters, so that all
    subscribers of equal parameters can be sent the very same bytes.
    """

    id: int
    event: str
    schema: str
    table: str

    def describe(self) -> str:
        """The parameters as Supabase's error texts show them."""
        return f"[event: {self.event}, schema: {self.schema}, table: {self.table}, filters: [], select: nil]"


def binding_id(entry: Mapping[str, Any]) -> int:
    """The wire id of an entry: never zero, below 2**48, equal for equal parameters on every node."""
    digest = hashlib.blake2b(_canonical.encode(entry), digest_size=_ID_BYTES).digest()
    return int.from_bytes(digest, "big") or 1


def parse_binding(entry: Mapping[str, Any]) -> Binding:
    """Read one entry of ``config.postgres_changes``.

    Raises BindingError, whose text names what was wrong, as Supabase's server words it where it has a word.
    """
    schema, table = (None if entry.get(name) == "" else entry.get(name) for name in ("schema", "table"))
    if "filter" in entry and not (isinstance(entry["filter"], str) and not entry["filter"].strip()):
        raise BindingError(
            "Filters are not supported by this server. Leave `filter` out of the subscription."
        )
    if "select" in entry and entry["select"] != []:
        raise BindingError(
            "Column selection is not supported by this server. Leave `select` out of the subscription."
        )
    named = [value for value in (schema, table) if value is not None]
    if not named or not all(isinstance(value, str) for value in named):
        raise BindingError(
            "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: "
            + _canonical.encode(entry).decode()
        )
    if any("\0" in value for value in named):
        raise BindingError("A `schema` or `table` cannot hold a NUL character: no name in Postgres does.")
    event = entry.get("event")
    event = event.upper() if isinstance(event, str) else WILDCARD
    return Binding(
        id=binding_id(entry),
        event=event if event in _EVENTS else WILDCARD,
        schema="public" if schema is None else str(schema),
        table=WILDCARD if table is None else str(table),
    )
