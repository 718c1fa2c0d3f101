"""``snapshot`` messages: rows that were there already, as the changes that made them would have shown them.

Images are rows' JSON text with the columns of an ``Outline`` in its order: what needs no rewriting is spliced
in unparsed.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from rowcast.model.change import Relation
from rowcast.model.reading import View
from rowcast.protocol.changes import TOO_LARGE, encode_event, small_values
from rowcast.protocol.messages import Version
from rowcast.protocol.values import Rewrite, jsonb_order, rewrite_of

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Outline:
    """What all messages of a table's snapshot have in common: the columns that are shown, and how.

    ``names`` are those columns in the order in which images have them.
    """

    names: tuple[str, ...]
    head: bytes
    rewrite: Rewrite | None


def outline_of(relation: Relation, view: View) -> Outline:
    """What is shown of a table's rows to who sees changes of this version by this view."""
    names = {column.name for column in relation.columns}
    if view.select is not None:
        names &= view.select | relation.key
    names -= view.hidden
    shown = tuple(column for column in relation.columns if column.name in names)
    ordered = tuple(sorted(shown, key=lambda column: jsonb_order(column.name)))
    columns = [{"name": column.name, "type": column.type} for column in shown]
    return Outline(
        names=tuple(column.name for column in ordered),
        head=b"".join((
            b'{"schema":', _encode(relation.schema), b',"table":', _encode(relation.table),
            b',"columns":', _encode(columns), b',"key":', _encode(_key(relation, names)), b',"records":[',
        )),
        rewrite=rewrite_of(replace(relation, columns=ordered, omitted=frozenset()), names),
    )  # fmt: skip


def _key(relation: Relation, shown: Collection[str]) -> list[str]:
    """The columns by which ``old_record`` names a row, in the table's order; none where it does not."""
    key = relation.key
    if not key or not key <= relation.identity:
        key = frozenset() if relation.whole_identity else relation.identity
    return [column.name for column in relation.columns if column.name in key] if key <= set(shown) else []


def encode_snapshot(
    outline: Outline,
    images: Sequence[bytes],
    topic: str,
    ids: Sequence[int],
    version: Version,
    *,
    last: bool,
    position: str,
    limit: int,
) -> list[bytes]:
    """The messages that tell who joined ``topic`` of these rows, each of ``limit`` bytes at most.

    A row for which that is too little is sent by itself, with small values only, which ``errors`` says. At
    least one message; of several only the final one has what ``last`` says.
    """
    records = list(images) if outline.rewrite is None else [outline.rewrite(image) for image in images]
    numbers = ",".join(map(str, ids)).encode()

    def message(part: Sequence[bytes], errors: bytes, *, ends: bool) -> bytes:
        return encode_event(
            "snapshot", topic, version,
            b'{"ids":[', numbers, b'],"data":', outline.head, b",".join(part), b'],"errors":', errors,
            b',"last":', b"true" if ends else b"false", b',"position":"', position.encode(), b'"}}',
        )  # fmt: skip

    room = limit - len(message((), b"null", ends=False))
    parts = list(_parts(records, room)) or [[]]
    return [
        message(part, b"null", ends=last and number == len(parts))
        if len(part) != 1 or len(part[0]) <= room
        else message([small_values(part[0])], TOO_LARGE, ends=last and number == len(parts))
        for number, part in enumerate(parts, start=1)
    ]


def _parts(records: Collection[bytes], room: int) -> Iterator[list[bytes]]:
    """The records in their order, as many together as there is room for, and at least one."""
    part: list[bytes] = []
    size = 0
    for record in records:
        if part and size + len(record) + 1 > room:
            yield part
            part, size = [], 0
        size += len(record) + bool(part)
        part.append(record)
    if part:
        yield part
