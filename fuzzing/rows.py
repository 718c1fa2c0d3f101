"""Rows as Postgres wrote them, rewritten for the wire: never a failure, always JSON, and the right values.

The first line is JSON: a list of columns, each a name and a shape. The rest is the row's image. A shape need
not fit: a type may have changed since it was described. What fits is compared with a reading of its own.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from rowcast.model.change import Change, Column, Op, Relation
from rowcast.model.reading import NOTHING, View
from rowcast.model.shape import ArrayShape, RowShape, Shape, parse_shape
from rowcast.protocol.changes import encode_data, encode_legacy, encode_message, encode_reduced
from rowcast.protocol.messages import Version
from rowcast.protocol.values import rewrite_of, split

_MAX_COLUMNS: Final = 20
_MAX_BRACKETS: Final = 300
_DEEPEST: Final = 20_000
_TOPIC: Final = "realtime:é"


class _UnfitError(Exception):
    """A value that is not of its shape: all that is asked of it is to be JSON."""


def fuzz_rows(data: bytes) -> None:
    """Rewrite one row, and make messages of it."""
    line, _, image = data.partition(b"\n")
    columns = _columns(line)
    if not columns or not _is_row(image):
        return
    names = frozenset(column.name for column in columns)
    relation = Relation(1, 1, "public", "t", tuple(columns), names, key=frozenset(list(names)[:1]))
    rewrite = rewrite_of(relation, names)
    if rewrite is not None:
        rewritten, raw = rewrite(image), split(image)
        with _deep():
            _check_row(columns, _read(image), rewritten, raw)
    for op, record, old in (
        (Op.INSERT, image, None),
        (Op.UPDATE, image, image),
        (Op.DELETE, None, image),
        (Op.TRUNCATE, None, None),
    ):
        change = Change(relation, op, record, old, 1, "p", "2026-01-01T00:00:00.000Z")
        views = View(), View(names), View(None, names, NOTHING)
        for encoded in (*(encode_data(change, view) for view in views), encode_reduced(change)):
            _check_data(change, encoded)


def _columns(line: bytes) -> list[Column]:
    try:
        described: Any = json.loads(line)
    except (ValueError, RecursionError):
        return []
    if not isinstance(described, list):
        return []
    columns: dict[str, Column] = {}
    for entry in described[:_MAX_COLUMNS]:
        match entry:
            case [str(name), described_shape]:
                shape = None if described_shape is None else parse_shape(described_shape)
                if _is_name(name) and _is_shape(shape):
                    columns[name] = Column(name, "type", shape)
    return list(columns.values())


def _is_name(name: str) -> bool:
    """Whether a database can hold it: all its names are text."""
    return not re.search("[\0\ud800-\udfff]", name)


def _is_shape(shape: Shape | None) -> bool:
    match shape:
        case ArrayShape(inner):
            return _is_shape(inner)
        case RowShape(fields):
            names = {name for name, _ in fields}
            return len(names) == len(fields) and all(_is_name(name) and _is_shape(of) for name, of in fields)
        case _:
            return True


def _is_row(image: bytes) -> bool:
    try:
        with _deep():
            return isinstance(_read(image), dict)
    except (ValueError, RecursionError):
        return False


def _check_row(
    columns: Sequence[Column], before: Mapping[str, Any], rewritten: bytes, raw: Mapping[str, bytes]
) -> None:
    after = _read(rewritten)
    names = [column.name for column in columns if column.name in before]
    assert list(after) == sorted(names, key=_order)
    for column in columns:
        if column.name not in before:
            continue
        try:
            expected = _expected(column.shape, before[column.name])
        except _UnfitError:
            continue
        assert after[column.name] == expected, column
        if column.shape in ("json", "any") and _is_readable(raw[column.name]):
            _read(bytes(split(rewritten)[column.name]), _sorted)


def _expected(shape: Shape | None, value: Any) -> Any:
    """What ``to_jsonb`` makes of a value that ``row_to_json`` wrote so."""
    if value is None:
        return None
    match shape, value:
        case "bytea", str() if value.startswith("\\x"):
            return value[2:]
        case "numeric" | "float4" | "float8", str():
            return None
        case "numeric" | "float4" | "float8", Decimal() | tuple():
            return value
        case ArrayShape(inner), list():
            return [_expected(shape if isinstance(each, list) else inner, each) for each in value]
        case RowShape(fields), dict():
            shapes = dict(fields)
            return {name: _expected(shapes.get(name), inner) for name, inner in value.items()}
        case ArrayShape() | RowShape() | "bytea" | "numeric" | "float4" | "float8", _:
            raise _UnfitError
        case _:
            return value


def _check_data(change: Change, encoded: bytes) -> None:
    made = [
        (
            version,
            encode_message(encoded, _TOPIC, [1, 2], version),
            encode_legacy(encoded, _TOPIC, change.op, version),
        )
        for version in Version
    ]
    with _deep():
        _check_said(change, _read(encoded), made)


def _check_said(change: Change, data: Any, made: Sequence[tuple[Version, bytes, bytes]]) -> None:
    assert data["type"] == change.op
    assert ("record" in data) == (change.record is not None)
    assert ("old_record" in data) == (change.old_record is not None and change.op is not Op.INSERT)
    payload = {"data": data, "ids": [Decimal(1), Decimal(2)]}
    for version, message, legacy in made:
        _check_message(_read(message), "postgres_changes", payload, version)
        _check_message(_read(legacy), str(change.op), data, version)


def _check_message(said: Any, event: str, payload: Any, version: Version) -> None:
    if version is Version.V1:
        assert said == {"ref": None, "event": event, "payload": payload, "topic": _TOPIC}
    else:
        assert said == [None, None, _TOPIC, event, payload]


def _read(text: bytes, pairs: Callable[[list[tuple[str, Any]]], Any] = dict) -> Any:
    """JSON with every digit of its numbers. Strings may hold halves of a character, as in Postgres' json."""
    return json.loads(
        text.decode(),
        parse_float=_number,
        parse_int=_number,
        parse_constant=_refuse,
        object_pairs_hook=pairs,
    )


@contextmanager
def _deep() -> Iterator[None]:
    """Let the harness's own reading go deeper than what it reads for can."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(_DEEPEST)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _number(text: str) -> Decimal | tuple[str]:
    try:
        return Decimal(text)
    except InvalidOperation:
        # An exponent of dozens of digits: no string, and equal to none but itself.
        return (text,)


def _refuse(text: str) -> None:
    raise ValueError(text)


def _sorted(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    assert names == sorted(set(names), key=_order)


def _order(name: str) -> tuple[int, bytes]:
    text = name.encode("utf-8", "surrogatepass")
    return len(text), text


def _is_readable(raw: bytes) -> bool:
    """Whether a value is surely rewritten: one with half a character, or nested too deep, stays as it is."""
    raw = bytes(raw)
    halves = b"\\u" in raw.lower().replace(b"\\u0", b"")
    return not halves and raw.count(b"[") + raw.count(b"{") <= _MAX_BRACKETS
