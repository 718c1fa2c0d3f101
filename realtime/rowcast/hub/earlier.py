"""What a channel hears while it is yet to be sent earlier messages: it waits, and none comes twice.

Everything here runs on the event loop only, and nothing waits.
"""

from collections.abc import Iterable

from rowcast.hub.lanes import Lane


class Earlier:
    """Holds frames for one lane until ``sent``. No more than the lane may: then the client is too slow."""

    __slots__ = ("_held", "_known", "_lane", "_size")

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._held: list[tuple[str | None, bytes]] | None = []
        self._size = 0
        self._known: frozenset[str] = frozenset()

    def push(self, frame: bytes, id_: str | None) -> None:
        """Send a whole frame, soon, or once the earlier ones have been sent."""
        if id_ in self._known:
            return
        if self._held is None:
            self._lane.push(frame)
            return
        self._size += len(frame)
        if self._size > self._lane.limit:
            self._held.clear()
            self._lane.cut()
            return
        self._held.append((id_, frame))

    def sent(self, ids: Iterable[str]) -> None:
        """The messages with these ids were sent. What was held follows them."""
        held, self._held, self._known = self._held or (), None, frozenset(ids)
        for id_, frame in held:
            self.push(frame, id_)
