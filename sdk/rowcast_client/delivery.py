"""Delivery: where one channel's callbacks run.

They run outside the reader, one at a time and in order, in a task that lives while there is something to
call. They may await anything of this package.
"""

import asyncio
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING

from ._core.wants import Advance, Batch, Deliver, Hear, Miss, Notify, Part, Present, System
from .callbacks import call, describe
from .errors import CallbackError, GapError, ProtocolError, RowcastError
from .mailbox import Item, Mailbox
from .states import SubscribeStatus

if TYPE_CHECKING:
    from .channel import Channel
    from .client import Client

OnStatus = Callable[[SubscribeStatus, RowcastError | None], object]


class Delivery:
    """What waits for a channel's callbacks, and who calls them. ``context`` is what they run in."""

    def __init__(self, channel: "Channel", client: "Client", buffer: int) -> None:
        self.mailbox = Mailbox(buffer, lambda: client._awaiting > 0)
        self.on_status: OnStatus | None = None
        self.context: contextvars.Context | None = None
        self._channel, self._client = channel, client
        self._given_up = asyncio.Event()
        self._dispatcher: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The channel begins anew."""
        self._given_up = asyncio.Event()

    def drop(self) -> None:
        """Nothing that waits is wanted any more."""
        self.mailbox.discard()
        self._given_up.set()

    def put(self, item: Item) -> None:
        """Have it delivered in its turn."""
        self.mailbox.put(item)
        if self._dispatcher is None or self._dispatcher.done():
            name = f"rowcast channel {self._channel.name}"
            self._dispatcher = self._client._tasks.spawn(self._dispatch(), name, self.context)

    async def _dispatch(self) -> None:
        while (item := self.mailbox.take()) is not None:
            await self._handle(item)
            # Plain callbacks never yield by themselves: let the reader and the heartbeat have their turn.
            await asyncio.sleep(0)

    async def _handle(self, item: Item) -> None:
        channel = self._channel
        match item:
            case Notify(_, status, error, position):
                await channel._passed(position)
                if self.on_status is not None:
                    await self._guarded(self.on_status, status, error)
                if status is SubscribeStatus.CLOSED:
                    channel._closed()
            case System() | Present():
                await self._deliver(item)
            case Advance(_, position):
                await channel._passed(position)
            case Part(position=position) | Batch(position=position) | Miss(position=position):
                if isinstance(item, Miss) and not channel._listeners.gaps:
                    self._client._report(GapError(item.gap, channel.name))
                if await self._deliver(item):
                    await channel._passed(position)
            case Hear(position=position):
                if await self._deliver(item):
                    await channel._passed(position)
            case Deliver():
                if await self._deliver(item):
                    await channel._passed(item.position)
                    channel.seq = item.seq

    async def _deliver(self, item: Deliver | Part | Batch | Miss | System | Hear | Present) -> bool:
        """Call who listens to it; false where that was given up before all callbacks ran."""
        try:
            calls = self._channel._listeners.calls(item)
        except ProtocolError as fault:
            self._client._report(fault)
            return True
        insists = self._channel._keeper is not None and _has_place(item)
        for callback, value in calls:
            tries = 0
            while not await self._guarded(callback, value) and insists:
                if not await self._pause(self._client._retry.delay(tries)):
                    return False
                tries += 1
        return True

    async def _pause(self, seconds: float) -> bool:
        """Wait so long; false if the channel is given up before."""
        if not self._given_up.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await self._given_up.wait()
            except TimeoutError:
                return True
        return False

    async def _guarded(self, callback: Callable[..., object], *arguments: object) -> bool:
        """Call it; false if it raised."""
        try:
            await call(callback, *arguments)
        except asyncio.CancelledError as fault:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._blame(callback, fault)  # of something the callback awaited: not meant for us
        except Exception as fault:
            self._blame(callback, fault)
        else:
            return True
        return False

    def _blame(self, callback: Callable[..., object], fault: BaseException) -> None:
        name = self._channel.name
        error = CallbackError(f"{describe(callback, fault)} in channel {name!r}", channel=name)
        error.__cause__ = fault
        self._client._report(error)


def _has_place(item: Item) -> bool:
    """Whether it is one of those that a position is for: what comes without one cannot come again."""
    return not (isinstance(item, System | Present) or (isinstance(item, Hear) and item.position is None))
