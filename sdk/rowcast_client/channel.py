"""Channel: what one subscriber asks for, and where its callbacks run.

Callbacks run outside the reader, one at a time and in order per channel, in a task that lives while there is
something to call. They may await anything of this package.
"""

import asyncio
import contextvars
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from ._core.wants import Deliver, Notify, System
from .callbacks import (
    ChangeCallback,
    Event,
    PostgresFilter,
    StatusCallback,
    SystemCallback,
    binding_of,
    call,
    checked,
    describe,
    status_callback,
)
from .change import read_change
from .errors import CallbackError, ClientClosed, ProtocolError, RowcastError, TimedOut, UsageError
from .mailbox import Item, Mailbox
from .states import ChannelState, SubscribeStatus
from .waiters import Waiters

if TYPE_CHECKING:
    from .client import Client


@dataclass(frozen=True, slots=True)
class _Listener:
    binding: int
    callback: ChangeCallback


class Channel:
    """A named subscription. Made by ``client.channel(name)``; use it on the client's event loop only."""

    def __init__(self, client: "Client", topic: str, buffer: int, private: bool) -> None:
        self.topic = topic
        self.name = topic.removeprefix("realtime:")
        self.private = private
        """Whether policies decide who may join it."""
        self.position: str | None = None
        """The position of the last change whose callbacks have run, or of the subscription before it."""
        self.seq: int | None = None
        """The number of the last change whose callbacks have run."""
        self._client = client
        self._bindings: list[dict[str, Any]] = []
        self._listeners: list[_Listener] = []
        self._system: list[SystemCallback] = []
        self._on_status: Callable[[SubscribeStatus, RowcastError | None], object] | None = None
        self._mailbox = Mailbox(buffer, lambda: client._awaiting > 0)
        self._dispatcher: asyncio.Task[None] | None = None
        self._last_error: RowcastError | None = None
        self._context: contextvars.Context | None = None
        self._waiters = Waiters()
        self._timeout: float | None = None

    def __repr__(self) -> str:
        return f"<Channel {self.name!r} {self.state}>"

    @property
    def state(self) -> ChannelState:
        """How it is doing."""
        return self._client._channel_state(self.topic)

    @overload
    def on(
        self,
        type: Literal["postgres_changes"],
        filter: PostgresFilter | Mapping[str, object],
        callback: ChangeCallback,
        /,
    ) -> Self: ...
    @overload
    def on(
        self,
        type: Literal["postgres_changes"],
        callback: ChangeCallback,
        /,
        *,
        event: Event = "*",
        schema: str = "public",
        table: str | None = None,
        filter: str | None = None,
        select: Sequence[str] | None = None,
    ) -> Self: ...
    @overload
    def on(self, type: Literal["system"], callback: SystemCallback, /) -> Self: ...
    @overload
    def on(
        self, type: Literal["system"], filter: Mapping[str, object], callback: SystemCallback, /
    ) -> Self: ...
    def on(self, type: str, *arguments: Any, **words: Any) -> Self:
        """Call ``callback`` for what is described: row changes, or the server's ``system`` messages.

        ``filter`` is what a row must pass (``"done=eq.false,owner=in.(1,2)"``; the old row on DELETE, else
        the new one), ``select`` a list of the columns wanted. The server refuses what does not fit the table.
        """
        callback = arguments[-1] if arguments else None
        if len(arguments) > 2 or (words and (len(arguments) > 1 or type == "system")):
            raise UsageError("on() takes one callback, and either a dict or keywords before it")
        if type == "system":
            self._system.append(checked(callback, 1, "system"))
        elif type == "postgres_changes":
            filter_ = dict(arguments[0]) if len(arguments) > 1 else {"schema": "public", **words}
            self._listen(binding_of(filter_), checked(callback, 1, "postgres_changes"))
        else:
            raise UsageError(f"there is no {type!r} to listen to", hint="use 'postgres_changes' or 'system'")
        return self

    def subscribe(self, on_status: StatusCallback | None = None, *, timeout: float | None = 30.0) -> Self:
        """Join, and stay joined until ``unsubscribe``. A channel that is subscribed already stays as it is.

        Returns the channel at once. ``await channel.subscribe()`` waits until it is SUBSCRIBED, and raises
        when the server refuses it, or a part of it, or ``timeout`` seconds are over (the channel goes on
        trying all the same, or with the other parts); it waits through connections that fail for a while.
        ``on_status`` is called with ``(status)`` or ``(status, error)``, whichever it takes.
        """
        if on_status is not None:
            self._on_status = status_callback(on_status)
        self._client._check_open()
        self._timeout = timeout
        self._context = contextvars.copy_context()
        if self.state in (ChannelState.CLOSED, ChannelState.LEAVING):
            self._client._subscribe(self, self._bindings)
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._subscribed().__await__()

    async def unsubscribe(self) -> None:
        """Leave. Changes that no callback has seen are dropped; the last status is CLOSED."""
        self._mailbox.discard()
        if self.state is not ChannelState.CLOSED:
            with self._client._call():
                closed = self._waiters.next()
                self._client._leave(self)
                await closed

    async def _subscribed(self) -> Self:
        if self.state is ChannelState.CLOSED:
            raise UsageError(f"channel {self.name!r} is not subscribed", hint="call subscribe() first")
        try:
            with self._client._call():
                async with asyncio.timeout(self._timeout):
                    while self.state is not ChannelState.JOINED:
                        self._client._check_open()
                        await self._waiters.next()
                        self._check_wanted()
        except TimeoutError:
            late = f"channel {self.name!r} was not subscribed within {self._timeout:g} s"
            raise TimedOut(late) from self._last_error
        return self

    def _check_wanted(self) -> None:
        if self.state is ChannelState.CLOSED:
            raise ClientClosed(f"channel {self.name!r} was closed while it was waited for")

    def _listen(self, binding: dict[str, Any], callback: ChangeCallback) -> None:
        if self.state is not ChannelState.CLOSED:
            hint = "use on() before subscribe()"
            raise UsageError("a subscribed channel takes no new postgres_changes", hint=hint)
        if binding not in self._bindings:
            self._bindings.append(binding)
        self._listeners.append(_Listener(self._bindings.index(binding), callback))

    def _told(self, notify: Notify) -> None:
        """A status: whoever waits hears it now, the callback in its turn."""
        self._last_error = notify.error
        if notify.error is not None and not notify.error.temporary:
            self._waiters.refuse(notify.error)
        self._waiters.release()
        self._put(notify)

    def _put(self, item: Item) -> None:
        self._mailbox.put(item)
        if self._dispatcher is None or self._dispatcher.done():
            name = f"rowcast channel {self.name}"
            self._dispatcher = self._client._tasks.spawn(self._dispatch(), name, self._context)

    async def _dispatch(self) -> None:
        while (item := self._mailbox.take()) is not None:
            await self._handle(item)
            # Plain callbacks never yield by themselves: let the reader and the heartbeat have their turn.
            await asyncio.sleep(0)

    async def _handle(self, item: Item) -> None:
        match item:
            case Notify(_, status, error, position):
                self.position = position or self.position
                if self._on_status is not None:
                    await self._guarded(self._on_status, status, error)
            case System(_, payload):
                for callback in tuple(self._system):
                    await self._guarded(callback, payload)
            case Deliver():
                await self._deliver(item)

    async def _deliver(self, item: Deliver) -> None:
        try:
            change = read_change(item.data)
        except ProtocolError as fault:
            self._client._report(fault)
            return
        for listener in tuple(self._listeners):
            if listener.binding in item.bindings:
                await self._guarded(listener.callback, change)
        self.position, self.seq = change.position or self.position, change.seq

    async def _guarded(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            await call(callback, *arguments)
        except asyncio.CancelledError as fault:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._blame(callback, fault)  # of something the callback awaited: not meant for us
        except Exception as fault:
            self._blame(callback, fault)

    def _blame(self, callback: Callable[..., object], fault: BaseException) -> None:
        error = CallbackError(f"{describe(callback, fault)} in channel {self.name!r}", channel=self.name)
        error.__cause__ = fault
        self._client._report(error)
