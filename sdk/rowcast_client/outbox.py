"""Outbox: frames on their way to one socket, in order.

Control frames (joins, leaves, heartbeats) always go in. Who sends broadcasts waits for room first, one after
the other, so that what the socket does not take waits where it is sent.
"""

import asyncio
from collections import deque

FRAMES = 256
BYTES = 2**20

# Without broadcasts there are few: more than this means a socket that takes nothing.
_MOST = 65_536


class Outbox:
    """One socket's queue: one writer takes, on one event loop."""

    def __init__(self) -> None:
        self._frames: deque[str | bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._filled, self._taken = asyncio.Event(), asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def full(self) -> bool:
        """Whether who sends broadcasts must wait."""
        return not self._ended and (len(self._frames) >= FRAMES or self._bytes >= BYTES)

    async def room(self) -> None:
        """Wait until it is not full, or the socket has ended; first come, first served."""
        async with self._turn:
            while self.full:
                self._taken.clear()
                await self._taken.wait()

    def put(self, frame: str | bytes) -> bool:
        """Add to the end; false if that is too much for any socket that still takes something."""
        if len(self._frames) >= _MOST:
            return False
        self._frames.append(frame)
        self._bytes += len(frame)
        self._filled.set()
        return True

    async def take(self) -> str | bytes:
        """The next frame, once there is one."""
        while not self._frames:
            self._filled.clear()
            await self._filled.wait()
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        self._taken.set()
        return frame

    def end(self) -> None:
        """The socket has ended: nobody waits for it any more."""
        self._ended = True
        self._taken.set()
