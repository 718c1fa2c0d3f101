"""Changes that wait to be judged, in order, and what follows each of them. Runs on the event loop only."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from rowcast.hub.feed import Subscriber
from rowcast.hub.hearers import hand_on
from rowcast.model.change import Change
from rowcast.model.message import Message

#: Changes judged together and their bytes, and bytes that may wait.
BATCH: Final = 200
MAX_BATCH: Final = 1024 * 1024
MAX_WAITING: Final = 64 * 1024 * 1024
_OVERHEAD: Final = 500

#: A message for some, and the position after it.
_Told = tuple[Sequence[Subscriber], Message, str]


class Waiting:
    """The queue. ``end`` is called where a transaction is complete whose changes were all sent, and ``lose``
    where more waited than may, and was forgotten."""

    def __init__(self, end: Callable[[], None], lose: Callable[[str], None]) -> None:
        self._end, self._lose = end, lose
        self._waiting: deque[Change] = deque()
        #: What follows a change, by its number: messages, and the end of a transaction.
        self._after: dict[int, list[_Told | None]] = {}
        self._size = 0
        self._taken = self._sent = 0
        self._more = asyncio.Event()
        self._turn = asyncio.Event()
        #: From where to resume while changes wait here; None while none does.
        self.position: str | None = None
        #: Who came while changes waited, how many had been taken by then, which are not for it, and the
        #: position from which it hears.
        self._newcomers: dict[Subscriber, tuple[int, str | None]] = {}

    def begin(self, subscriber: Subscriber, position: str | None) -> None:
        """A subscriber was attached that hears from this position on: what waits was handed out before."""
        if self._waiting:
            self._newcomers[subscriber] = self._taken, position

    def position_of(self, subscriber: Subscriber) -> str | None:
        """From where a subscriber could resume while changes wait here; None while none does."""
        came = self._present_newcomers().get(subscriber)
        return self.position if came is None else came[1]

    def is_newcomer(self, subscriber: Subscriber) -> bool:
        """Whether what waits first is not for a subscriber, as it came later."""
        return subscriber in self._present_newcomers()

    def _present_newcomers(self) -> Mapping[Subscriber, tuple[int, str | None]]:
        if self._newcomers:
            sent = self._taken - len(self._waiting)
            self._newcomers = {one: came for one, came in self._newcomers.items() if came[0] > sent}
        return self._newcomers

    def put(self, change: Change, before: str | None) -> None:
        """Take a change. ``before`` is the position that precedes it."""
        if not self._waiting:
            self.position = before
        self._waiting.append(change)
        self._taken += 1
        self._grow(_size(change))
        self._more.set()

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_WAITING:
            self.clear()
            self._lose("filters that Postgres judges fell too far behind")

    def tell(self, subscribers: Sequence[Subscriber], message: Message, position: str) -> None:
        """Send those who ask a message after what waits. ``position`` is the one after it."""
        if not self._waiting:
            hand_on(subscribers, message, position)
            return
        self._follow((subscribers, message, position))
        self._grow(_OVERHEAD + message.size)

    def end_transaction(self) -> None:
        """All changes of a transaction were taken."""
        if self._waiting:
            self._follow(None)
        else:
            self._end()

    def _follow(self, what: _Told | None) -> None:
        self._after.setdefault(self._waiting[-1].seq, []).append(what)

    def clear(self) -> None:
        """Forget what waits: its subscribers were told that they miss it."""
        self._waiting.clear()
        self._newcomers.clear()
        self._after.clear()
        self._went()
        self._size, self.position = 0, None

    async def drain(self) -> None:
        """Wait until all that waits now was sent, or forgotten."""
        taken = self._taken
        while self._sent < taken:
            await self._turn.wait()

    def _went(self) -> None:
        self._sent = self._taken - len(self._waiting)
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()

    def _batch(self) -> list[Change]:
        batch: list[Change] = []
        size = 0
        for change in self._waiting:
            size += _size(change)
            if batch and (len(batch) == BATCH or size > MAX_BATCH):
                break
            batch.append(change)
        return batch

    async def _filled(self) -> None:
        """Wait until something waits."""
        while not self._waiting:
            self._more.clear()
            await self._more.wait()

    def _sent_first(self) -> None:
        """The first change was sent: send what follows it."""
        change = self._waiting.popleft()
        self._size -= _size(change)
        self.position = change.position
        for told in self._after.pop(change.seq, ()):
            if told is None:
                self._end()
                continue
            hand_on(*told)
            _, message, self.position = told
            self._size -= _OVERHEAD + message.size
        if not self._waiting:
            self.position = None


def _size(change: Change) -> int:
    return _OVERHEAD + len(change.record or b"") + len(change.old_record or b"")
