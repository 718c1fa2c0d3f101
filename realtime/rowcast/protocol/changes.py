"""``postgres_changes`` messages: Postgres' own JSON text spliced into a frame, unparsed where nothing is cut.

The part that all subscribers share is made once a change; the rest is its topic and the matching ids.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from rowcast.model.change import Change, Op, Relation
from rowcast.protocol.messages import Version

_encode: Final = msgspec.json.Encoder().encode
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
#: Values whose JSON is longer than this are left out of a change that is too large.
SMALL_VALUE: Final = 64
_TOO_LARGE: Final = b'["Error 413: Payload Too Large"]'


def encode_data(change: Change) -> bytes:
    """The ``data`` object of a change."""
    return _data(change, b"null", *_images(change))


def encode_reduced(change: Change) -> bytes:
    """The ``data`` object of a change that is too large: with small values only, which ``errors`` says."""
    return _data(change, _TOO_LARGE, *(image and _small(image) for image in _images(change)))


def encode_message(data: bytes, topic: str, ids: Sequence[int], version: Version) -> bytes:
    """The whole message for subscribers of ``topic`` whose bindings ``ids`` match."""
    numbers = ",".join(map(str, ids)).encode()
    if version is Version.V1:
        return b''.join((
            b'{"ref":null,"event":"postgres_changes","payload":{"data":', data, b',"ids":[', numbers,
            b']},"topic":', _encode(topic), b"}",
        ))  # fmt: skip
    return b"".join((
        b"[null,null,", _encode(topic), b',"postgres_changes",{"data":', data, b',"ids":[', numbers, b"]}]",
    ))  # fmt: skip


def _data(change: Change, errors: bytes, record: bytes | None, old_record: bytes | None) -> bytes:
    relation = change.relation
    parts = [b'{"table":', _encode(relation.table), b',"type":"', change.op.encode(), b'"']
    if record is not None:
        parts += b',"record":', record
    parts += (
        b',"columns":',
        _columns(relation),
        b',"errors":',
        errors,
        b',"schema":',
        _encode(relation.schema),
    )
    parts += b',"commit_timestamp":"', change.commit_timestamp.encode(), b'"'
    if old_record is not None:
        parts += b',"old_record":', old_record
    parts += b',"seq":', str(change.seq).encode(), b',"position":"', change.position.encode(), b'"}'
    return b"".join(parts)


def _images(change: Change) -> tuple[bytes | None, bytes | None]:
    """The new row as it is reported, and of the old one what the replica identity shows."""
    relation = change.relation
    record, old = change.record, change.old_record
    if record is not None and relation.omitted:
        record = _cut(record, {column.name for column in relation.columns})
    if change.op is Op.INSERT or old is None:
        old = None
    elif not relation.whole_identity or relation.omitted:
        old = _cut(old, relation.identity)
    return record, old


def _cut(image: bytes, names: Collection[str]) -> bytes:
    return _encode({name: value for name, value in _fields.decode(image).items() if name in names})


def _small(image: bytes) -> bytes:
    kept = _fields.decode(image).items()
    return _encode(
        {name: raw for name, raw in kept if len(bytes(raw)) <= SMALL_VALUE and bytes(raw) != b"null"}
    )


@lru_cache(maxsize=4096)
def _columns(relation: Relation) -> bytes:
    return _encode([{"name": column.name, "type": column.type} for column in relation.columns])
