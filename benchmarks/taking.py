"""Takes frames where a socket would, counts them, and says when all that were awaited have come."""

import asyncio
from collections.abc import Sequence

_SECONDS = 120.0


class Counted:
    """Where lanes write. Any number of them may share one."""

    pipe = None

    def __init__(self) -> None:
        self._missing = 0
        self._done = asyncio.Event()

    async def take(self, frames: int) -> None:
        """Wait until so many more have come, of which some may be here already."""
        self._missing += frames
        if self._missing > 0:
            self._done.clear()
            await asyncio.wait_for(self._done.wait(), _SECONDS)

    def waiting(self) -> int:
        return 0

    def write(self, frames: Sequence[bytes]) -> None:
        self._missing -= len(frames)
        if self._missing <= 0:
            self._done.set()

    def close(self, code: int, reason: str) -> None:
        raise RuntimeError(f"the lane was closed with {code} {reason}")

    def abort(self) -> None:
        raise RuntimeError("the lane was aborted")
