"""A filter made ready for one version of a table: what it says of a row, without asking anybody where that
is sure.

A row is the JSON text of its values by column, as Postgres wrote it. Python decides only what it provably
decides as Postgres does: equality and membership where equal values have equal text, order on numbers, dates
and times, and `is`. Everything else is an Ask, which Postgres answers. Truth has three values, as in SQL; a
row passes when its filter is true. This module performs no I/O.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from rowcast.model.filter import Condition, Filter, Group, Op, Step

Truth = bool | None
#: A row's values: the JSON text of each column. A column that is not there is not known, and nothing matches
#: it.
Row = Mapping[str, bytes]

NULL: Final = b"null"
#: Types whose equal values have equal JSON text: Postgres writes each value in one way only.
_TEXTUAL: Final = frozenset(
    {"bool", "int2", "int4", "int8", "oid", "uuid", "text", "varchar", "name", "enum", "date", "time",
     "timestamp", "timestamptz"}
)  # fmt: skip
_INTEGERS: Final = frozenset({"int2", "int4", "int8"})
_TIMES: Final = frozenset({"date", "time", "timestamp", "timestamptz"})
#: Words whose meaning moves with time: they mean what they mean when a row is judged.
_MOVING: Final = re.compile("now|today|tomorrow|yesterday", re.IGNORECASE)
_FLOATS: Final = frozenset({"float4", "float8"})
_MOMENTS: Final = frozenset({"date", "timestamp", "timestamptz"})
_ORDERS: Final = frozenset({Op.LT, Op.LTE, Op.GT, Op.GTE})
_SET: Final = frozenset({Op.EQ, Op.NEQ, Op.IN, Op.ISDISTINCT})


@dataclass(frozen=True, slots=True)
class Ask:
    """A question that Postgres answers: a condition, without its negation, on a column of this type.

    ``type`` is the column's type and ``collation`` its collation, each qualified as SQL needs it; an empty
    collation is the type's own.
    """

    column: str
    type: str
    collation: str
    path: tuple[Step, ...]
    op: Op
    value: str


Answers = Mapping[Ask, Truth]
_Test = Callable[[Row, Answers], Truth]


@dataclass(frozen=True, slots=True)
class Column:
    """What a condition has to know of its column.

    ``kind`` is the scalar shape of its values after domains (``int8``, ``enum``), or ``other``. ``type``
    and ``collation`` are those of an Ask.
    """

    kind: str
    type: str
    collation: str = ""


#: What stands for a value of a column: equal, and in order, as Postgres has it.
Key = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Equal:
    """What every row that passes must meet: what ``key`` makes of the column is one of ``values``."""

    column: str
    key: Key
    values: frozenset[Any]


@dataclass(frozen=True, slots=True)
class Bound:
    """A filter that is one bound: what ``key`` makes of the column must be below it (``upper``), or above."""

    column: str
    key: Key
    value: Any
    upper: bool
    inclusive: bool


@dataclass(frozen=True, slots=True)
class Predicate:
    """A filter, ready.

    ``asks`` are what Postgres has to answer first. At most one of ``equal`` and ``bound`` is there, for an
    index; ``exact`` says that it is the whole filter, as a bound always is.
    """

    test: _Test
    asks: tuple[Ask, ...]
    equal: Equal | None
    exact: bool
    bound: Bound | None = None

    def passes(self, row: Row, answers: Answers) -> bool:
        """Whether the row passes."""
        return self.test(row, answers) is True


#: What no row passes, found by no index.
NEVER: Final = Predicate(lambda row, answers: False, (), Equal("", bytes, frozenset()), False)

#: The JSON texts of a condition's value, cast by Postgres to the type of the column: one, or those of an
#: `in` list.
Values = Mapping[Condition, Sequence[bytes]]


def casts(condition: Condition, kind: str) -> bool:
    """Whether the condition compares texts or numbers here, and needs its value in canonical form."""
    if condition.path or (kind in _TIMES and _MOVING.search(condition.value)):
        return False
    if condition.op in _SET:
        return kind in _TEXTUAL or kind == "numeric" or kind in _FLOATS
    return condition.op in _ORDERS and (
        kind in _INTEGERS or kind in _MOMENTS or kind == "numeric" or kind in _FLOATS
    )


def make_predicate(filter_: Filter, columns: Mapping[str, Column], values: Values) -> Predicate:
    """Make a filter ready. ``columns`` has every column it names, ``values`` every condition that
    ``casts``."""
    asks: list[Ask] = []
    test = _node(filter_, columns, values, asks)
    equal, bound = _equal(filter_, columns, values), _bound(filter_, columns, values)
    exact = (equal is not None and len(list(_conditions(filter_))) == 1) or bound is not None
    return Predicate(test, tuple(dict.fromkeys(asks)), equal, exact, bound)


def _node(node: Filter, columns: Mapping[str, Column], values: Values, asks: list[Ask]) -> _Test:
    if isinstance(node, Group):
        return _group(node, [_node(part, columns, values, asks) for part in node.parts])
    column = columns[node.column]
    if node.op is Op.IS and not node.path:
        return _is(node)
    if casts(node, column.kind):
        return _compares(node, column.kind, values[node])
    ask = Ask(node.column, column.type, column.collation, node.path, node.op, node.value)
    asks.append(ask)
    # `is` and `isdistinct` are never unknown, so negating what Postgres says is right for them as well.
    return (
        _negated(lambda row, answers: answers.get(ask))
        if node.negated
        else (lambda row, answers: answers.get(ask))
    )


def _group(group: Group, parts: Sequence[_Test]) -> _Test:
    decisive = group.any

    def test(row: Row, answers: Answers) -> Truth:
        unknown = False
        for part in parts:
            truth = part(row, answers)
            if truth is decisive:
                return decisive
            unknown = unknown or truth is None
        return None if unknown else not decisive

    return _negated(test) if group.negated else test


def _negated(test: _Test) -> _Test:
    def negated(row: Row, answers: Answers) -> Truth:
        truth = test(row, answers)
        return None if truth is None else not truth

    return negated


def _is(condition: Condition) -> _Test:
    column, negated = condition.column, condition.negated
    wanted = NULL if condition.value in ("null", "unknown") else condition.value.encode()

    def test(row: Row, answers: Answers) -> Truth:
        raw = row.get(column)
        return None if raw is None else (raw == wanted) is not negated

    return test


def _compares(condition: Condition, kind: str, values: Sequence[bytes]) -> _Test:
    column, negated, op = condition.column, condition.negated, condition.op
    key = _key(kind, op)
    # A NULL in an `in` list: what is not found may still be it.
    unknown = NULL in values
    accepted = frozenset(key(value) for value in values if value != NULL)

    if op is Op.ISDISTINCT:

        def distinct(row: Row, answers: Answers) -> Truth:
            raw = row.get(column)
            if raw is None:
                return None
            return (raw == NULL or key(raw) not in accepted) is not negated

        return distinct
    if op in _ORDERS:
        (bound,) = accepted
        compare = _ORDER[op]

        def ordered(row: Row, answers: Answers) -> Truth:
            raw = row.get(column)
            if raw is None or raw == NULL:
                return None
            return compare(key(raw), bound) is not negated

        return ordered
    within = negated if op is Op.NEQ else not negated

    def member(row: Row, answers: Answers) -> Truth:
        raw = row.get(column)
        if raw is None or raw == NULL:
            return None
        if key(raw) in accepted:
            return within
        return None if unknown else not within

    return member


_ORDER: Final[Mapping[Op, Callable[[Any, Any], bool]]] = {
    Op.LT: lambda value, bound: bool(value < bound),
    Op.LTE: lambda value, bound: bool(value <= bound),
    Op.GT: lambda value, bound: bool(value > bound),
    Op.GTE: lambda value, bound: bool(value >= bound),
}


def _key(kind: str, op: Op) -> Key:
    if kind == "numeric":
        return numeric_key
    if kind in _FLOATS:
        return float_key
    if op not in _ORDERS:
        return bytes
    return int if kind in _INTEGERS else moment_key


def numeric_key(raw: bytes) -> tuple[bool, Decimal]:
    """NaN equals itself, and is greater than all else."""
    value = Decimal(raw.decode().strip('"'))
    return (True, Decimal(0)) if value.is_nan() else (False, value)


def float_key(raw: bytes) -> tuple[bool, float]:
    """NaN equals itself, and is greater than all else."""
    value = float(raw.strip(b'"'))
    return (True, 0.0) if value != value else (False, value)


_PAST: Final = (-1, 0, "")
_FUTURE: Final = (1, 0, "")


def moment_key(raw: bytes) -> tuple[int, int, str]:
    """Dates and timestamps in ISO form: years of any length, BC, infinities. The zone is always UTC."""
    text = raw.decode().strip('"')
    match text:
        case "infinity":
            return _FUTURE
        case "-infinity":
            return _PAST
    bare = text.removesuffix(" BC")
    year, _, rest = bare.partition("-")
    # A fraction of a second is written without zeros at its end, so texts compare as the times do.
    return (0, 1 - int(year) if bare != text else int(year), rest.removesuffix("+00:00"))


def _equal(filter_: Filter, columns: Mapping[str, Column], values: Values) -> Equal | None:
    """The narrowest condition that every row which passes must meet, and that an index can find."""
    found = []
    for condition in _required(filter_):
        kind = columns[condition.column].kind
        if condition.op in (Op.EQ, Op.IN) and not condition.negated and casts(condition, kind):
            key = _key(kind, condition.op)
            accepted = frozenset(key(value) for value in values[condition] if value != NULL)
            found.append(Equal(condition.column, key, accepted))
    return min(found, key=lambda equal: len(equal.values), default=None)


def _bound(filter_: Filter, columns: Mapping[str, Column], values: Values) -> Bound | None:
    if isinstance(filter_, Group) or filter_.negated or filter_.op not in _ORDERS or filter_ not in values:
        return None
    key = _key(columns[filter_.column].kind, filter_.op)
    (value,) = values[filter_]
    upper, inclusive = filter_.op in (Op.LT, Op.LTE), filter_.op in (Op.LTE, Op.GTE)
    return Bound(filter_.column, key, key(value), upper, inclusive)


def _conditions(filter_: Filter) -> Iterator[Condition]:
    if isinstance(filter_, Condition):
        yield filter_
    else:
        for part in filter_.parts:
            yield from _conditions(part)


def _required(filter_: Filter) -> Iterator[Condition]:
    if isinstance(filter_, Condition):
        yield filter_
    elif not filter_.negated and (not filter_.any or len(filter_.parts) == 1):
        for part in filter_.parts:
            yield from _required(part)
