"""Filters as values: what a subscription asks of a row, read from its text and written back.

Two grammars meet here. The first is Supabase's, and a text that it accepts means what it means there:
conditions ``column=[not.]op.value``, joined by commas, all of which must hold. Any other text is read in
PostgREST's as well: a part may be ``or(…)`` or ``and(…)``, with ``not.`` before it or ``=`` behind the word,
whose members are such groups or ``column.[not.]op.value``.

They collide in two places. ``or(a.eq.b=eq.c)`` is, in the first, a condition on a column named
``or(a.eq.b``, and so it is here; ``or=(…)`` never collides. ``->`` in a column's name begins a JSON path,
where Supabase looks for a column of that name; a group can give such a name in double quotes.

Reading takes time linear in the text. This module performs no I/O.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final

from rowcast.model.elixir import inspect

MAX_NESTING: Final = 8
MAX_CONDITIONS: Final = 100
MAX_STEPS: Final = 32
#: In characters: reading takes about a microsecond for each, and nobody else has a turn meanwhile.
MAX_LENGTH: Final = 16_384

# What Elixir trims: Unicode's white space, which is less than Python's.
_SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680"
    + "".join(map(chr, range(0x2000, 0x200B)))
    + ("\u2028\u2029\u202f\u205f\u3000")
)
_SPACES: Final = re.compile(f"[{_SPACE}]*")
_QUOTE: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_QUOTED: Final = re.compile(_QUOTE, re.DOTALL)
_MARK: Final = re.compile(r'["(),]')
_GROUP: Final = re.compile(r"(not\.)?(or|and)=?\(")
_COLUMN: Final = re.compile(rf"({_QUOTE})|(?:(?!->)[^.])+", re.DOTALL)
_STEP: Final = re.compile(rf'->(>?+)(?:({_QUOTE})|((?!")(?:(?!->)[^.])+))', re.DOTALL)
_INDEX: Final = re.compile(r"-?[0-9]{1,10}")
#: Beyond this Postgres takes no number for a place in an array, so it can only be a key.
_MAX_INDEX: Final = 2**31 - 1
# What needs no quotes when it is written back.
_PLAIN: Final = re.compile(r"[^\W\d]\w*")
_BARE: Final = re.compile(r'[^\s"(),\\]*')
_ELEMENT: Final = rf'(?:{_QUOTE}|[^"(),\\]*+)'
_ELEMENTS: Final = re.compile(rf"{_ELEMENT}(?:,{_ELEMENT})*+", re.DOTALL)


class FilterError(ValueError):
    """A filter that cannot be read. The text goes to the client as it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Error parsing `filter` params: {reason}")


class Op(StrEnum):
    """How a condition compares its column with its value."""

    EQ = "eq"
    NEQ = "neq"
    LT = "lt"
    LTE = "lte"
    GT = "gt"
    GTE = "gte"
    IN = "in"
    LIKE = "like"
    ILIKE = "ilike"
    IS = "is"
    MATCH = "match"
    IMATCH = "imatch"
    ISDISTINCT = "isdistinct"


_OPS: Final = {op.value: op for op in Op}


@dataclass(frozen=True, slots=True)
class Step:
    """One step into a JSON value: to a key of an object or a place in an array.

    ``text`` says that the result is text (``->>``), not JSON (``->``).
    """

    text: bool
    key: str | int


@dataclass(frozen=True, slots=True)
class Condition:
    """A column, or what a path leads to within it, compared with a value.

    ``value`` is the text that Postgres casts. For `in` it is an array's text, ``{…}``.
    """

    column: str
    path: tuple[Step, ...]
    op: Op
    value: str
    negated: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Parts of which one must hold (``any``), or all.

    A group of one that is not negated is never read: it is its part.
    """

    any: bool
    negated: bool
    parts: "tuple[Filter, ...]"


Filter = Condition | Group


def parse_filter(text: str) -> Filter | None:
    """Read the text of a filter; None is no filter, for a text that is empty or all white space.

    Raises FilterError, whatever else the text is.
    """
    if "\0" in text:
        raise FilterError("filter must not contain a NUL character, which no value in Postgres holds")
    if len(text) > MAX_LENGTH:
        raise FilterError(f"filter may have {MAX_LENGTH} characters, and has {len(text)}")
    text = text.strip(_SPACE)
    if not text:
        return None
    try:
        parts = [_condition(segment) for segment in islice(_segments(text), MAX_CONDITIONS + 1)]
    except FilterError:
        parts = list(islice(_parts(text), MAX_CONDITIONS + 1))
    found = parts[0] if len(parts) == 1 else Group(any=False, negated=False, parts=tuple(parts))
    _bound(sum(1 for _ in conditions(found)))
    return found


def conditions(filter_: Filter) -> Iterator[Condition]:
    """All conditions of a filter, from left to right."""
    if isinstance(filter_, Condition):
        yield filter_
    else:
        for part in filter_.parts:
            yield from conditions(part)


def write_filter(filter_: Filter) -> str:
    """A text that ``parse_filter`` reads as this filter."""
    if isinstance(filter_, Group) and not filter_.any and not filter_.negated:
        return ",".join(map(_written, filter_.parts))
    return _written(filter_)


def write_path(path: tuple[Step, ...]) -> str:
    """The steps as they follow a column's name: ``->key->>0``."""
    return "".join(f"->{'>' * step.text}{_key_text(step.key)}" for step in path)


# Supabase's grammar


def _segments(text: str) -> Iterator[str]:
    start = 0
    while (end := _segment_end(text, start)) < len(text):
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _segment_end(text: str, start: int) -> int:
    """Where the comma is that ends this segment, or the text.

    A quote that is never closed takes the rest of the text; a parenthesis too many closes nothing.
    """
    depth, at = 0, start
    while mark := _MARK.search(text, at):
        place, at = mark.span()
        match mark[0]:
            case "(":
                depth += 1
            case ")":
                depth = max(0, depth - 1)
            case ",":
                if not depth:
                    return place
            case _ if place > start and text[place - 1] in ".(,":
                quoted = _QUOTED.match(text, place)
                at = quoted.end() if quoted else len(text)
    return len(text)


def _condition(segment: str) -> Filter:
    segment = segment.strip(_SPACE)
    if not segment:
        raise FilterError("filter must not contain empty segments (check for extra commas)")
    target, equals, operation = segment.partition("=")
    if not equals:
        raise FilterError(inspect([segment]))
    read = _operation(operation)
    if read is None:
        raise FilterError(inspect(operation.removeprefix("not.").split(".", 1)))
    begin = target.find("->")
    if begin < 0:
        return Condition(target, (), *read)
    path, end = _path(target, begin)
    if not begin or end < len(target):
        raise FilterError(_no_path(target))
    return Condition(target[:begin], path, *read)


def _operation(text: str) -> tuple[Op, str, bool] | None:
    """What follows a condition's column: operator, value, and whether it is negated."""
    bare = text.removeprefix("not.")
    name, dot, value = bare.partition(".")
    op = _OPS.get(name)
    if not dot or op is None:
        return None
    return op, _array(value) if op is Op.IN else _unquoted(value), bare != text


def _array(text: str) -> str:
    if len(text) > 1 and text[0] == "(" and text[-1] == ")":
        return "{" + text[1:-1] + "}"
    # An array's whole text in quotes is ours: no other way can say one whose parentheses do not match.
    whole = _unquoted(text)
    if whole != text and len(whole) > 1 and whole[0] == "{" and whole[-1] == "}":
        return whole
    raise FilterError("`in` filter value must be wrapped by parentheses")


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL) if _QUOTED.fullmatch(text) else text


# PostgREST's grammar


def _parts(text: str) -> Iterator[Filter]:
    at = 0
    while True:
        at = _spaces_end(text, at)
        if head := _GROUP.match(text, at):
            part, at = _group(text, head, 1)
        else:
            end = _segment_end(text, at)
            part, at = _condition(text[at:end]), end
        yield part
        if at == len(text):
            return
        at += 1


def _group(text: str, head: re.Match[str], depth: int) -> tuple[Filter, int]:
    """The group that begins with this, and where what follows it begins."""
    if depth > MAX_NESTING:
        raise FilterError(f"groups are nested more than {MAX_NESTING} deep: write some of them as one")
    parts: list[Filter] = []
    at = head.end()
    while True:
        at = _spaces_end(text, at)
        if inner := _GROUP.match(text, at):
            part, at = _group(text, inner, depth + 1)
        else:
            end = _member_end(text, at)
            part, at = _member(text[at:end].rstrip(_SPACE)), end
        parts.append(part)
        _bound(len(parts))
        if at == len(text):
            raise FilterError(f"`{head[0]}` is never closed: add the `)` that is missing")
        at += 1
        if text[at - 1] == ")":
            break
    at = _spaces_end(text, at)
    if text[at : at + 1] not in (("", ",", ")") if depth > 1 else ("", ",")):
        raise FilterError(f"only a comma may follow a group, not {_excerpt(text[at:])}")
    negated = head[1] is not None
    found = Group(head[2] == "or", negated, tuple(parts)) if negated or len(parts) > 1 else parts[0]
    return found, at


def _member_end(text: str, start: int) -> int:
    """Where the comma or parenthesis is that ends this member of a group, or the text."""
    depth, at = 0, start
    while mark := _MARK.search(text, at):
        place, at = mark.span()
        match mark[0]:
            case "(":
                depth += 1
            case ")" | "," if not depth:
                return place
            case ")":
                depth -= 1
            case '"' if place == start or text[place - 1] in ".(,>":
                quoted = _QUOTED.match(text, place)
                if quoted is None:
                    raise FilterError("a double quote is never closed: " + _excerpt(text[place:]))
                at = quoted.end()
    return len(text)


def _member(text: str) -> Condition:
    if not text:
        raise FilterError("filter must not contain empty segments (check for extra commas)")
    name = _COLUMN.match(text)
    path, at = _path(text, name.end() if name else 0)
    if text.startswith("->", at):
        raise FilterError(_no_path(text))
    read = _operation(text[at + 1 :]) if text[at : at + 1] == "." else None
    if name is None or read is None:
        raise FilterError(
            f"{_excerpt(text)} is no condition: in a group it is column.operator.value, "
            f"with one of the operators {', '.join(Op)}"
        )
    return Condition(_unquoted(name[0]), path, *read)


def _path(text: str, at: int) -> tuple[tuple[Step, ...], int]:
    """The steps that begin here, and where what follows them begins."""
    steps = []
    while step := _STEP.match(text, at):
        at = step.end()
        plain, quoted = step[3], step[2]
        key: str | int = _unquoted(quoted) if plain is None else plain
        if plain and _INDEX.fullmatch(plain) and abs(int(plain)) <= _MAX_INDEX:
            key = int(plain)
        steps.append(Step(bool(step[1]), key))
        if len(steps) > MAX_STEPS:
            raise FilterError(f"a path may have {MAX_STEPS} steps, and {_excerpt(text)} has more")
    return tuple(steps), at


def _bound(count: int) -> None:
    if count > MAX_CONDITIONS:
        raise FilterError(
            f"filter may have {MAX_CONDITIONS} conditions, and has more: compare a column with many values "
            "by `in`, or subscribe by several entries"
        )


def _spaces_end(text: str, at: int) -> int:
    spaces = _SPACES.match(text, at)
    return spaces.end() if spaces else at


def _no_path(text: str) -> str:
    return (
        f"{_excerpt(text)} is no path into JSON: it is column->key->>key, "
        "with a key that holds `.` or `->` in double quotes"
    )


def _excerpt(text: str) -> str:
    return f"`{text[:60]}…`" if len(text) > 60 else f"`{text}`"


# Writing


def _written(part: Filter) -> str:
    if isinstance(part, Group):
        return _group_text(part, "=")
    keys = [step.key for step in part.path]
    if all(isinstance(key, int) or _PLAIN.fullmatch(key) for key in (part.column, *keys)):
        return _condition_text(part, "=")
    # Names that need quotes have them in groups only.
    return f"and=({_condition_text(part, '.')})"


def _group_text(group: Group, equals: str) -> str:
    parts = [
        _group_text(part, "") if isinstance(part, Group) else _condition_text(part, ".")
        for part in group.parts
    ]
    return f"{'not.' * group.negated}{'or' if group.any else 'and'}{equals}({','.join(parts)})"


def _condition_text(condition: Condition, between: str) -> str:
    target = _key_text(condition.column) + write_path(condition.path)
    operation = f"{'not.' * condition.negated}{condition.op}.{_value_text(condition)}"
    return f"{target}{between}{operation}"


def _key_text(key: str | int) -> str:
    return str(key) if isinstance(key, int) or _PLAIN.fullmatch(key) else _in_quotes(key)


def _value_text(condition: Condition) -> str:
    if condition.op is Op.IN and _ELEMENTS.fullmatch(condition.value[1:-1]):
        return f"({condition.value[1:-1]})"
    return condition.value if _BARE.fullmatch(condition.value) else _in_quotes(condition.value)


def _in_quotes(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
