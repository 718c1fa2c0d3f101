"""What a subscriber asks of ``postgres_changes``: an event, a schema, a table, a filter, columns.

This module performs no I/O.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from rowcast.model.elixir import inspect
from rowcast.model.filter import Filter, FilterError, Group, parse_filter, write_filter, write_path
from rowcast.model.flag import flag

WILDCARD = "*"
_EVENTS = frozenset({"INSERT", "UPDATE", "DELETE"})
# Below 2**53, so that JavaScript keeps every digit.
_ID_BYTES = 6
_TEXT_WIDTH = 80
# An entry with one of these is never shown: the key holds a secret.
_TOKENS = frozenset({"user_token", "auth_token"})
# What a join asks for once, and says nothing of what is sent for a change.
_ONCE = frozenset({"resume", "snapshot"})
#: Rows in one message of a snapshot.
BATCH: Final = 500
MAX_BATCH: Final = 5_000
#: What Postgres takes for a LIMIT.
_MAX_LIMIT: Final = 2**63 - 1
_ORDER_BY: Final = (
    r"""\s*+(?:"((?:[^"\\]|\\.)++)"|([^.,"]++))(?:\.(asc|desc))?(?:\.(nullsfirst|nullslast))?\s*+"""
)
_ORDER: Final = re.compile(_ORDER_BY, re.DOTALL)
_ORDERS: Final = re.compile(f"{_ORDER_BY}(?:,{_ORDER_BY})*+", re.DOTALL)

_canonical = msgspec.json.Encoder(order="deterministic")


class BindingError(ValueError):
    """A binding that cannot be subscribed. The text goes to the client in a ``system`` message."""


class Order(NamedTuple):
    """A column that a snapshot is ordered by. ``nulls_first`` is None where Postgres' own order is meant."""

    column: str
    descending: bool = False
    nulls_first: bool | None = None


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """How the rows that are there already are wanted.

    ``order`` is by which columns, the first of them first; ``limit`` how many rows at most (None is all), and
    ``batch`` how many in one message.
    """

    order: tuple[Order, ...] = ()
    limit: int | None = None
    batch: int = BATCH


@dataclass(frozen=True, slots=True)
class Binding:
    """One entry of a join's ``config.postgres_changes``, read.

    ``event`` is ``*``, ``INSERT``, ``UPDATE`` or ``DELETE``; ``schema`` and ``table`` are names or ``*``.
    ``filter`` is what a row must pass, ``select`` the columns that are wanted, each once; None is all rows,
    or all columns. ``id`` is what the client finds in the ``ids`` of a change: a hash of the entry's
    parameters, so that all subscribers of equal parameters can be sent the very same bytes. ``leave`` and
    ``truncate`` say whether rows that leave what is asked for, and TRUNCATEs, are told. ``snapshot`` is how
    the rows that are there already are wanted, None where they are not; bindings that differ in it only are
    equal, since they hear the same.
    """

    id: int
    event: str
    schema: str
    table: str
    filter: Filter | None = None
    select: tuple[str, ...] | None = None
    leave: bool = False
    truncate: bool = False
    snapshot: SnapshotOptions | None = field(default=None, compare=False)

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
    lasting = {name: entry[name] for name in entry if name not in _ONCE}
    digest = hashlib.blake2b(_canonical.encode(lasting), digest_size=_ID_BYTES).digest()
    return int.from_bytes(digest, "big") or 1


def parse_binding(entry: Mapping[str, Any], *, leave: bool = False, truncate: bool = False) -> Binding:
    """Read one entry of ``config.postgres_changes``. ``leave`` and ``truncate`` hold for all of its join.

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
    snapshot = parse_snapshot(entry.get("snapshot"))
    if snapshot is not None and WILDCARD in (schema, table):
        raise BindingError(
            "Snapshots are not supported for wildcard subscriptions. "
            "Provide an explicit schema and table name."
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
        leave=leave or flag(entry.get("leave")),
        truncate=truncate or flag(entry.get("truncate")),
        snapshot=snapshot,
    )


def parse_snapshot(value: Any) -> SnapshotOptions | None:
    """What an entry says of a snapshot: ``true``, or an object with ``order``, ``limit`` and ``batch``.

    Raises BindingError, whose text names what is wrong.
    """
    if value is None or value is False:
        return None
    if value is True:
        return SnapshotOptions()
    if not isinstance(value, dict):
        raise _bad_snapshot("expected true, or an object with `order`, `limit` and `batch`")
    if unknown := sorted(value.keys() - {"order", "limit", "batch"}):
        raise _bad_snapshot(f"expected `order`, `limit` and `batch` and no {unknown[0][:_TEXT_WIDTH]!r}")
    batch = _integer(value, "batch", MAX_BATCH)
    return SnapshotOptions(
        order=_order(value.get("order")),
        limit=_integer(value, "limit", _MAX_LIMIT),
        batch=BATCH if batch is None else batch,
    )


def _order(value: Any) -> tuple[Order, ...]:
    """PostgREST's ``column[.asc|.desc][.nullsfirst|.nullslast]``, joined by commas."""
    if value is None:
        return ()
    if not isinstance(value, str):
        raise _bad_snapshot("expected `order` to be a string, as in `created_at.desc.nullslast,id`")
    if not value.strip():
        return ()
    if "\0" in value or not _ORDERS.fullmatch(value):
        raise _bad_snapshot(
            "expected `order` to be `column[.asc|.desc][.nullsfirst|.nullslast]`, joined by commas, "
            "names that hold `.`, `,` or a quote in double quotes; "
            f"found {inspect(value[:_TEXT_WIDTH], _TEXT_WIDTH)}"
        )
    return tuple(
        Order(
            re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) if quoted else bare.strip(),
            direction == "desc",
            nulls == "nullsfirst" if nulls else None,
        )
        for quoted, bare, direction, nulls in _ORDER.findall(value)
    )


def _integer(options: Mapping[str, Any], name: str, most: int) -> int | None:
    value = options.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise _bad_snapshot(f"expected `{name}` to be a whole number from 1 to {most}")
    return value


def _bad_snapshot(reason: str) -> BindingError:
    return BindingError(f"Error parsing `snapshot` params: {reason}")


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
