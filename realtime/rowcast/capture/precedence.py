"""Reads of the present come first: one that has begun is handed out before the next piece of a replay."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

#: For so long at most a piece waits. A read that takes longer waits for Postgres.
_SECONDS: Final = 0.01


class Precedence:
    """Whether the present is being read."""

    def __init__(self) -> None:
        self._clear = asyncio.Event()
        self._clear.set()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Meanwhile the present is read."""
        self._clear.clear()
        try:
            yield
        finally:
            self._clear.set()

    async def give(self) -> None:
        """Wait for a read that has begun."""
        if not self._clear.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    await self._clear.wait()
