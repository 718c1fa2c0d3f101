"""Keeper: saves one channel's position, the latest, and not oftener than asked."""

import asyncio
from collections.abc import Callable

from .errors import RowcastError, StoreError, UsageError
from .stores import PositionStore
from .tasks import Tasks

_AGAIN = 1.0


class Keeper:
    """``every`` is in seconds: 0 saves each position at once, None saves none but the first.

    A save that fails is reported, and tried again.
    """

    def __init__(
        self,
        store: PositionStore,
        key: str,
        every: float | None,
        tasks: Tasks,
        report: Callable[[RowcastError], None],
    ) -> None:
        self.key = key
        self._store, self._every, self._tasks, self._report = store, every, tasks, report
        self._unsaved: str | None = None
        self._saved: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lock = asyncio.Lock()
        self._blank = False

    async def load(self) -> str | None:
        """The stored position. Raises StoreError."""
        await self.flush()
        try:
            self._saved = await self._store.load(self.key)
        except RowcastError:
            raise
        except Exception as fault:
            raise self._failed("load", fault) from fault
        self._blank = self._saved is None
        return self._saved

    async def note(self, position: str) -> None:
        """The channel has come so far."""
        if self._every is None and not self._blank:
            return
        at_once = self._blank or self._every == 0
        self._blank = False
        if position == self._saved and self._unsaved is None:
            return
        self._unsaved = position
        if at_once:
            await self.flush()
        elif self._timer is None:
            self._arm(self._every or _AGAIN)

    async def flush(self) -> None:
        """Save what is not saved yet."""
        async with self._lock:
            self._disarm()
            if (position := self._unsaved) is None:
                return
            try:
                await self._store.save(self.key, position)
            except Exception as fault:
                error = fault if isinstance(fault, RowcastError) else self._failed("save", fault)
                error.__cause__ = error.__cause__ or (None if error is fault else fault)
                self._report(error)
                if self._every is None:
                    # Later it might undo what a callback saved meanwhile: the next position is tried instead.
                    self._unsaved, self._blank = None, True
                elif self._timer is None:
                    self._arm(max(self._every, _AGAIN))
                return
            self._saved = position
            if self._unsaved is position:
                self._unsaved = None
            elif self._timer is None:
                self._arm(self._every or _AGAIN)

    async def close(self) -> None:
        """Save what is not saved yet, and try no more."""
        await self.flush()
        self._disarm()

    def yield_to(self, other: "Keeper | None") -> None:
        """Save no more by itself: the channel has another keeper, or none. What is unsaved is the other's."""
        self._disarm()
        if self._unsaved is None:
            return
        if other is not None and (other._store, other.key) == (self._store, self.key):
            other._unsaved, self._unsaved = self._unsaved, None
        else:
            self._tasks.spawn(self.flush(), "rowcast position")

    def _arm(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._due)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self._tasks.spawn(self.flush(), "rowcast position")

    def _failed(self, what: str, fault: Exception) -> StoreError:
        # Not what the exception says: that may be a connection string.
        return StoreError(f"the store could not {what} the position of {self.key!r}: {type(fault).__name__}")


def check(resume: object, key: str | None, every: float | None) -> None:
    """Whether a channel can be subscribed so. Raises UsageError."""
    if resume is None or isinstance(resume, str):
        if resume == "":
            raise UsageError("resume is a position, or a store of positions; an empty text is neither")
        if key is not None:
            raise UsageError("key is for a store", hint="give the store as resume=")
    elif not isinstance(resume, PositionStore):
        raise UsageError("resume must be a position as text, or a store with load() and save()")
    if key is not None and not (isinstance(key, str) and key):
        raise UsageError("key must be a text that is not empty")
    if every is not None and not every >= 0:
        raise UsageError("save_every must be a number of seconds, 0 for each change, or None for never")
