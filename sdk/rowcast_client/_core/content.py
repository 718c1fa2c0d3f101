"""Content: the messages that carry rows, as wants for the bindings that they are for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from .asking import Binding, snapshots
from .frames import Frame, decode_change, decode_mark, decode_transaction
from .place import Place
from .wants import Batch, Deliver, Part, Want


class Content:
    """Reads one channel's messages, and keeps its place. What was heard before is left out."""

    EVENTS: ClassVar[frozenset[str]] = frozenset({"postgres_changes", "transaction", "snapshot"})

    def __init__(self, topic: str, place: Place) -> None:
        self._topic, self._place = topic, place
        self._indices: Mapping[int, tuple[int, ...]] = {}
        self._snapshots: frozenset[int] = frozenset()

    def accepted(self, indices: Mapping[int, tuple[int, ...]], bindings: Sequence[Binding]) -> None:
        """The server gave the bindings these ids."""
        self._indices = indices
        self._snapshots = snapshots(bindings)

    def received(self, frame: Frame) -> Iterator[Want]:
        """A message of one of ``EVENTS``. Raises ProtocolError for one that cannot be read."""
        if frame.event == "postgres_changes":
            yield from self._change(frame)
        elif frame.event == "transaction":
            yield self._part(frame)
        else:
            yield from self._batch(frame)

    def _change(self, frame: Frame) -> Iterator[Want]:
        change = decode_change(frame.payload)
        mark = decode_mark(change.data)
        indices = self._place.fresh(mark.seq, self._those(change.ids))
        self._place.position = mark.position or self._place.position
        if indices:
            yield Deliver(self._topic, tuple(sorted(indices)), bytes(change.data), mark.seq, mark.position)

    def _part(self, frame: Frame) -> Want:
        part = decode_transaction(frame.payload)
        indices = [tuple(sorted(self._those(change.ids))) for change in part.changes]
        seqs = [decode_mark(change.data).seq for change in part.changes]
        new = self._place.part(list(zip(seqs, indices, strict=True)), part.last)
        self._place.position = part.position or self._place.position
        changes = tuple(
            (those, bytes(change.data))
            for change, those, is_new in zip(part.changes, indices, new, strict=True)
            if is_new
        )
        return Part(self._topic, changes, bytes(part.commit_timestamp), part.position, part.last)

    def _batch(self, frame: Frame) -> Iterator[Want]:
        batch = decode_change(frame.payload, "snapshot")
        mark = decode_mark(batch.data, "snapshot")
        indices = self._those(batch.ids) & self._snapshots
        if not indices:
            return
        first, complete = self._place.batch(indices, mark.last is True)
        if complete:
            self._place.position = mark.position
        position = mark.position if complete else None
        yield Batch(self._topic, tuple(sorted(indices)), bytes(batch.data), first, position)

    def _those(self, ids: Sequence[int]) -> set[int]:
        return {index for id_ in ids for index in self._indices.get(id_, ())}
