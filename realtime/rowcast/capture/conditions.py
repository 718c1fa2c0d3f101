"""Conditions in SQL: what Postgres is asked of a value, and of a row.

This module performs no I/O.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rowcast.model.filter import Condition, Op, Step
from rowcast.model.predicate import Ask, casts

MAX_IN: Final = 100
#: Characters that a value may have as Postgres writes it: `1e131000` is short, and what it means is not.
MAX_VALUE: Final = 40_000
_SQL: Final[Mapping[Op, str]] = {
    Op.EQ: "=", Op.NEQ: "<>", Op.LT: "<", Op.LTE: "<=", Op.GT: ">", Op.GTE: ">=",
    Op.ISDISTINCT: "is distinct from",
    Op.LIKE: "~~", Op.ILIKE: "~~*", Op.MATCH: "~", Op.IMATCH: "~*",
}  # fmt: skip
PATTERNS: Final = frozenset({Op.LIKE, Op.ILIKE, Op.MATCH, Op.IMATCH})
_QUALIFIED: Final = re.compile(r'(?:"((?:[^"]|"")*)"|([^".]+))[.]')


@dataclass(frozen=True, slots=True)
class Type:
    """A column's type: for SQL, for people, and what Python may decide of it."""

    type: str
    collation: str
    shown: str
    kind: str


def probe(condition: Condition, type_: Type, value: str) -> str:
    """SQL that fails where the condition cannot be evaluated, and gives the texts of its value where they
    count."""
    if casts(condition, type_.kind):
        if condition.op is Op.IN:
            texts = f"left(to_json(v)::text, {MAX_VALUE + 1}) from unnest({value}::text::{type_.type}[]) as v"
            # Too many are not even cast.
            many = f"cardinality({value}::text::text[]) > {MAX_IN}"
            filled = f"array_fill(''::text, array[{MAX_IN + 1}])"
            return f"case when {many} then {filled} else array(select {texts}) end"
        return f"array[left(to_json({value}::text::{type_.type})::text, {MAX_VALUE + 1})]"
    ask = Ask(condition.column, type_.type, type_.collation, condition.path, condition.op, condition.value)
    # Postgres folds an operator over NULL away, so the value is cast beside it.
    truth = expression(ask, f"{value}::text", f"null::{type_.type}")
    match condition.op:
        case Op.IN:
            checked = f"array(select ''::text from unnest({value}::text::{_operand(ask)}[]) as v)"
        case op if op in PATTERNS:
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


def expression(ask: Ask, value: str, column: str | None = None) -> str:
    """The condition in SQL, over a row called r, or over what stands for the column."""
    left, type_ = column or f"r.{quoted(ask.column)}", _operand(ask)
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
        case op if op in PATTERNS:
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


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def schema_of(type_: str) -> str:
    """The schema of a qualified type, without its quotes."""
    found = _QUALIFIED.match(type_)
    assert found is not None
    return found[2] if found[1] is None else found[1].replace('""', '"')


def _literal(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
