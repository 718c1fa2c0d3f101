"""The end of a server: its sockets are closed one after the other, so that clients do not all come back at
once.

uvicorn's own end closes all of them in one moment. Here the server says first that it is not ready, then
refuses new sockets and closes the open ones evenly over a time, those without channels before the others.
Whoever is still open goes on hearing changes. Each is closed once what is queued for it was written, and
dropped five seconds later if it does not answer.
"""

import asyncio
import contextlib
import random
import socket
from typing import Final

import structlog
import uvicorn

from rowcast.model.stopping import Stopping
from rowcast.serving.fastlane import FastLane

#: After the last socket was told, in seconds: a lane has as long to write, and as long for the answer.
GRACE: Final = 10

log = structlog.get_logger("rowcast.serving")


class Server(uvicorn.Server):
    """A server that drains. ``delay`` is how long it is not ready and yet as before, ``seconds`` how long it
    takes to close its sockets.

    ``should_exit`` alone ends it without draining.
    """

    def __init__(self, config: uvicorn.Config, stopping: Stopping, *, delay: float, seconds: float) -> None:
        super().__init__(config)
        self._stopping, self._delay, self._seconds = stopping, delay, seconds
        self._hurried = asyncio.Event()

    def stop(self) -> None:
        """Drain, and end. Called again: drop what is left, and end."""
        if self._stopping.announced:
            self.force_exit = True
            self._hurried.set()
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        self._stopping.announced = self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._stopping.announced:
            await self._drain()
        await super().shutdown(sockets)
        if self.force_exit:
            # uvicorn leaves the application's own task behind, which its loop would end with a traceback.
            await self.lifespan.shutdown()

    async def _drain(self) -> None:
        await self._pause(self._delay)
        self._stopping.refusing = True
        lanes = self._lanes()
        log.info("draining", sockets=len(lanes), seconds=self._seconds)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number, lane in enumerate(lanes):
            await self._pause(began + self._seconds * number / len(lanes) - loop.time())
            if self._hurried.is_set():
                return
            lane.shutdown()

    def _lanes(self) -> list[FastLane]:
        found = [one for one in self.server_state.connections if isinstance(one, FastLane) and one.lane]
        random.shuffle(found)
        return sorted(found, key=lambda one: one.joined())

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurried.wait(), seconds)
