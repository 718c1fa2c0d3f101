"""Filters and Postgres: what a filter means for a table, asked when it is subscribed, and the conditions
that only Postgres can judge, asked for the rows of a batch.

Both run under the subscriber's role. Values are cast by Postgres once. Rows are given as the JSON that was
captured, with the types that the filter was checked against, so that a table may change or go meanwhile.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import asyncpg
import structlog

from rowcast.capture.conditions import MAX_IN, MAX_VALUE, PATTERNS, Type, expression, probe, quoted, schema_of
from rowcast.db.connection import LOST, Session
from rowcast.db.roles import RoleUnavailable, Stubborn, as_role, end_sessions, set_role, undone, within
from rowcast.model.binding import Binding
from rowcast.model.change import Relation
from rowcast.model.filter import Condition, Op, conditions
from rowcast.model.predicate import NEVER, NULL, Ask, Column, Predicate, Row, Truth, casts, make_predicate
from rowcast.model.reading import NOTHING
from rowcast.model.shape import OTHER, Shape

#: Bytes of values that are kept.
_KEPT_BYTES: Final = 16 * 1024 * 1024
_ESCAPED_END: Final = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")
# As rowcast.pin does it for the rows.
#: Values that are cast by one statement, and in how many parts one that failed is tried again.
_MANY: Final = 1_000
_PARTS: Final = 10
#: Conditions that differ in more than their value, in one question: a function has 100 arguments at most.
_GROUPS: Final = 90
#: What Postgres may take to check a filter: compiling a pattern can take long.
_CHECK_SECONDS: Final = 2.0
#: Classes of SQLSTATE that say something of a statement: of its data, its syntax and rights, what it raised.
_FAULTS: Final = frozenset({"0A", "22", "23", "2B", "42", "P0", "54"})
_TRUTHS: Final = frozenset({"null", "true", "false", "unknown"})

log = structlog.get_logger("rowcast.filters")


class FilterError(Exception):
    """A filter that does not fit its table. The text is what follows `Exception: ` in the message to the
    client."""

    def __init__(self, text: str, code: str = "P0001", name: str = "raise_exception") -> None:
        super().__init__(f"ERROR {code} ({name}) {text}")


class Filters:
    """The filters of one database. Keeps what was cast, and the types of the versions of tables."""

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[str, Op, str], tuple[bytes, ...]] = OrderedDict()
        self._kept = 0
        self._types: dict[int, dict[str, Type]] = {}
        #: Types whose code went on when it was to end, and what is left of it.
        self._stubborn: set[str] = set()
        self._left: list[int] = []

    async def prepare(
        self,
        connection: Session,
        relation: Relation,
        binding: Binding,
        role: str,
        others: Mapping[int, Predicate] = {},
        hidden: frozenset[str] = NOTHING,
    ) -> Predicate | None:
        """Make the filter of a binding ready for a version of a table, and check what it selects.

        ``others`` are the same filter, ready for other versions: one whose columns have the same types will
        do. Columns that are ``hidden`` from the role are not there for it. Raises FilterError, whose text
        says what does not fit. None for a binding without a filter.
        """
        types = self._types_of(relation)
        if hidden:
            types = {name: type_ for name, type_ in types.items() if name not in hidden}
        for name in binding.select or ():
            if name not in types:
                raise FilterError(f"invalid column for select {name}")
        if binding.filter is None:
            return None
        found = list(dict.fromkeys(conditions(binding.filter)))
        for condition in found:
            _check(condition, types)
        for id_, predicate in others.items():
            known = self._types.get(id_, {})
            if predicate is not NEVER and all(
                known.get(condition.column) == types[condition.column] for condition in found
            ):
                return predicate
        values = {}
        unknown = []
        for condition in found:
            type_ = types[condition.column]
            key = (type_.type, condition.op, condition.value)
            if not casts(condition, type_.kind):
                if not (condition.op is Op.IS and not condition.path):
                    unknown.append(condition)
            elif (kept := self._values.get(key)) is not None:
                self._values.move_to_end(key)
                values[condition] = kept
            else:
                unknown.append(condition)
        if unknown:
            values |= await self._ask(connection, unknown, types, role)
        columns = {name: Column(type_.kind, type_.type, type_.collation) for name, type_ in types.items()}
        return make_predicate(binding.filter, columns, values)

    async def cast_ahead(
        self, connection: Session, relation: Relation, bindings: Iterable[Binding], role: str
    ) -> None:
        """Have Postgres cast what the filters of many bindings hold, many values by one statement. What it
        cannot cast is left for ``prepare`` to say."""
        types = self._types_of(relation)
        wanted: dict[tuple[Type, bool], dict[str, dict[Op, Condition]]] = {}
        for binding in bindings:
            for condition in conditions(binding.filter) if binding.filter is not None else ():
                type_ = types.get(condition.column)
                if type_ is None or type_.type in self._stubborn or not casts(condition, type_.kind):
                    continue
                if (type_.type, condition.op, condition.value) not in self._values:
                    of_type = wanted.setdefault((type_, condition.op is Op.IN), {})
                    of_type.setdefault(condition.value, {})[condition.op] = condition
        for (type_, _), values in wanted.items():
            listed = [list(by_op.values()) for by_op in values.values()]
            for begin in range(0, len(listed), _MANY):
                await self._cast_many(connection, listed[begin : begin + _MANY], type_, role)

    async def _cast_many(
        self, connection: Session, asked: Sequence[Sequence[Condition]], type_: Type, role: str
    ) -> None:
        """Values of one type, each with the conditions that have it. Where one cannot be cast, in parts."""
        if len(asked) < _PARTS:
            return
        value = probe(asked[0][0], type_, "u.v")
        sql = f"select {value} from unnest($1::text[]) with ordinality as u (v, k) order by u.k"
        values = [same[0].value for same in asked]
        try:
            records = await _asked(
                connection, role, [schema_of(type_.type)], _CHECK_SECONDS, sql, ["text[]"], values
            )
        except RoleUnavailable:
            return
        except Stubborn as error:
            self._give_up(error, type_)
            return
        except asyncpg.PostgresError as error:
            if isinstance(error, LOST):
                raise
            step = len(asked) // _PARTS
            for begin in range(0, len(asked), step):
                await self._cast_many(connection, asked[begin : begin + step], type_, role)
            return
        for same, (texts,) in zip(asked, records, strict=True):
            for condition in same:
                if not _fault_of(condition, texts):
                    self._keep((type_.type, condition.op, condition.value), _raws(texts))

    def _types_of(self, relation: Relation) -> dict[str, Type]:
        known = self._types.get(relation.id)
        if known is None:
            known = self._types[relation.id] = {
                column.name: Type(column.sql, column.collation, column.shown, _kind(column.shape))
                for column in relation.columns
            }
        return known

    async def _ask(
        self, connection: Session, asked: Sequence[Condition], types: Mapping[str, Type], role: str
    ) -> dict[Condition, tuple[bytes, ...]]:
        """Have Postgres cast the values and look at the operators, all at once; one by one to find a
        fault."""
        await end_sessions(connection, self._left)
        type_ = types[asked[0].column]
        if len(asked) == 1 and type_.type in self._stubborn:
            raise FilterError(f"{type_.shown} takes too long to be read", "57014", "query_canceled")
        # Whose code does not end when it is told to must be known.
        if len(asked) == 1 or not any(is_of_others(types[one.column].type) for one in asked):
            try:
                return await self._cast(connection, asked, types, role)
            except RoleUnavailable as error:
                raise FilterError(str(error), "42501", "insufficient_privilege") from None
            except Stubborn as error:
                self._give_up(error, type_)
                raise FilterError(str(error), "57014", "query_canceled") from None
            except asyncpg.PostgresError as error:
                # A lost connection, a server without room, a time limit: nothing that the filter is to blame
                # for.
                if (error.sqlstate or "")[:2] not in _FAULTS:
                    raise
                if len(asked) == 1:
                    raise _fault(error, asked[0], type_) from None
        found: dict[Condition, tuple[bytes, ...]] = {}
        for condition in asked:
            found |= await self._ask(connection, [condition], types, role)
        return found

    async def _cast(
        self, connection: Session, asked: Sequence[Condition], types: Mapping[str, Type], role: str
    ) -> dict[Condition, tuple[bytes, ...]]:
        parts = [
            probe(condition, types[condition.column], f"($1::text[])[{number}]")
            for number, condition in enumerate(asked, start=1)
        ]
        schemas = [schema_of(types[condition.column].type) for condition in asked]
        (record,) = await _asked(
            connection,
            role,
            schemas,
            _CHECK_SECONDS,
            "select " + ", ".join(parts),
            ["text[]"] * len(asked),
            [condition.value for condition in asked],
        )
        found: dict[Condition, tuple[bytes, ...]] = {}
        for condition, texts in zip(asked, record.values(), strict=True):
            type_ = types[condition.column]
            compared = casts(condition, type_.kind)
            if (compared or condition.op is Op.IN) and (fault := _fault_of(condition, texts)):
                raise FilterError(fault)
            if compared:
                found[condition] = raws = _raws(texts)
                self._keep((type_.type, condition.op, condition.value), raws)
        return found

    def _give_up(self, error: Stubborn, type_: Type) -> None:
        """Ask nothing more of a type until the server starts again."""
        log.error("type_not_cancelled", type=type_.type)
        self._stubborn.add(type_.type)
        self._left.append(error.pid)

    def _keep(self, key: tuple[str, Op, str], raws: tuple[bytes, ...]) -> None:
        self._kept += _size(key, raws) - _size(key, self._values.pop(key, None))
        self._values[key] = raws
        while self._kept > _KEPT_BYTES:
            self._kept -= _size(*self._values.popitem(last=False))


def is_of_others(type_: str) -> bool:
    """Whether reading or comparing values of a type may call code that is not Postgres' own."""
    return schema_of(type_) != "pg_catalog"


async def _asked(
    connection: Session,
    role: str,
    schemas: Iterable[str],
    seconds: float,
    sql: str,
    columns: Sequence[str],
    *values: list[str],
) -> list[asyncpg.Record]:
    """Ask with a role's rights, nothing in the search path but these schemas, and the settings that rows are
    captured under.

    ``columns`` are the types of what is given. ``seconds`` bounds each statement. Raises RoleUnavailable
    where the role cannot be assumed, and Stubborn.
    """
    path = list(dict.fromkeys(["pg_catalog", *schemas]))
    async with undone(connection) if len(path) > 1 else connection.transaction(readonly=True):
        await connection.execute(
            f"set local search_path = {', '.join(map(quoted, path))};"
            f" set local statement_timeout = {int(seconds * 1000)}; select rowcast.pin('all')"
        )
        if len(path) > 1:
            statement = await as_role(connection, role, sql, ["text[]"] * len(values), columns)
            async with within(connection, seconds):
                return list(await connection.fetch(statement, *values, role))
        # Nothing but Postgres' own code is called.
        await set_role(connection, role)
        return list(await connection.fetch(sql, *values))


async def answer(
    connection: Session, role: str, asks: Sequence[Ask], rows: Sequence[Row], seconds: float
) -> list[dict[Ask, Truth]]:
    """What Postgres says of each row. Raises ``asyncpg.QueryCanceledError`` after ``seconds``,
    RoleUnavailable and Stubborn.

    Only the columns that are asked about are sent: nothing else of a row can be in the way.
    """
    groups: dict[Ask, list[Ask]] = {}
    for ask in asks:
        groups.setdefault(replace(ask, value=""), []).append(ask)
    if len(groups) > _GROUPS:
        middle = len(asks) // 2
        first = await answer(connection, role, asks[:middle], rows, seconds)
        second = await answer(connection, role, asks[middle:], rows, seconds)
        return [one | other for one, other in zip(first, second, strict=True)]
    columns = list(dict.fromkeys(ask.column for ask in asks))
    record = ", ".join(
        dict.fromkeys(
            f"{quoted(ask.column)} {ask.type}" + (f" collate {ask.collation}" if ask.collation else "")
            for ask in asks
        )
    )
    parts = [
        f"array(select {expression(of[0], 'u.v')}"
        f" from unnest(${number}::text[]) with ordinality as u (v, k) order by u.k)"
        for number, of in enumerate(groups.values(), start=2)
    ]
    sql = (
        f"select {', '.join(parts)} from unnest($1::text[]) with ordinality as i (image, n),"
        f" json_to_record(i.image::json) as r({record}) order by i.n"
    )
    records = await _asked(
        connection,
        role,
        [schema_of(ask.type) for ask in asks],
        seconds,
        sql,
        ["bool[]"] * len(groups),
        [_image(row, columns) for row in rows],
        *([ask.value for ask in of] for of in groups.values()),
    )
    return [
        {
            ask: truth
            for of, truths in zip(groups.values(), record.values(), strict=True)
            for ask, truth in zip(of, truths, strict=True)
        }
        for record in records
    ]


def _image(row: Row, columns: Sequence[str]) -> str:
    values = ((name, row.get(name)) for name in columns)
    parts = [json.dumps(name) + ":" + raw.decode() for name, raw in values if raw is not None]
    return "{" + ",".join(parts) + "}"


def _fault_of(condition: Condition, texts: Sequence[str | None]) -> str | None:
    """What is wrong with a value that could be cast."""
    if condition.op is Op.IN and len(texts) > MAX_IN:
        return f"too many values for `in` filter. Maximum {MAX_IN}"
    if any(text is not None and len(text) > MAX_VALUE for text in texts):
        return f"a value of the filter on {condition.column} is too long"
    return None


def _raws(texts: Sequence[str | None]) -> tuple[bytes, ...]:
    return tuple(NULL if text is None else text.encode() for text in texts)


def _size(key: tuple[str, Op, str], raws: tuple[bytes, ...] | None) -> int:
    return 0 if raws is None else 200 + len(key[2]) + sum(50 + len(raw) for raw in raws)


def _kind(shape: Shape | None) -> str:
    return shape if isinstance(shape, str) else OTHER


def _check(condition: Condition, types: Mapping[str, Type]) -> None:
    """What can be said without asking: the column is there, and `is` fits it."""
    type_ = types.get(condition.column)
    if type_ is None:
        raise FilterError(f"invalid column for filter {condition.column}")
    if condition.path and type_.kind not in ("json", "jsonb"):
        raise FilterError(f"a path into {condition.column} needs a json or jsonb column, got {type_.shown}")
    if condition.op is Op.IN and not condition.path and type_.shown.endswith("[]"):
        raise FilterError(f"`in` filter requires a column that is no array, got {type_.shown}")
    if condition.op in (Op.LIKE, Op.ILIKE) and _ESCAPED_END.search(condition.value):
        raise FilterError(
            "LIKE pattern must not end with escape character", "22025", "invalid_escape_sequence"
        )
    if condition.op is Op.IS:
        if condition.value not in _TRUTHS:
            raise FilterError("invalid value for is filter: must be null, true, false, or unknown")
        shown = ("text" if condition.path[-1].text else "jsonb") if condition.path else type_.shown
        if condition.value != "null" and (condition.path or type_.kind != "bool"):
            raise FilterError(f"is {condition.value} filter requires a boolean column, got {shown}")


def _fault(error: asyncpg.PostgresError, condition: Condition, type_: Type) -> FilterError:
    code = error.sqlstate or "XX000"
    message = str(error.args[0]) if error.args else str(error)
    if code == "2201B":
        return FilterError(f"invalid regular expression for {condition.op} filter: {message}")
    if code in ("42883", "42725") and condition.op in PATTERNS:
        return FilterError(
            f"operator {condition.op} requires a text-compatible column type, got {type_.shown}"
        )
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).lower()
    return FilterError(message, code, name)
