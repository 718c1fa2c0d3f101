"""Client: one connection, its channels, and the thin shell around the core.

The core decides; this module does what it wants, and ``link`` tells it what happened to the socket, all on
one event loop.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from ssl import SSLContext
from typing import Any, Self

from ._core import wants
from ._core.asking import How
from ._core.connection import Connection
from ._core.phases import Timing
from .address import websocket_url
from .callbacks import ErrorCallback, error_callback
from .channel import Channel
from .credentials import Credential
from .errors import ClientClosed, RowcastError, TimedOut, UsageError
from .link import Address, Link
from .options import ReplayOptions, options
from .payloads import text
from .rest import Rest
from .retry import RetryPolicy
from .states import ChannelState, ClientState
from .tasks import Tasks
from .tokens import Ask, Tokens
from .waiters import Waiters

_log = logging.getLogger("rowcast_client")

_GRACE = 5.0
_AT_REST = (ClientState.IDLE, ClientState.CLOSED)


class Client:
    """A connection to the server at ``url`` (http, https, ws or wss). ``create_client`` is its other name.

    Use it as ``async with client``, or call ``connect()`` and ``close()``. Entering does not wait for the
    network: what is awaited next does.

    ``key`` opens the connection and ``token`` the channels; each is a text, or a plain or async callable that
    is asked for a fresh one at every connect and every join (``key`` stands in for a ``token`` not given).
    A plain callable runs on the event loop, so it must not block. A ``token`` callable is called also
    ``token_warning`` seconds before a token ends (0 for not), where the server can tell, and what it gives is
    taken in place; where it fails it is called again until the token ends.

    ``on_error`` is called with every fault, also those the client gets over by itself; it must not be a
    coroutine function. ``buffer`` changes, or 16 MiB, may wait for a channel's callbacks; then the socket is
    held back. All times are in seconds.

    When the first handshake is refused with 401, 403 or 404 and the credentials are plain texts, the client
    stops and its state is ``closed``; in every other case it tries again for ever, as ``retry`` says. Whoever
    awaits ``connect`` or ``subscribe`` meanwhile gets the exception either way.
    """

    def __init__(
        self,
        url: str,
        key: Credential,
        *,
        token: Credential | None = None,
        token_warning: float = 60.0,
        on_error: ErrorCallback | None = None,
        retry: RetryPolicy | None = None,
        heartbeat_interval: float = 25.0,
        heartbeat_timeout: float = 5.0,
        join_timeout: float = 10.0,
        open_timeout: float = 10.0,
        buffer: int = 1000,
        headers: Mapping[str, str] | None = None,
        ssl: SSLContext | None = None,
    ) -> None:
        if min(heartbeat_interval, heartbeat_timeout, join_timeout, open_timeout, buffer) <= 0:
            raise UsageError("timeouts, intervals and buffer must be above zero")
        if not token_warning >= 0:
            raise UsageError("token_warning must be a number of seconds, or 0 for no warning")
        address = Address(websocket_url(url), key, headers, ssl, open_timeout)
        self._on_error = error_callback(on_error) if on_error is not None else None
        self._buffer = buffer
        timing = Timing(join_timeout, heartbeat_interval, heartbeat_timeout)
        fresh = callable(key) or callable(token)
        self._retry = retry or RetryPolicy()
        self._core = Connection(timing, self._retry, fresh_credentials=fresh)
        self._tasks = Tasks()
        source = key if token is None and callable(key) else token
        self._tokens = Tokens(source, join_timeout, self._tasks, self._token_came)
        self._token_warning = token_warning
        self._channels: dict[str, Channel] = {}
        self._link = Link(self, address)
        self._rest = Rest(address, self._tokens, lambda: self.state not in _AT_REST)
        self._timer: asyncio.TimerHandle | None = None
        self._state = self._core.state
        self._watchers = Waiters()
        self._awaiting = 0
        self._stopped: RowcastError | None = None

    def __repr__(self) -> str:
        return f"<Client {self.state}, {len(self._channels)} channels>"

    @property
    def state(self) -> ClientState:
        """How the connection is doing."""
        return self._core.state

    @property
    def channels(self) -> Mapping[str, Channel]:
        """The channels by name."""
        return {channel.name: channel for channel in self._channels.values()}

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, *fault: object) -> None:
        await self.close()

    async def connect(self, *, timeout: float | None = 30.0) -> Self:
        """Connect and wait until connected. Raises AuthError, ConnectError or TimedOut."""
        self._start()
        await self.wait_until(ClientState.CONNECTED, timeout=timeout)
        return self

    async def wait_until(self, state: ClientState | str, *, timeout: float | None = None) -> None:
        """Wait for a state. Raises when the client is closed, or stopped because the key is refused.

        Waiting for ``connected``, a refused key is raised also when the client goes on trying.
        """
        wanted = ClientState(state)
        try:
            async with asyncio.timeout(timeout):
                while self.state is not wanted:
                    self._check_open()
                    try:
                        await self._watchers.next()
                    except RowcastError:
                        if wanted is ClientState.CONNECTED or self.state is ClientState.CLOSED:
                            raise
        except TimeoutError:
            raise TimedOut(f"the client was not {wanted} within {timeout:g} s") from None

    async def close(self) -> None:
        """Close the connection and all channels. Changes that no callback has seen are dropped.

        Positions that a store lacks are saved, and what is stored stays.
        """
        for channel in self._channels.values():
            channel._delivery.drop()
        self._apply(self._core.close(time.monotonic()))
        await self._tasks.finish(_GRACE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                closing = [channel._close() for channel in self._channels.values()]
                await asyncio.gather(self._rest.close(), *closing)

    def channel(
        self,
        name: str,
        *,
        private: bool = False,
        ack: bool = False,
        echo: bool = False,
        presence_key: str | None = None,
        replay: ReplayOptions | None = None,
        store: bool = False,
    ) -> Channel:
        """The channel of this name, with or without ``realtime:`` before it. One object per name.

        A ``private`` one is joined only where the policies on ``realtime.messages`` let the token's role read
        it. With ``ack`` the server confirms each broadcast, with ``echo`` the channel hears its own. It is
        present under ``presence_key``, or a key of its own that the server makes. ``replay`` asks for earlier
        broadcasts of a private channel; a message that it brings again after a reconnect is left out. With
        ``store`` what the channel sends is stored in the database first, and so reaches all servers, and who
        is cut off meanwhile; ``send`` returns when that is done.

        Raises UsageError where the channel of this name was asked for with other options: it is one topic.
        """
        topic = text(name if name.startswith("realtime:") else f"realtime:{name}", "the channel's name")
        if topic == "realtime:":
            raise UsageError("a channel needs a name")
        asked = options(
            private=private, ack=ack, echo=echo, presence_key=presence_key, replay=replay, store=store
        )
        channel = self._channels.get(topic)
        if channel is None:
            channel = self._channels[topic] = Channel(self, topic, self._buffer, asked)
        if (option := channel._options.unlike(asked)) is not None:
            given = f"{option}={getattr(channel._options, option)!r}"
            hint = "ask with the same, or remove that channel first"
            raise UsageError(f"channel {channel.name!r} has {given} on this client already", hint=hint)
        return channel

    def set_token(self, token: Credential) -> None:
        """Use this ``token`` from now on: for every joined channel at once, in place, and for later joins.

        For a user who signs in or out: the channels go on under the new role without a gap. A channel that a
        new token does not let read is told CHANNEL_ERROR. Where a callable is replaced by a text, nothing is
        refreshed before that ends; the other way round, from the next join of a channel on.
        """
        if not callable(token) and not (isinstance(token, str) and token):
            raise UsageError("a token is a text, or a callable that gives one")
        self._tokens.use(token)
        self._apply(self._core.refresh())

    async def remove_channel(self, channel: Channel) -> None:
        """Unsubscribe it and forget it."""
        await channel.unsubscribe()
        if self._channels.get(channel.topic) is channel and channel.state is ChannelState.CLOSED:
            del self._channels[channel.topic]
            self._core.forget(channel.topic)

    async def remove_all_channels(self) -> None:
        """Unsubscribe and forget all channels. The connection stays."""
        await asyncio.gather(*(self.remove_channel(channel) for channel in list(self._channels.values())))

    def _start(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError("there is no running event loop", hint="call this inside a coroutine") from None
        self._stopped = None
        self._apply(self._core.connect(time.monotonic()))

    def _check_open(self) -> None:
        if self.state is ClientState.CLOSED:
            raise self._stopped or ClientClosed("the client is closed")

    def _subscribe(self, channel: Channel, bindings: Sequence[dict[str, Any]], how: How) -> None:
        if self._channels.get(channel.topic) is not channel:
            raise UsageError(
                f"channel {channel.name!r} was removed", hint="ask client.channel() for a new one"
            )
        self._start()
        now = time.monotonic()
        self._apply(self._core.subscribe(channel.topic, bindings, now, how))

    def _leave(self, channel: Channel) -> None:
        self._apply(self._core.leave(channel.topic, time.monotonic()))

    def _channel_state(self, topic: str) -> ChannelState:
        join = self._core.joins.get(topic)
        return join.state if join is not None else ChannelState.CLOSED

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        """While the server's answer is awaited, full mailboxes do not hold the reader."""
        self._awaiting += 1
        for channel in self._channels.values():
            channel._delivery.mailbox.wake()
        try:
            yield
        finally:
            self._awaiting -= 1

    def _apply(self, wanted: Sequence[wants.Want]) -> None:
        """Do what the core wants. What comes in by itself goes through ``link``, which can wait."""
        for want in wanted:
            match want:
                case wants.Open(socket):
                    self._link.open(socket)
                case wants.Close(_, gently):
                    self._link.hang_up(gently)
                case wants.Send(text):
                    self._link.send(text)
                case wants.Load():
                    self._tasks.spawn(self._load(want), "rowcast load")
                case wants.Authorize() | wants.Refresh():
                    self._tokens.ask(want)
                case wants.Notify(topic):
                    self._channels[topic]._told(want)
                case wants.Settle(topic):
                    self._channels[topic]._sending.settle(want)
                case wants.Report(error):
                    self._report(error)
                case wants.Stop(error):
                    self._refuse(error)
                case _:
                    self._channels[want.topic]._delivery.put(want)
        self._changed()

    def _changed(self) -> None:
        if self._state is not self.state:
            self._state = self.state
            self._watchers.release()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (deadline := self._core.deadline) is not None:
            wait = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self._tick)

    def _tick(self) -> None:
        self._apply(self._core.tick(time.monotonic()))

    def _token_came(self, ask: Ask, token: str | RowcastError | None) -> None:
        core, now = self._core, time.monotonic()
        if isinstance(token, RowcastError):
            failed = core.unauthorized if isinstance(ask, wants.Authorize) else core.unrefreshed
            self._apply(failed(ask.topic, ask.join_ref, token, now))
        elif isinstance(ask, wants.Authorize):
            warning = self._token_warning if self._token_warning and self._tokens.fresh else None
            self._apply(core.authorized(ask.topic, ask.join_ref, token, now, warning=warning))
        else:
            self._apply(core.refreshed(ask.topic, ask.join_ref, token, now))

    async def _load(self, load: wants.Load) -> None:
        keeper, core = self._channels[load.topic]._keeper, self._core
        try:
            position = await keeper.load() if keeper is not None else None
        except RowcastError as error:
            self._apply(core.unloaded(load.topic, load.join_ref, error, time.monotonic()))
        else:
            self._apply(core.loaded(load.topic, load.join_ref, position, time.monotonic()))

    def _refuse(self, error: RowcastError) -> None:
        self._stopped = error
        self._watchers.refuse(error)
        for channel in self._channels.values():
            channel._refuse(error)

    def _report(self, error: RowcastError) -> None:
        _log.warning("%s: %s", error.code, error.message)
        if self._on_error is not None:
            try:
                self._on_error(error)
            except Exception as fault:
                _log.error("on_error raised %s", type(fault).__name__)


create_client = Client
