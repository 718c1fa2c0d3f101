"""One change on its way: each distinct part of it is encoded once, each role asked once.

Runs on the event loop only; nothing here waits.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from rowcast.hub.feed import Subscriber
from rowcast.hub.matching import Audience, Select
from rowcast.model.change import Change, Relation
from rowcast.protocol.changes import encode_data, encode_legacy, encode_message, encode_reduced
from rowcast.protocol.frames import text_frame

#: Whether a role may read a table.
MayRead = Callable[[str, Relation], bool]


@dataclass(slots=True)
class Counts:
    """What the fan-out did since the start."""

    messages: int = 0
    hidden: int = 0


class Sending:
    """One change on its way. ``limit`` bounds a whole message, in bytes."""

    def __init__(self, change: Change, may_read: MayRead, limit: int, counts: Counts) -> None:
        self._change, self._may_read = change, may_read
        self._limit, self._counts = limit, counts
        self._data: dict[Select, bytes] = {}
        self._reduced: dict[Select, bytes] = {}
        self._verdicts: dict[str, bool] = {}

    def send(self, audience: Audience, members: Collection[Subscriber]) -> None:
        """Send it to the members of an audience."""
        counts, role = self._counts, audience.role
        may_read = self._verdicts.get(role)
        if may_read is None:
            may_read = self._verdicts[role] = self._may_read(role, self._change.relation)
        if not may_read:
            counts.hidden += len(members)
            return
        frame = text_frame(self._message(audience))
        counts.messages += len(members)
        for subscriber in members:
            subscriber.lane.push(frame)

    def _message(self, audience: Audience) -> bytes:
        select = audience.select
        data = self._data.get(select)
        if data is None:
            data = self._data[select] = encode_data(self._change, select)
        message = self._wrap(audience, data)
        if len(message) <= self._limit:
            return message
        reduced = self._reduced.get(select)
        if reduced is None:
            reduced = self._reduced[select] = encode_reduced(self._change, select)
        return self._wrap(audience, reduced)

    def _wrap(self, audience: Audience, data: bytes) -> bytes:
        if audience.legacy:
            return encode_legacy(data, audience.topic, self._change.op, audience.version)
        return encode_message(data, audience.topic, audience.ids, audience.version)
