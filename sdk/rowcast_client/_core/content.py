"""Content: the messages that carry something for callbacks, as wants: rows, broadcasts, who is present."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from .asking import Binding, How, snapshots
from .broadcasts import from_text
from .frames import Frame, decode_change, decode_mark, decode_transaction
from .ids import Ids
from .place import Place
from .wants import Advance, Batch, Deliver, Hear, Part, Present, Want

#: How many ids of broadcasts are kept: many more than a replay has; and of those that this channel stored.
_IDS, _OWN = 1000, 10_000


class Content:
    """Reads one channel's messages, and keeps its place. What was heard before is left out."""

    EVENTS: ClassVar[frozenset[str]] = frozenset(
        {"postgres_changes", "transaction", "snapshot", "broadcast", "presence_state", "presence_diff"}
    )

    def __init__(self, topic: str, place: Place) -> None:
        self._topic, self._place = topic, place
        self._indices: Mapping[int, tuple[int, ...]] = {}
        self._snapshots: frozenset[int] = frozenset()
        self._how, self._join_ref = How(), ""
        self._messages = False
        self._ids, self._own = Ids(_IDS), Ids(_OWN)

    def stored(self, id_: str) -> None:
        """The channel has a broadcast of this id stored."""
        self._own.add(id_)

    def reset(self) -> None:
        """The channel begins anew."""
        self._ids.clear()

    def accepted(
        self,
        indices: Mapping[int, tuple[int, ...]],
        bindings: Sequence[Binding],
        how: How,
        join_ref: str,
        *,
        messages: bool,
    ) -> None:
        """The server took the join, and gave the bindings these ids; ``messages`` says whether they
        are a part of the stream."""
        self._indices = indices
        self._snapshots = snapshots(bindings)
        self._how, self._join_ref, self._messages = how, join_ref, messages

    def received(self, frame: Frame) -> Iterator[Want]:
        """A message of one of ``EVENTS``. Raises ProtocolError for one that cannot be read."""
        if frame.event == "postgres_changes":
            yield from self._change(frame)
        elif frame.event == "transaction":
            yield self._part(frame)
        elif frame.event == "snapshot":
            yield from self._batch(frame)
        elif frame.event == "broadcast":
            yield from self.heard(from_text(frame))
        elif self._how.presence:
            whole = frame.event == "presence_state"
            yield Present(self._topic, self._join_ref, bytes(frame.payload), whole)

    def heard(self, broadcast: Hear) -> Iterator[Want]:
        """A broadcast. What comes again is left out: a replay brings with each join what was before it."""
        id_, position = broadcast.id, broadcast.position if self._messages else None
        new = self._how.echo or id_ is None or id_ not in self._own
        if self._how.replay is not None and id_ is not None:
            new = new and not (broadcast.replayed and id_ in self._ids)
            self._ids.add(id_)
        if position is not None:
            new = self._place.message(id_, position, again=broadcast.again) and new
            # While a snapshot is on its way nothing may go on from there.
            position = position if self._place.settled else None
        if new:
            yield replace(broadcast, position=position)
        elif position is not None:
            yield Advance(self._topic, position)

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
