"""Mailbox: what waits for a channel's callbacks, in order, and bounded.

Changes, snapshots, broadcasts, presence and system messages come from the reader, which waits for room
first, so that a slow callback holds back the socket and nothing is dropped. Statuses may come from anywhere
and cannot wait: when ``STATUSES`` of them are unseen, a new one takes the place of the last. So does a
position without a change that of another.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from ._core.wants import Advance, Batch, Deliver, Hear, Notify, Part, Present
from ._core.wants import Item as Content

STATUSES = 32
BYTES = 16 * 2**20
#: What may wait while an answer of the server is awaited. Beyond that the answer comes too late.
MOST, MOST_BYTES = 100_000, 8 * BYTES

Item = Content | Notify


@dataclass(slots=True)
class _Load:
    items: int = 0
    bytes: int = 0
    statuses: int = 0

    def add(self, item: Item, sign: int) -> None:
        if isinstance(item, Notify):
            self.statuses += sign
        else:
            self.items += sign
            self.bytes += sign * _size(item)


def _size(item: Content) -> int:
    match item:
        case Deliver(data=data) | Batch(data=data) | Hear(data=data) | Present(data=data):
            return len(data)
        case Part(changes=changes):
            return sum(len(data) for _, data in changes)
    return 0


class Mailbox:
    """One channel's queue: one reader puts, one dispatcher takes, on one event loop.

    ``lifted`` tells when the bound must not hold the reader: while a callback awaits an answer of the server,
    only the reader can bring it. There is a greater bound then.
    """

    def __init__(self, limit: int, lifted: Callable[[], bool]) -> None:
        self._limit, self._lifted = limit, lifted
        self._items: deque[Item] = deque()
        self._load = _Load()
        self._changed = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether the reader must wait."""
        items, size = self._load.items, self._load.bytes
        if self._lifted():
            return items >= max(MOST, self._limit) or size >= MOST_BYTES
        return items >= self._limit or size >= BYTES

    async def room(self) -> None:
        """Wait until the mailbox is not full."""
        while self.full:
            self._changed.clear()
            await self._changed.wait()

    def put(self, item: Item) -> None:
        """Add to the end."""
        last = self._items[-1] if self._items else None
        crowded = isinstance(item, Notify) and self._load.statuses >= STATUSES and isinstance(last, Notify)
        if crowded or (isinstance(item, Advance) and isinstance(last, Advance)):
            self._take(self._items.pop())
        self._items.append(item)
        self._load.add(item, 1)

    def take(self) -> Item | None:
        """The next item, or None."""
        return self._take(self._items.popleft()) if self._items else None

    def discard(self) -> None:
        """Drop changes and messages that nobody has seen. Statuses stay, but do not pass what was dropped."""
        kept = [replace(item, position=None) for item in self._items if isinstance(item, Notify)]
        self._items, self._load = deque(kept), _Load(statuses=len(kept))
        self.wake()

    def wake(self) -> None:
        """Let a waiting reader look again."""
        self._changed.set()

    def _take(self, item: Item) -> Item:
        self._load.add(item, -1)
        self.wake()
        return item
