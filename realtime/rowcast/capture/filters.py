"""Filters and Postgres: what a filter means for a table, asked when it is subscribed, and the conditions
that only Postgres can judge, asked for the rows of a batch.

Both run under the subscriber's role. Values are cast by Postgres once. Rows are given as the JSON that was
captured, with the types that the filter was checked against, so that a table may change or go meanwhile.
"""

import json
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from rowcast.db.connection import Session
from rowcast.model.binding import Binding
from rowcast.model.change import Relation
from rowcast.model.filter import Condition, Op, Step, conditions
from rowcast.model.predicate import NEVER, NULL, Ask, Column, Predicate, Row, Truth, casts, make_predicate
from rowcast.model.shape import OTHER, Shape

MAX_IN: Final = 100
#: Bytes of values that are kept, and characters that one may have: `1e131000` is short, and what it means is
#: not.
_KEPT_BYTES: Final = 16 * 1024 * 1024
_MAX_VALUE: Final = 40_000
_SQL: Final[Mapping[Op, str]] = {
    Op.EQ: "=", Op.NEQ: "<>", Op.LT: "<", Op.LTE: "<=", Op.GT: ">", Op.GTE: ">=",
    Op.ISDISTINCT: "is distinct from",
    Op.LIKE: "~~", Op.ILIKE: "~~*", Op.MATCH: "~", Op.IMATCH: "~*",
}  # fmt: skip
_PATTERNS: Final = frozenset({Op.LIKE, Op.ILIKE, Op.MATCH, Op.IMATCH})
_ESCAPED_END: Final = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")
_QUALIFIED: Final = re.compile(r'(?:"((?:[^"]|"")*)"|([^".]+))[.]')
# As rowcast.pin does it for the rows.
_PINNED: Final = (
    "set local timezone = 'UTC'; set local datestyle = 'ISO, MDY'; set local intervalstyle = 'postgres';"
    " set local bytea_output = 'hex'; set local extra_float_digits = 1; set local xmloption = 'content';"
    " set local lc_monetary = 'C'"
)
#: What Postgres may take to check a filter: compiling a pattern can take long.
_CHECK_SECONDS: Final = 2.0
#: Classes of SQLSTATE that say something of a statement: of its data, its syntax and rights, what it raised.
_FAULTS: Final = frozenset({"0A", "22", "23", "2B", "42", "P0", "54"})
_TRUTHS: Final = frozenset({"null", "true", "false", "unknown"})


class RoleUnavailable(Exception):
    """A role that this server may not assume, or that is gone."""

    def __init__(self, role: str, reason: str) -> None:
        super().__init__(reason)
        self.role = role


class FilterError(Exception):
    """A filter that does not fit its table. The text is what follows `Exception: ` in the message to the
    client."""

    def __init__(self, text: str, code: str = "P0001", name: str = "raise_exception") -> None:
        super().__init__(f"ERROR {code} ({name}) {text}")


@dataclass(frozen=True, slots=True)
class _Type:
    """A column's type: for SQL, for people, and what Python may decide of it."""

    type: str
    collation: str
    shown: str
    kind: str


class Filters:
    """The filters of one database. Keeps what was cast, and the types of the versions of tables."""

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[str, Op, str], tuple[bytes, ...]] = OrderedDict()
        self._kept = 0
        self._types: dict[int, dict[str, _Type]] = {}

    async def prepare(
        self,
        connection: Session,
        relation: Relation,
        binding: Binding,
        role: str,
        others: Mapping[int, Predicate] = {},
    ) -> Predicate | None:
        """Make the filter of a binding ready for a version of a table, and check what it selects.

        ``others`` are the same filter, ready for other versions: one whose columns have the same types will
        do. Raises FilterError, whose text says what does not fit. None for a binding without a filter.
        """
        types = self._types_of(relation)
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

    def _types_of(self, relation: Relation) -> dict[str, _Type]:
        known = self._types.get(relation.id)
        if known is None:
            known = self._types[relation.id] = {
                column.name: _Type(column.sql, column.collation, column.shown, _kind(column.shape))
                for column in relation.columns
            }
        return known

    async def _ask(
        self, connection: Session, asked: Sequence[Condition], types: Mapping[str, _Type], role: str
    ) -> dict[Condition, tuple[bytes, ...]]:
        """Have Postgres cast the values and look at the operators, all at once; one by one to find a
        fault."""
        try:
            return await self._cast(connection, asked, types, role)
        except RoleUnavailable as error:
            raise FilterError(str(error), "42501", "insufficient_privilege") from None
        except asyncpg.PostgresError as error:
            # A lost connection, a server without room, a time limit: nothing that the filter is to blame for.
            if (error.sqlstate or "")[:2] not in _FAULTS:
                raise
            if len(asked) == 1:
                raise _fault(error, asked[0], types[asked[0].column]) from None
        found: dict[Condition, tuple[bytes, ...]] = {}
        for condition in asked:
            found |= await self._ask(connection, [condition], types, role)
        return found

    async def _cast(
        self, connection: Session, asked: Sequence[Condition], types: Mapping[str, _Type], role: str
    ) -> dict[Condition, tuple[bytes, ...]]:
        parts = [
            _probe(condition, types[condition.column], f"${number}")
            for number, condition in enumerate(asked, start=1)
        ]
        schemas = [_schema(types[condition.column].type) for condition in asked]
        async with as_subscriber(connection, role, schemas, _CHECK_SECONDS):
            record = await connection.fetchrow(
                "select " + ", ".join(parts), *(condition.value for condition in asked)
            )
        assert record is not None
        found: dict[Condition, tuple[bytes, ...]] = {}
        for condition, texts in zip(asked, record.values(), strict=True):
            type_ = types[condition.column]
            if condition.op is Op.IN and len(texts) > MAX_IN:
                raise FilterError(f"too many values for `in` filter. Maximum {MAX_IN}")
            if casts(condition, type_.kind):
                if any(text is not None and len(text) > _MAX_VALUE for text in texts):
                    raise FilterError(f"a value of the filter on {condition.column} is too long")
                raws = tuple(NULL if text is None else text.encode() for text in texts)
                found[condition] = raws
                self._keep((type_.type, condition.op, condition.value), raws)
        return found

    def _keep(self, key: tuple[str, Op, str], raws: tuple[bytes, ...]) -> None:
        self._kept += _size(key, raws) - _size(key, self._values.pop(key, None))
        self._values[key] = raws
        while self._kept > _KEPT_BYTES:
            self._kept -= _size(*self._values.popitem(last=False))


@asynccontextmanager
async def as_subscriber(
    connection: Session, role: str, schemas: Iterable[str], seconds: float
) -> AsyncIterator[None]:
    """A transaction with a role's rights, nothing in the search path but these schemas, and the settings that
    rows are captured under.

    ``seconds`` bounds each statement. `set local` only: a role set otherwise would outlive the transaction in
    a pool. Raises RoleUnavailable where the role cannot be assumed.
    """
    path = ", ".join(dict.fromkeys(["pg_catalog", *map(_quoted, schemas)]))
    async with connection.transaction(readonly=True):
        await connection.execute(
            f"set local search_path = {path}; set local statement_timeout = {int(seconds * 1000)}; {_PINNED}"
        )
        try:
            await connection.execute(f"set local role {_quoted(role)}")
        except (
            asyncpg.InsufficientPrivilegeError,
            asyncpg.InvalidParameterValueError,
            asyncpg.UndefinedObjectError,
        ) as error:
            raise RoleUnavailable(role, str(error)) from None
        yield


async def answer(
    connection: Session, role: str, asks: Sequence[Ask], rows: Sequence[Row], seconds: float
) -> list[dict[Ask, Truth]]:
    """What Postgres says of each row. Raises ``asyncpg.QueryCanceledError`` after ``seconds``, and
    RoleUnavailable.

    Only the columns that are asked about are sent: nothing else of a row can be in the way.
    """
    groups: dict[Ask, list[Ask]] = {}
    for ask in asks:
        groups.setdefault(replace(ask, value=""), []).append(ask)
    columns = list(dict.fromkeys(ask.column for ask in asks))
    record = ", ".join(
        dict.fromkeys(
            f"{_quoted(ask.column)} {ask.type}" + (f" collate {ask.collation}" if ask.collation else "")
            for ask in asks
        )
    )
    parts = [
        f"array(select {_expression(of[0], 'u.v')}"
        f" from unnest(${number}::text[]) with ordinality as u (v, k) order by u.k)"
        for number, of in enumerate(groups.values(), start=2)
    ]
    sql = (
        f"select {', '.join(parts)} from unnest($1::text[]) with ordinality as i (image, n),"
        f" json_to_record(i.image::json) as r({record}) order by i.n"
    )
    async with as_subscriber(connection, role, [_schema(ask.type) for ask in asks], seconds):
        records = await connection.fetch(
            sql,
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


def _size(key: tuple[str, Op, str], raws: tuple[bytes, ...] | None) -> int:
    return 0 if raws is None else 200 + len(key[2]) + sum(50 + len(raw) for raw in raws)


def _kind(shape: Shape | None) -> str:
    return shape if isinstance(shape, str) else OTHER


def _check(condition: Condition, types: Mapping[str, _Type]) -> None:
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


def _probe(condition: Condition, type_: _Type, value: str) -> str:
    """SQL that fails where the condition cannot be evaluated, and gives the texts of its value where they
    count."""
    if casts(condition, type_.kind):
        if condition.op is Op.IN:
            texts = (
                f"left(to_json(v)::text, {_MAX_VALUE + 1}) from unnest({value}::text::{type_.type}[]) as v"
            )
            # Too many are not even cast.
            many = f"cardinality({value}::text::text[]) > {MAX_IN}"
            filled = f"array_fill(''::text, array[{MAX_IN + 1}])"
            return f"case when {many} then {filled} else array(select {texts}) end"
        return f"array[left(to_json({value}::text::{type_.type})::text, {_MAX_VALUE + 1})]"
    ask = Ask(condition.column, type_.type, type_.collation, condition.path, condition.op, condition.value)
    # Postgres folds an operator over NULL away, so the value is cast beside it.
    truth = _expression(ask, f"{value}::text", f"null::{type_.type}")
    match condition.op:
        case Op.IN:
            checked = f"array(select ''::text from unnest({value}::text::{_operand(ask)}[]) as v)"
        case op if op in _PATTERNS:
            collation = f" collate {type_.collation}" if type_.collation and not condition.path else ""
            sample = (
                f"''::bytea {_SQL[op]} {value}::text::bytea"
                if type_.kind == "bytea"
                else (f"''::text{collation} {_SQL[op]} {value}::text")
            )
            checked = f"array[({sample})::text]"
        case Op.IS:
            checked = f"array[{value}::text]"
        case _:
            checked = f"array[({value}::text::{_operand(ask)})::text]"
    return f"case when ({truth}) is null then {checked} end"


def _expression(ask: Ask, value: str, column: str | None = None) -> str:
    """The condition in SQL, over a row called r, or over what stands for the column."""
    left, type_ = column or f"r.{_quoted(ask.column)}", _operand(ask)
    if ask.path:
        left = f"({left}{''.join(map(_step, ask.path))})"
        if not ask.path[-1].text:
            # A json value has no equality of its own.
            left += "::jsonb"
    match ask.op:
        case Op.IS:
            return f"{left} is null"
        case Op.IN:
            return f"{left} = any ({value}::{type_}[])"
        case op if op in _PATTERNS:
            # A pattern is text, whatever domain the column may have; bytea alone has patterns of its own.
            return f"{left} {_SQL[op]} {value}::{type_ if type_ == 'pg_catalog.bytea' else 'text'}"
        case op:
            return f"{left} {_SQL[op]} {value}::{type_}"


def _operand(ask: Ask) -> str:
    """The type that both sides have."""
    if not ask.path:
        return ask.type
    return "text" if ask.path[-1].text else "jsonb"


def _step(step: Step) -> str:
    key = str(step.key) if isinstance(step.key, int) else _literal(step.key)
    return f" {'->>' if step.text else '->'} {key}"


def _fault(error: asyncpg.PostgresError, condition: Condition, type_: _Type) -> FilterError:
    code = error.sqlstate or "XX000"
    message = str(error.args[0]) if error.args else str(error)
    if code == "2201B":
        return FilterError(f"invalid regular expression for {condition.op} filter: {message}")
    if code in ("42883", "42725") and condition.op in _PATTERNS:
        return FilterError(
            f"operator {condition.op} requires a text-compatible column type, got {type_.shown}"
        )
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).lower()
    return FilterError(message, code, name)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _schema(type_: str) -> str:
    """The schema of a qualified type, without its quotes."""
    found = _QUALIFIED.match(type_)
    assert found is not None
    return found[2] if found[1] is None else found[1].replace('""', '"')


def _literal(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
