"""Channel: what one subscriber asks for, hears and says."""

import asyncio
import contextvars
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from ._core.asking import How
from ._core.wants import Notify
from .callbacks import (
    PRESENCE_EVENTS,
    BroadcastCallback,
    ChangeCallback,
    Event,
    EventFilter,
    GapCallback,
    PostgresFilter,
    PresenceCallback,
    PresenceFilter,
    SnapshotCallback,
    SnapshotOptions,
    StatusCallback,
    SystemCallback,
    TransactionCallback,
    binding_of,
    checked,
    event_of,
    status_callback,
)
from .delivery import Delivery
from .errors import ClientClosed, RowcastError, TimedOut, UsageError
from .keeper import Keeper, check
from .listeners import Listeners
from .options import Options
from .presence import Presence, PresenceKind
from .rows import Rows
from .sending import Sending
from .states import ChannelState, SubscribeStatus
from .stores import PositionStore
from .waiters import Waiters

if TYPE_CHECKING:
    from .client import Client

_EMPTY: dict[str, object] = {}
_TAKE_WORDS = ("postgres_changes", "broadcast", "presence")


class Channel:
    """A named subscription. Made by ``client.channel(name)``; use it on the client's event loop only."""

    def __init__(self, client: "Client", topic: str, buffer: int, options: Options) -> None:
        self.topic = topic
        self.name = topic.removeprefix("realtime:")
        self.private = options.private
        """Whether policies decide who may join it."""
        self.position: str | None = None
        """The position of the last change or message whose callbacks have run, or of the subscription before
        it."""
        self.seq: int | None = None
        """The number of the last change whose callbacks have run."""
        self._client, self._options = client, options
        self._listeners = Listeners()
        self._delivery = Delivery(self, client, buffer)
        self._sending = Sending(self, client, options)
        self._rows: list[Rows] = []
        self._keeper: Keeper | None = None
        self._last_error: RowcastError | None = None
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
    def on(self, type: Literal["broadcast"], filter: EventFilter, callback: BroadcastCallback, /) -> Self: ...
    @overload
    def on(self, type: Literal["broadcast"], callback: BroadcastCallback, /, *, event: str = "*") -> Self: ...
    @overload
    def on(
        self, type: Literal["presence"], filter: PresenceFilter, callback: PresenceCallback, /
    ) -> Self: ...
    @overload
    def on(
        self, type: Literal["presence"], callback: PresenceCallback, /, *, event: PresenceKind | None = None
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
        that the channel has. ``broadcast``: what was sent to the channel as ``event``, or as any.
        ``presence``: who came (``join``), who went (``leave``), and that both were told (``sync``); all three
        without an ``event``. ``gap``: changes are missing. ``system``: the server's ``system`` messages.
        """
        callback = arguments[-1] if arguments else None
        on_snapshot = words.pop("on_snapshot", None)
        if len(arguments) > 2 or (words and (len(arguments) > 1 or type not in _TAKE_WORDS)):
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
        elif type == "broadcast":
            event = event_of(arguments[0] if len(arguments) > 1 else words, type)
            self._check_new(self._listeners.broadcast, type)
            self._listeners.broadcasts.append((event, checked(callback, 1, type)))
        elif type == "presence":
            event = event_of(arguments[0] if len(arguments) > 1 else words, type, PRESENCE_EVENTS)
            self._check_new(self._listeners.presence or self._options.presence_key is not None, type)
            self._listeners.presences.append((event, checked(callback, 1, type)))
        elif type == "postgres_changes":
            filter_ = dict(arguments[0]) if len(arguments) > 1 else {"schema": "public", **words}
            self._listen(filter_, checked(callback, 1, "postgres_changes"), on_snapshot)
        else:
            hint = "use 'postgres_changes', 'transaction', 'broadcast', 'presence', 'gap' or 'system'"
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

    async def send(self, event: str, payload: object = _EMPTY, *, timeout: float | None = 10.0) -> None:
        """Broadcast ``payload``, JSON or bytes, to everybody else on the channel (and itself, with ``echo``).

        A channel whose join the server has taken sends over the socket, and any other by a request of its
        own, for which the client need not be connected. With ``ack`` or ``store``, and by a request, this
        returns when the server has taken it; else when it is on its way, which nobody confirms.

        Raises UsageError for what cannot be sent, SendError where the server refuses it, AuthError where it
        refuses the key or the token of a request, ConnectionLost or TimedOut where no answer came: then it
        may have been sent.
        """
        await self._sending.broadcast(event, payload, timeout)

    async def track(self, payload: dict[str, Any], *, timeout: float | None = 10.0) -> None:
        """Show ``payload`` to everybody on the channel, in place of what was shown before.

        It is shown until ``untrack`` or ``unsubscribe``: after each reconnect it is sent again with the reply
        to the join, before SUBSCRIBED is told. While there is no connection this waits. Raises UsageError on
        a channel that is not subscribed, SendError where the server refuses it, or TimedOut.
        """
        await self._sending.show(payload, timeout)

    async def untrack(self, *, timeout: float | None = 10.0) -> None:
        """Show nothing any more. Raises as ``track`` does; in any case nothing is shown again later."""
        await self._sending.show(None, timeout)

    def presence_state(self) -> dict[str, list[Presence]]:
        """Who is present, by key, as of the last message whose callbacks have run or are running.

        Known to channels with a ``presence`` callback, or a ``presence_key``. While there is no connection it
        stays as it was.
        """
        return self._listeners.roster.state()

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
            self._delivery.on_status = status_callback(on_status)
        self._client._check_open()
        self._timeout = timeout
        self._delivery.context = contextvars.copy_context()
        if self.state in (ChannelState.CLOSED, ChannelState.LEAVING):
            client, text = self._client, resume if isinstance(resume, str) else None
            last, self._keeper = self._keeper, None
            if resume is not None and not isinstance(resume, str):
                self._keeper = Keeper(resume, key or self.name, save_every, client._tasks, client._report)
            if last is not None:
                last.yield_to(self._keeper)
            self._delivery.begin()
            how = self._how(text)
            client._subscribe(self, self._listeners.bindings, how)
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._subscribed().__await__()

    async def unsubscribe(self) -> None:
        """Leave. Changes that no callback has seen are dropped; the last status is CLOSED.

        The position is forgotten, but for what a store keeps.
        """
        self._delivery.drop()
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

    def _check_new(self, joined_for: bool, what: str) -> None:
        if not joined_for:
            self._check_unsubscribed(what)

    def _check_unsubscribed(self, what: str) -> None:
        if self.state is not ChannelState.CLOSED:
            raise UsageError(f"a subscribed channel takes no new {what}", hint="ask before subscribe()")

    def _how(self, resume: str | None) -> How:
        asked, listeners = self._options, self._listeners
        return How(
            private=asked.private,
            group=listeners.group,
            resume=resume,
            stored=self._keeper is not None,
            ack=asked.ack,
            echo=asked.echo,
            presence=listeners.presence or asked.presence_key is not None,
            presence_key=asked.presence_key,
            replay=asked.replay,
            messages=listeners.broadcast or asked.store,
            store=asked.store,
        )

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
        if notify.status is SubscribeStatus.CLOSED:
            self._listeners.roster.clear()
        self._waiters.release()
        self._delivery.put(notify)

    async def _passed(self, position: str | None) -> None:
        """The callbacks of what leads there have run."""
        if position is not None:
            self.position = position
            if self._keeper is not None:
                await self._keeper.note(position)

    def _closed(self) -> None:
        """The last status has been told."""
        for rows in self._rows:
            rows._closed()


def _unread(binding: dict[str, Any]) -> dict[str, Any]:
    if "snapshot" in binding:
        raise UsageError("a transaction has no snapshot", hint="ask on('postgres_changes') for it")
    return binding
