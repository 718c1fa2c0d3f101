"""``postgres_changes`` messages: Postgres' own JSON text spliced into a frame, unparsed where it fits.

The part that all subscribers share is made once a change; the rest is its topic and the matching ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from rowcast.model.change import Change, Op, Relation
from rowcast.model.reading import View
from rowcast.protocol.messages import Version
from rowcast.protocol.values import Rewrite, rewrite_of, split

_encode: Final = msgspec.json.Encoder().encode
#: Values whose JSON is longer than this are left out of a change that is too large.
SMALL_VALUE: Final = 64
#: What ``errors`` says where they are left out.
TOO_LARGE: Final = b'["Error 413: Payload Too Large"]'
_NO_KEY: Final = b'["Error 400: Bad Request, no primary key"]'
_EVERYTHING: Final = View()


def encode_data(change: Change, view: View = _EVERYTHING, *, last: bool = True) -> bytes:
    """The ``data`` object of a change. Of several messages to one channel about it, all but the ``last`` have
    the position before it, so that who is cut off in between is sent all of them again."""
    outline = _outline(change.relation, view)
    return _data(change, outline, b"null", *_images(change, outline), last)


def encode_keyless(change: Change, *, last: bool = True) -> bytes:
    """The ``data`` object of a DELETE that is for everybody, from a table without a primary key."""
    outline = _outline(change.relation, View(hidden=frozenset(one.name for one in change.relation.columns)))
    return _data(change, outline, _NO_KEY, None, b"{}", last)


def encode_reduced(change: Change, view: View = _EVERYTHING, *, last: bool = True) -> bytes:
    """The ``data`` object of a change that is too large: with small values only, which ``errors`` says."""
    outline = _outline(change.relation, view)
    record, old = _images(change, outline)
    return _data(change, outline, TOO_LARGE, record and small_values(record), old and small_values(old), last)


def encode_message(data: bytes, topic: str, ids: Sequence[int], version: Version) -> bytes:
    """The whole message for subscribers of ``topic`` whose bindings ``ids`` match."""
    numbers = ",".join(map(str, ids)).encode()
    return encode_event("postgres_changes", topic, version, b'{"data":', data, b',"ids":[', numbers, b"]}")


def encode_part(data: bytes, ids: Sequence[int]) -> bytes:
    """The payload of that message, as one change of a transaction."""
    numbers = ",".join(map(str, ids)).encode()
    return b"".join((b'{"data":', data, b',"ids":[', numbers, b"]}"))


def encode_transaction(
    parts: Sequence[bytes],
    topic: str,
    version: Version,
    *,
    commit_timestamp: str,
    position: str,
    last: bool,
) -> bytes:
    """The whole message for a subscriber of ``topic`` with the changes of a transaction, or some of them;
    ``last`` says that no more come."""
    return encode_event(
        "transaction",
        topic,
        version,
        b'{"changes":[',
        b",".join(parts),
        b'],"commit_timestamp":"',
        commit_timestamp.encode(),
        b'","position":"',
        position.encode(),
        b'","last":true}' if last else b'","last":false}',
    )


def encode_legacy(data: bytes, topic: str, op: Op, version: Version) -> bytes:
    """The whole message for who joined ``topic`` the old way: its event is ``op``, its payload ``data``."""
    return encode_event(op, topic, version, data)


def encode_event(event: str, topic: str, version: Version, *payload: bytes) -> bytes:
    """A message of the server's, around the JSON of its payload."""
    name = event.encode()
    if version is Version.V1:
        return b"".join((
            b'{"ref":null,"event":"', name, b'","payload":', *payload, b',"topic":', _encode(topic), b"}",
        ))  # fmt: skip
    return b"".join((b"[null,null,", _encode(topic), b',"', name, b'",', *payload, b"]"))


@dataclass(frozen=True, slots=True)
class _Outline:
    """What the changes of a relation have in common for all who are shown the same columns."""

    table: bytes
    columns: bytes
    schema: bytes
    record: Rewrite | None
    old_record: Rewrite | None


@lru_cache(maxsize=4096)
def _outline(relation: Relation, view: View) -> _Outline:
    names = {column.name for column in relation.columns}
    if view.select is not None:
        names &= view.select | relation.key
    names -= view.hidden
    shown = [
        {"name": column.name, "type": column.type} for column in relation.columns if column.name in names
    ]
    return _Outline(
        table=b'{"table":' + _encode(relation.table) + b',"type":"',
        columns=b',"columns":' + _encode(shown) + b',"errors":',
        schema=b',"schema":' + _encode(relation.schema) + b',"commit_timestamp":"',
        record=rewrite_of(relation, names),
        old_record=rewrite_of(relation, names & (relation.identity if view.old is None else view.old)),
    )


def _data(
    change: Change,
    outline: _Outline,
    errors: bytes,
    record: bytes | None,
    old_record: bytes | None,
    last: bool,
) -> bytes:
    parts = [outline.table, change.op.encode(), b'"']
    if record is not None:
        parts += b',"record":', record
    parts += outline.columns, errors, outline.schema, change.commit_timestamp.encode(), b'"'
    if old_record is not None:
        parts += b',"old_record":', old_record
    position = change.position if last else change.before
    parts += b',"seq":', str(change.seq).encode(), b',"position":"', position.encode(), b'"}'
    return b"".join(parts)


def _images(change: Change, outline: _Outline) -> tuple[bytes | None, bytes | None]:
    """The new row as it is reported, and of the old one what the replica identity shows."""
    record, old = change.record, change.old_record
    if record is not None and outline.record is not None:
        record = outline.record(record)
    if change.op is Op.INSERT or old is None:
        old = None
    elif outline.old_record is not None:
        old = outline.old_record(old)
    return record, old


def small_values(image: bytes) -> bytes:
    """A row without its long values."""
    values = ((name, bytes(value)) for name, value in split(image).items())
    kept = {
        name: msgspec.Raw(value) for name, value in values if len(value) <= SMALL_VALUE and value != b"null"
    }
    return _encode(kept)
