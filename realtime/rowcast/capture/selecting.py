"""A table's rows in SQL: those that pass a filter, in an order, as images.

A filter here stands on the table's own columns, for its indexes to serve. It runs under the path of a
session, where anybody may have put operators: so each is named with its schema, the one that a filter of
changes finds it in.

This module performs no I/O.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rowcast.capture.conditions import PATTERNS, quoted, schema_of
from rowcast.model.binding import SnapshotOptions
from rowcast.model.filter import Condition, Filter, Op, conditions

_SQL: Final[Mapping[Op, str]] = {
    Op.EQ: "=", Op.NEQ: "<>", Op.LT: "<", Op.LTE: "<=", Op.GT: ">", Op.GTE: ">=",
    Op.IN: "=", Op.ISDISTINCT: "=", Op.LIKE: "~~", Op.ILIKE: "~~*", Op.MATCH: "~",
    Op.IMATCH: "~*",
}  # fmt: skip

#: Which of these (operator, type) the schema of the type has: with the type on both sides, or with text on
#: the right where the operator takes a pattern.
OPERATORS: Final = """
select u.op, u.type from unnest($1::text[], $2::text[], $3::bool[]) as u (op, type, pattern)
join pg_type as y on y.oid = to_regtype(u.type)
join pg_operator as o on o.oprname = u.op and o.oprnamespace = y.typnamespace and o.oprleft = y.oid
  and o.oprright = case when u.pattern then 'pg_catalog.text'::regtype else y.oid end
"""


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from. ``types`` are the types of its columns, qualified as SQL writes them;
    ``operators`` are those (operator, type) that the type's own schema has. ``published`` is the row filter
    of the publication.
    """

    schema: str
    table: str
    types: Mapping[str, str]
    published: str | None = None
    operators: Collection[tuple[str, str]] = ()


def published(filters: Mapping[str, str] | None, *, unfiltered: bool) -> str | None:
    """The row filter of a table whose parts may have filters of their own, by their oids; None for none."""
    if not filters:
        return None
    texts = set(filters.values())
    if len(texts) == 1 and not unfiltered:
        return texts.pop()
    cases = " ".join(f"when {int(oid)} then ({text})" for oid, text in sorted(filters.items()))
    return f"case t.tableoid {cases} else true end"


def foreign_operators(filter_: Filter | None, types: Mapping[str, str]) -> list[tuple[str, str, bool]]:
    """The operators of a filter that may be another's than Postgres' own: operator, type, whether it takes a
    pattern."""
    asked = (
        (_SQL[one.op], types[one.column], one.op in PATTERNS)
        for one in (() if filter_ is None else conditions(filter_))
        if one.op in _SQL and not one.path and schema_of(types[one.column]) != "pg_catalog"
    )
    return list(dict.fromkeys(asked))


def select_images(
    source: Source, names: Sequence[str], filter_: Filter | None, options: SnapshotOptions, key: Sequence[str]
) -> str:
    """A query of the rows' images, which have these columns in this order. ``key`` is what they are ordered
    by where nothing else was asked for."""
    table = f"{quoted(source.schema)}.{quoted(source.table)}"
    parts = [f"select {', '.join(f't.{quoted(name)}' for name in names)} from {table} as t"]
    wanted = [] if source.published is None else [f"({source.published})"]
    if filter_ is not None:
        wanted.append(_sql(filter_, source))
    if wanted:
        parts.append(f"where {' and '.join(wanted)}")
    order = [
        f"t.{quoted(one.column)}{' desc' * one.descending}{_nulls(one.nulls_first)}" for one in options.order
    ] or [f"t.{quoted(name)}" for name in key]
    if order:
        parts.append(f"order by {', '.join(order)}")
    if options.limit is not None:
        parts.append(f"limit {options.limit}")
    return f"select pg_catalog.row_to_json(r.*)::pg_catalog.text from ({' '.join(parts)}) as r"


def literal(text: str) -> str:
    """A text as SQL, whatever the session's settings are."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _nulls(first: bool | None) -> str:
    return "" if first is None else f" nulls {'first' if first else 'last'}"


def _sql(node: Filter, source: Source) -> str:
    if isinstance(node, Condition):
        truth = _condition(node, source)
    else:
        truth = (" or " if node.any else " and ").join(_sql(part, source) for part in node.parts)
    return f"(not ({truth}))" if node.negated else f"({truth})"


def _condition(condition: Condition, source: Source) -> str:
    op, type_ = condition.op, source.types[condition.column]
    left, schema = f"t.{quoted(condition.column)}", "pg_catalog"
    for step in condition.path:
        key = str(step.key) if isinstance(step.key, int) else f"{literal(step.key)}::pg_catalog.text"
        left = f"({left} operator(pg_catalog.{'->>' if step.text else '->'}) {key})"
    if condition.path:
        type_ = "pg_catalog.text" if condition.path[-1].text else "pg_catalog.jsonb"
        left = f"{left}::{type_}"
    elif op in _SQL and (_SQL[op], type_) in source.operators:
        schema = schema_of(type_)
    if op is Op.IS:
        # Not `is null`, which is true as well of a composite whose fields are null.
        words = "not distinct from null" if condition.value == "null" else condition.value
        return f"{left} is {words}"
    operator = f"operator({quoted(schema)}.{_SQL[op]})"
    # A text, and no literal of the type: that would be read while the statement is parsed.
    value = f"{literal(condition.value)}::pg_catalog.text"
    if op is Op.IN:
        return f"{left} {operator} any ({value}::{type_}[])"
    if op in PATTERNS:
        return f"{left} {operator} {value}{'::pg_catalog.bytea' * (type_ == 'pg_catalog.bytea')}"
    compared = f"{left} {operator} {value}::{type_}"
    # `is distinct from` cannot name its operator; the value is no null.
    return f"not coalesce({compared}, false)" if op is Op.ISDISTINCT else compared
