"""Waiters: futures of those who wait for the next event of something."""

import asyncio

from .errors import RowcastError


class Waiters:
    """Each future ends with the next ``release`` or ``refuse``."""

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[None]] = set()

    def next(self) -> asyncio.Future[None]:
        """A future for the next event. Await it: an exception in it is meant for somebody."""
        future = asyncio.get_running_loop().create_future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def release(self) -> None:
        """It happened."""
        for future in self._futures:
            if not future.done():
                future.set_result(None)

    def refuse(self, error: RowcastError) -> None:
        """It will not happen without somebody's help."""
        for future in self._futures:
            if not future.done():
                future.set_exception(error)
