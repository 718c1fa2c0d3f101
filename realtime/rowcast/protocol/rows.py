"""A row image as values by column: their JSON text as Postgres wrote it. Only what is looked at is copied."""

from collections.abc import Iterator, Mapping

from rowcast.model.change import Change, Op
from rowcast.protocol.values import split


class _Image(Mapping[str, bytes]):
    def __init__(self, image: bytes | None) -> None:
        self._fields: Mapping[str, bytes] = {} if image is None else split(image)

    def __getitem__(self, column: str) -> bytes:
        return bytes(self._fields[column])

    def get(self, column: str, default: bytes | None = None) -> bytes | None:  # type: ignore[override]
        raw = self._fields.get(column)
        return default if raw is None else bytes(raw)

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def image_of(change: Change) -> bytes | None:
    """The row that filters look at: of a DELETE or LEAVE the old one, else the new; None of a TRUNCATE."""
    return change.old_record if change.op in (Op.DELETE, Op.LEAVE) else change.record


def row_of(change: Change) -> Mapping[str, bytes]:
    """That row, by column; columns that are not reported are there, too."""
    return _Image(image_of(change))
