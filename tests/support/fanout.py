"""The fan-out without a stream: subscribers that keep their messages, and filters on a table made by hand."""

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rowcast.hub.feed import Subscriber
from rowcast.hub.lanes import Lane
from rowcast.model.binding import Binding
from rowcast.model.change import Change, Op, Relation
from rowcast.model.change import Column as Named
from rowcast.model.filter import Condition
from rowcast.model.predicate import Ask, Column, Predicate, Truth, make_predicate
from rowcast.protocol.frames import payload_of
from rowcast.protocol.messages import Version
from rowcast.protocol.rows import image_of
from support.streams import Kept

KEY = frozenset({"id"})
NOTES = Relation(1, 1, "public", "notes", (Named("id", "int4"), Named("body", "text")), KEY, key=KEY)
#: What `id=eq.…` and `body=like.…` compare: the first by Python, the second by Postgres.
_COLUMNS = {"id": Column("int4", "int4"), "body": Column("text", "text")}


class Listening(Kept):
    """A channel, and what it was sent."""

    def __init__(
        self,
        topic: str = "a",
        loop: asyncio.AbstractEventLoop | None = None,
        version: Version = Version.V2,
        **more: Any,
    ) -> None:
        super().__init__()
        self._payloads: list[bytes] = []
        self.lane = Lane(self, sys.maxsize, loop)
        self.subscriber = Subscriber(f"realtime:{topic}", version, self.lane, self.lost, **more)

    def write(self, frames: Sequence[bytes]) -> None:
        self._payloads += [payload_of(frame)[1] for frame in frames]

    def raw(self) -> list[bytes]:
        """The messages since the last call, as they went."""
        self.lane.flush()
        taken, self._payloads = self._payloads, []
        return taken

    def heard(self) -> list[Any]:
        """The same, decoded."""
        return [json.loads(payload) for payload in self.raw()]


def change(op: Op, new: Mapping[str, Any] | None, old: Mapping[str, Any] | None, seq: int = 1) -> Change:
    """A change of a note, at place ``p`` with its number and after that before."""
    record, old_record = (None if image is None else json.dumps(image).encode() for image in (new, old))
    at = "2026-01-01T00:00:00.000Z"
    return Change(NOTES, op, record, old_record, seq, f"p{seq}", at, before=f"p{seq - 1}")


def insert(body: str, seq: int = 1) -> Change:
    """An INSERT of the note with that number."""
    return change(Op.INSERT, {"id": seq, "body": body}, None, seq)


def ready(bindings: Iterable[Binding]) -> dict[Binding, dict[int, Predicate]]:
    """The filters of bindings that have one condition, ready for notes."""
    return {
        binding: {
            NOTES.id: make_predicate(
                binding.filter, _COLUMNS, {binding.filter: (binding.filter.value.encode(),)}
            )
        }
        for binding in bindings
        if isinstance(binding.filter, Condition)
    }


def answered(change: Change, asks: Iterable[tuple[str, Ask]]) -> dict[str, dict[Ask, Truth]]:
    """What Postgres would say of conditions `body=like.x%`, by role."""
    image = json.loads(image_of(change) or b"{}")
    answers: dict[str, dict[Ask, Truth]] = {}
    for role, ask in asks:
        prefix = ask.value.removesuffix("%")
        answers.setdefault(role, {})[ask] = str(image["body"]).startswith(prefix) if image else None
    return answers
