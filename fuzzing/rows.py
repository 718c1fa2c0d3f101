"""Rows as Postgres wrote them, rewritten for the wire: never a failure, and always JSON.

The first line is JSON: a list of columns, each a name and a shape. The rest is the row's image. A shape need
not fit: a type may have changed since it was described.
"""

from typing import Any, Final

import msgspec

from fuzzing.frames import check_encoded
from rowcast.model.change import Change, Column, Op, Relation
from rowcast.model.shape import parse_shape
from rowcast.protocol.changes import encode_data, encode_legacy, encode_message, encode_reduced
from rowcast.protocol.messages import ServerMessage, Version
from rowcast.protocol.values import rewrite_of, split

_SAME: Final = frozenset({"int4", "int8", "text", "bool", "jsonb", "enum", "other", "uuid"})


def fuzz_rows(data: bytes) -> None:
    """Rewrite one row, and make messages of it."""
    line, _, image = data.partition(b"\n")
    columns = _columns(line)
    if not columns or not _is_object(image):
        return
    names = frozenset(column.name for column in columns)
    relation = Relation(1, 1, "public", "t", tuple(columns), names, key=frozenset(list(names)[:1]))
    rewrite = rewrite_of(relation, names)
    _check_row(columns, image, image if rewrite is None else rewrite(image))
    for op, record, old in (
        (Op.INSERT, image, None),
        (Op.UPDATE, image, image),
        (Op.DELETE, None, image),
        (Op.TRUNCATE, None, None),
    ):
        change = Change(relation, op, record, old, 1, "p", "2026-01-01T00:00:00.000Z")
        for encoded in (encode_data(change), encode_data(change, names), encode_reduced(change)):
            _check_data(change, encoded)


def _columns(line: bytes) -> list[Column]:
    try:
        described: Any = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return []
    if not isinstance(described, list):
        return []
    columns: dict[str, Column] = {}
    for entry in described[:20]:
        match entry:
            case [str(name), shape]:
                columns[name] = Column(name, "type", None if shape is None else parse_shape(shape))
    return list(columns.values())


def _is_object(image: bytes) -> bool:
    """Whether it can be a row's image. Names are unique there; within its values anything goes."""
    try:
        image.decode()
        msgspec.json.decode(image, type=dict[str, Any])
    except ValueError:
        return False
    except RecursionError:
        # Deeper than can be told here.
        return False
    return True


def _check_row(columns: list[Column], image: bytes, row: bytes) -> None:
    before, after = split(image), split(row)
    assert set(after) <= set(before)
    assert {column.name for column in columns} & set(before) <= set(after)
    for column in columns:
        if column.name in before and column.shape in _SAME:
            assert bytes(before[column.name]) == bytes(after[column.name])


def _check_data(change: Change, encoded: bytes) -> None:
    data: Any = msgspec.json.decode(encoded)
    assert data["type"] == change.op
    assert ("record" in data) == (change.record is not None)
    assert ("old_record" in data) == (change.old_record is not None and change.op is not Op.INSERT)
    for version in Version:
        message = ServerMessage("realtime:é", "postgres_changes", {"data": data, "ids": [1, 2]})
        check_encoded(message, encode_message(encoded, message.topic, [1, 2], version), version)
        legacy = ServerMessage("realtime:é", str(change.op), data)
        check_encoded(legacy, encode_legacy(encoded, legacy.topic, change.op, version), version)
