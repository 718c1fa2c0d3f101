"""Channel: what one subscriber asks for, and where its callbacks run.

Callbacks run outside the reader, one at a time and in order per channel, in a task that lives while there is
something to call. They may await anything of this package.
"""

import asyncio
import contextvars
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from ._core.asking import How
from ._core.wants import Advance, Batch, Deliver, Miss, Notify, Part, System
from .callbacks import (
    ChangeCallback,
    Event,
    GapCallback,
    PostgresFilter,
    SnapshotCallback,
    SnapshotOptions,
    StatusCallback,
    SystemCallback,
    TransactionCallback,
    binding_of,
    call,
    checked,
    describe,
    status_callback,
)
from .errors import CallbackError, ClientClosed, GapError, ProtocolError, RowcastError, TimedOut, UsageError
from .keeper import Keeper, check
from .listeners import Listeners
from .mailbox import Item, Mailbox
from .rows import Rows
from .states import ChannelState, SubscribeStatus
from .stores import PositionStore
from .waiters import Waiters

if TYPE_CHECKING:
    from .client import Client


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
        self._listeners = Listeners()
        self._rows: list[Rows] = []
        self._keeper: Keeper | None = None
        self._given_up = asyncio.Event()
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
        *,
        on_snapshot: SnapshotCallback | None = None,
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
        snapshot: bool | SnapshotOptions = False,
        leave: bool = False,
        truncate: bool = False,
        on_snapshot: SnapshotCallback | None = None,
    ) -> Self: ...
    @overload
    def on(self, type: Literal["transaction"], callback: TransactionCallback, /) -> Self: ...
    @overload
    def on(
        self,
        type: Literal["transaction"],
        filter: PostgresFilter | Mapping[str, object] | Sequence[PostgresFilter],
        callback: TransactionCallback,
        /,
    ) -> Self: ...
    @overload
    def on(self, type: Literal["gap"], callback: GapCallback, /) -> Self: ...
    @overload
    def on(self, type: Literal["system"], callback: SystemCallback, /) -> Self: ...
    @overload
    def on(
        self, type: Literal["system"], filter: Mapping[str, object], callback: SystemCallback, /
    ) -> Self: ...
    def on(self, type: str, *arguments: Any, **words: Any) -> Self:
        """Call ``callback`` for what is described.

        ``postgres_changes``: row changes. ``filter`` is what a row must pass
        (``"done=eq.false,owner=in.(1,2)"``; the old row on DELETE, else the new one), ``select`` a list of
        the columns wanted. The server refuses what does not fit the table. With ``on_snapshot`` the rows as
        they are come first, in batches, and again after a gap; ``leave`` and ``truncate`` ask for changes of
        these types, too.

        ``transaction``: all changes of a transaction in one call, of these entries or, without any, of all
        that the channel has. ``gap``: changes are missing. ``system``: the server's ``system`` messages.
        """
        callback = arguments[-1] if arguments else None
        on_snapshot = words.pop("on_snapshot", None)
        if len(arguments) > 2 or (words and (len(arguments) > 1 or type != "postgres_changes")):
            raise UsageError("on() takes one callback, and either a dict or keywords before it")
        if type == "system":
            self._listeners.system.append(checked(callback, 1, "system"))
        elif type == "gap":
            self._listeners.gaps.append(checked(callback, 1, "gap"))
        elif type == "transaction":
            self._check_unsubscribed("transaction")
            asked = arguments[0] if len(arguments) > 1 else None
            entries = asked if isinstance(asked, list | tuple) or asked is None else [asked]
            bindings = None if entries is None else [_unread(binding_of(entry)) for entry in entries]
            self._listeners.transaction(bindings, checked(callback, 1, "transaction"))
        elif type == "postgres_changes":
            filter_ = dict(arguments[0]) if len(arguments) > 1 else {"schema": "public", **words}
            self._listen(filter_, checked(callback, 1, "postgres_changes"), on_snapshot)
        else:
            hint = "use 'postgres_changes', 'transaction', 'gap' or 'system'"
            raise UsageError(f"there is no {type!r} to listen to", hint=hint)
        return self

    def rows(
        self,
        table: str,
        *,
        schema: str = "public",
        filter: str | None = None,
        select: Sequence[str] | None = None,
        key: Sequence[str] | None = None,
    ) -> Rows:
        """The table's rows that this channel may see and ``filter`` lets through, kept as they change.

        Ask before ``subscribe``. ``key`` names the columns that name a row, where the server does not: they
        must be in ``old`` of each change.
        """
        if key is not None and (isinstance(key, str) or not key):
            raise UsageError("key must be a list of column names")
        rows = Rows(self, schema, table, key)
        asked = {"schema": schema, "table": table, "filter": filter, "select": select}
        self._listen({**asked, "snapshot": True, "leave": True, "truncate": True}, rows._change, rows._batch)
        self._rows.append(rows)
        return rows

    def subscribe(
        self,
        on_status: StatusCallback | None = None,
        *,
        resume: PositionStore | str | None = None,
        key: str | None = None,
        save_every: float | None = 1.0,
        timeout: float | None = 30.0,
    ) -> Self:
        """Join, and stay joined until ``unsubscribe``. A channel that is subscribed already stays as it is.

        Returns the channel at once. ``await channel.subscribe()`` waits until it is SUBSCRIBED, and raises
        when the server refuses it, or a part of it, or ``timeout`` seconds are over (the channel goes on
        trying all the same, or with the other parts); it waits through connections that fail for a while.
        ``on_status`` is called with ``(status)`` or ``(status, error)``, whichever it takes.

        ``resume`` is the position to begin after, or a store: the channel begins after what is stored under
        ``key`` (the channel's name, unless given), and its position is saved at most once in ``save_every``
        seconds, and when it is closed. A position is saved once the callbacks of its change have run. One
        that raises is called again, as the client's ``retry`` says, and nothing passes it. With
        ``save_every=None`` only the first position is saved, and the rest is for your callbacks to save.
        """
        check(resume, key, save_every)
        if self._listeners.group and not self._listeners.bindings:
            why = f"channel {self.name!r} listens to transactions of nothing"
            raise UsageError(why, hint="on('transaction', {'table': 'todos'}, callback)")
        if resume is not None and self._rows:
            why = f"channel {self.name!r} has rows(), which begin with a snapshot"
            raise UsageError(why, hint="leave resume out, or use another channel")
        if on_status is not None:
            self._on_status = status_callback(on_status)
        self._client._check_open()
        self._timeout = timeout
        self._context = contextvars.copy_context()
        if self.state in (ChannelState.CLOSED, ChannelState.LEAVING):
            client, text = self._client, resume if isinstance(resume, str) else None
            last, self._keeper = self._keeper, None
            if resume is not None and not isinstance(resume, str):
                self._keeper = Keeper(resume, key or self.name, save_every, client._tasks, client._report)
            if last is not None:
                last.yield_to(self._keeper)
            self._given_up = asyncio.Event()
            how = How(self.private, self._listeners.group, text, self._keeper is not None)
            client._subscribe(self, self._listeners.bindings, how)
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._subscribed().__await__()

    async def unsubscribe(self) -> None:
        """Leave. Changes that no callback has seen are dropped; the last status is CLOSED.

        The position is forgotten, but for what a store keeps.
        """
        self._drop()
        if self.state is not ChannelState.CLOSED:
            with self._client._call():
                closed = self._waiters.next()
                self._client._leave(self)
                await closed
        if self._keeper is not None:
            await self._keeper.flush()

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

    def _listen(self, filter_: dict[str, Any], callback: ChangeCallback, on_snapshot: Any) -> None:
        self._check_unsubscribed("postgres_changes")
        if on_snapshot is not None:
            checked(on_snapshot, 1, "snapshot")
            filter_["snapshot"] = filter_.get("snapshot") or True
        binding = binding_of(filter_)
        if "snapshot" in binding and on_snapshot is None:
            raise UsageError("a snapshot needs somebody to take it", hint="give on_snapshot=")
        self._listeners.change(binding, callback, on_snapshot)

    def _check_unsubscribed(self, what: str) -> None:
        if self.state is not ChannelState.CLOSED:
            raise UsageError(f"a subscribed channel takes no new {what}", hint="ask before subscribe()")

    def _drop(self) -> None:
        """Nothing that waits is wanted any more."""
        self._mailbox.discard()
        self._given_up.set()

    async def _close(self) -> None:
        if self._keeper is not None:
            await self._keeper.close()

    def _refuse(self, error: RowcastError) -> None:
        for waiters in (self._waiters, *(rows._waiters for rows in self._rows)):
            waiters.refuse(error)

    def _told(self, notify: Notify) -> None:
        """A status: whoever waits hears it now, the callback in its turn."""
        self._last_error = notify.error
        if notify.error is not None and not notify.error.temporary:
            self._refuse(notify.error)
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
                await self._passed(position)
                if self._on_status is not None:
                    await self._guarded(self._on_status, status, error)
                if status is SubscribeStatus.CLOSED:
                    for rows in self._rows:
                        rows._closed()
            case System():
                await self._deliver(item)
            case Advance(_, position):
                await self._passed(position)
            case Part(position=position) | Batch(position=position) | Miss(position=position):
                if isinstance(item, Miss) and not self._listeners.gaps:
                    self._client._report(GapError(item.gap, self.name))
                if await self._deliver(item):
                    await self._passed(position)
            case Deliver():
                if await self._deliver(item):
                    await self._passed(item.position)
                    self.seq = item.seq

    async def _passed(self, position: str | None) -> None:
        """The callbacks of what leads there have run."""
        if position is not None:
            self.position = position
            if self._keeper is not None:
                await self._keeper.note(position)

    async def _deliver(self, item: Deliver | Part | Batch | Miss | System) -> bool:
        """Call who listens to it; false where that was given up before all callbacks ran."""
        try:
            calls = self._listeners.calls(item)
        except ProtocolError as fault:
            self._client._report(fault)
            return True
        insists = self._keeper is not None and not isinstance(item, System)
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
        error = CallbackError(f"{describe(callback, fault)} in channel {self.name!r}", channel=self.name)
        error.__cause__ = fault
        self._client._report(error)


def _unread(binding: dict[str, Any]) -> dict[str, Any]:
    if "snapshot" in binding:
        raise UsageError("a transaction has no snapshot", hint="ask on('postgres_changes') for it")
    return binding
