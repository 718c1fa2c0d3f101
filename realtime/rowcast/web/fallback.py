"""A lane's sink where the server is not ours: frames go out by ASGI ``send``, one after the other."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from rowcast.hub.lanes import LOW_MARK, Lane
from rowcast.protocol.frames import payload_of

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AsgiSink:
    """Sends what a lane writes. ``run`` it beside the loop that receives."""

    pipe = None

    def __init__(self, send: Send) -> None:
        self._send = send
        self._frames: deque[bytes] = deque()
        self._waiting = 0
        self._closing: tuple[int, str] | None = None
        self._wake = asyncio.Event()
        self._aborted = asyncio.Event()
        self.lane: Lane | None = None

    def waiting(self) -> int:
        return self._waiting

    def write(self, frames: Sequence[bytes]) -> None:
        self._frames.extend(frames)
        self._waiting += sum(map(len, frames))
        self._wake.set()

    def close(self, code: int, reason: str) -> None:
        self._closing = (code, reason)
        self._wake.set()

    def abort(self) -> None:
        self._aborted.set()

    async def run(self) -> None:
        """Send until the close frame was sent. Raises what ``send`` raises when the client is gone."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._frames:
                frame = self._frames.popleft()
                text, payload = payload_of(frame)
                await self._send({"type": "websocket.send", "text": payload.decode()} if text
                                 else {"type": "websocket.send", "bytes": payload})  # fmt: skip
                self._waiting -= len(frame)
                if self.lane is not None and self._waiting <= LOW_MARK:
                    self.lane.flush()
            if self._closing is not None:
                code, reason = self._closing
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
                return

    async def aborted(self) -> None:
        """Wait until the lane gives the connection up."""
        await self._aborted.wait()
