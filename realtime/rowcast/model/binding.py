"""What a subscriber asks of ``postgres_changes``: an event, a schema, a table, a filter, columns.

This module performs no I/O.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from rowcast.model.elixir import inspect
from rowcast.model.filter import Filter, FilterError, Group, parse_filter, write_filter, write_path

WILDCARD = "*"
_EVENTS = frozenset({"INSERT", "UPDATE", "DELETE"})
# Below 2**53, so that JavaScript keeps every digit.
_ID_BYTES = 6
_TEXT_WIDTH = 80
# An entry with one of these is never shown: the key holds a secret.
_TOKENS = frozenset({"user_token", "auth_token"})

_canonical = msgspec.json.Encoder(order="deterministic")


class BindingError(ValueError):
    """A binding that cannot be subscribed. The text goes to the client in a ``system`` message."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One entry of a join's ``config.postgres_changes``, read.

    ``event`` is ``*``, ``INSERT``, ``UPDATE`` or ``DELETE``; ``schema`` and ``table`` are names or ``*``.
    ``filter`` is what a row must pass, ``select`` the columns that are wanted, each once; None is all rows,
    or all columns. ``id`` is what the client finds in the ``ids`` of a change: a hash of the entry's
    parameters, so that all subscribers of equal parameters can be sent the very same bytes.
    """

    id: int
    event: str
    schema: str
    table: str
    filter: Filter | None = None
    select: tuple[str, ...] | None = None

    def describe(self) -> str:
        """The parameters as Supabase's error texts show them. A group of conditions is shown as its text."""
        filters = inspect([_described(part) for part in _parts(self.filter)], _TEXT_WIDTH)
        select = inspect(None if self.select is None else list(self.select), _TEXT_WIDTH)
        return (
            f"[event: {self.event}, schema: {self.schema}, table: {self.table}, "
            f"filters: {filters}, select: {select}]"
        )


def binding_id(entry: Mapping[str, Any]) -> int:
    """The wire id of an entry: never zero, below 2**48, equal for equal parameters on every node."""
    digest = hashlib.blake2b(_canonical.encode(entry), digest_size=_ID_BYTES).digest()
    return int.from_bytes(digest, "big") or 1


def parse_binding(entry: Mapping[str, Any]) -> Binding:
    """Read one entry of ``config.postgres_changes``.

    Raises BindingError, whose text names what was wrong, as Supabase's server words it where it has a word.
    """
    select = _select(entry.get("select"))
    # An empty name is none, as clients mean it that send every key they know.
    names = {name: entry[name] for name in ("schema", "table") if name in entry and entry[name] != ""}
    given = [*names.values(), entry.get("filter", "")]
    if (
        not names
        or ("filter" in entry and len(names) == 1)
        or not all(isinstance(value, str) for value in given)
    ):
        raise BindingError(
            "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: "
            + ("<redacted>" if _TOKENS & entry.keys() else inspect(dict(entry)))
        )
    schema, table = names.get("schema", "public"), names.get("table", WILDCARD)
    try:
        filter_ = parse_filter(entry.get("filter", ""))
    except FilterError as error:
        raise BindingError(str(error)) from error
    if select and WILDCARD in (schema, table):
        raise BindingError(
            "Column selection is not supported for wildcard subscriptions. "
            "Provide an explicit schema and table name."
        )
    if any("\0" in name for name in (schema, table, *(select or ()))):
        raise BindingError(
            "The name of a schema, table or column cannot hold a NUL: no name in Postgres does."
        )
    event = entry.get("event")
    event = event.upper() if isinstance(event, str) else WILDCARD
    return Binding(
        id=binding_id(entry),
        event=event if event in _EVENTS else WILDCARD,
        schema=schema,
        table=table,
        filter=filter_,
        select=select,
    )


def _select(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        raise BindingError(
            "Error parsing `select` params: expected a list of column name strings, "
            'e.g. select: ["col1", "col2"]'
        )
    columns = [column for column in value if isinstance(column, str)] if isinstance(value, list) else []
    return tuple(dict.fromkeys(columns)) or None


def _parts(filter_: Filter | None) -> tuple[Filter, ...]:
    """What all of must hold."""
    match filter_:
        case None:
            return ()
        case Group(any=False, negated=False):
            return filter_.parts
        case _:
            return (filter_,)


def _described(part: Filter) -> object:
    if isinstance(part, Group):
        return write_filter(part)
    return (part.column + write_path(part.path), str(part.op), part.value, part.negated)
