"""Change: one committed row change, as a ``postgres_changes`` callback receives it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

import msgspec

from .errors import ProtocolError
from .values import convert, convert_row


class _Column(msgspec.Struct):
    name: str
    type: str


class _Wire(msgspec.Struct):
    schema: str
    table: str
    type: str
    columns: list[_Column] = []
    commit_timestamp: msgspec.Raw = msgspec.Raw(b"null")
    record: msgspec.Raw = msgspec.Raw(b"null")
    old_record: msgspec.Raw = msgspec.Raw(b"null")
    errors: Any = None
    seq: Any = None
    position: Any = None


_wire = msgspec.json.Decoder(_Wire)


@dataclass(frozen=True, slots=True, eq=False)
class Change(Mapping[str, Any]):
    """A row change, read by attribute (``change.new``) or by key (``change["new"]``).

    ``new`` and ``old`` hold the row's two images with Python values, ``{}`` where there is none: ``old`` on
    INSERT, ``new`` on DELETE. What ``old`` shows is the table's replica identity, by default its primary key.
    """

    eventType: str
    """``INSERT``, ``UPDATE`` or ``DELETE``; also as ``event_type``.

    Where it was asked for, ``LEAVE`` too: the row was updated and does not pass the filter any more, or is no
    longer to be seen (``old`` as on UPDATE); and ``TRUNCATE``, which has neither image.
    """
    schema: str
    table: str
    new: dict[str, Any]
    old: dict[str, Any]
    commit_timestamp: datetime | None
    """When it was committed, with zone."""
    errors: list[str] | None
    """Why the images are not whole (too large, say), or None."""
    seq: int | None
    """The change's own number, for dropping repeats. None from a server that does not give one."""
    position: str | None
    """Where the stream stands after this change; opaque."""
    _data: bytes = field(repr=False)

    _KEYS: ClassVar[tuple[str, ...]] = (
        *("eventType", "schema", "table", "new", "old", "commit_timestamp", "errors", "seq", "position"),
    )

    @property
    def event_type(self) -> str:
        """``eventType`` in Python's spelling."""
        return self.eventType

    @property
    def raw(self) -> dict[str, Any]:
        """The change as the server sent it, with nothing converted. Parsed anew at each call."""
        raw: dict[str, Any] = msgspec.json.decode(self._data)
        return raw

    def __getitem__(self, key: str) -> Any:
        if key in self._KEYS or key == "event_type":
            return getattr(self, key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._KEYS)

    def __len__(self) -> int:
        return len(self._KEYS)


def read_change(data: bytes) -> Change:
    """A change from its JSON. Raises ProtocolError."""
    try:
        wire = _wire.decode(data)
        types = {column.name: column.type for column in wire.columns}
        stamp = convert(wire.commit_timestamp, "timestamptz")
        return Change(
            eventType=wire.type,
            schema=wire.schema,
            table=wire.table,
            new=_row(wire.record, types),
            old=_row(wire.old_record, types),
            commit_timestamp=stamp if isinstance(stamp, datetime) else None,
            errors=wire.errors if isinstance(wire.errors, list) else None,
            seq=wire.seq if isinstance(wire.seq, int) else None,
            position=wire.position if isinstance(wire.position, str) else None,
            _data=data,
        )
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise ProtocolError("a row change has another shape than the protocol's") from fault


def _row(image: msgspec.Raw, types: Mapping[str, str]) -> dict[str, Any]:
    return {} if bytes(image) == b"null" else convert_row(image, types)
