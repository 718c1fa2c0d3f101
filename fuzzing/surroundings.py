"""A connection's surroundings in memory: a loop whose time stands still, a transport, and a feed."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from rowcast.hub.feed import Subscribed, Subscriber
from rowcast.hub.lanes import LOW_MARK
from rowcast.model.allowed import Allowed, ChannelRequest, ChannelUnavailable
from rowcast.model.binding import Binding
from rowcast.model.claims import Claims, TokenError
from rowcast.model.message import Message
from rowcast.protocol.join import Replay

_START: Final = 1_000_000.0


def claims_of(token: str, now: float) -> Claims:
    """``anon`` is good for a minute and a half."""
    if token != "anon":
        raise TokenError("MalformedJWT", "The token provided is not a valid JWT")
    return Claims("anon", now + 90, {})


class Loop(asyncio.SelectorEventLoop):
    """An event loop that turns when it is told to, and whose time is ``now``."""

    def __init__(self) -> None:
        self.now = _START
        super().__init__()

    def time(self) -> float:
        return self.now

    def turn(self, times: int) -> None:
        for _ in range(times):
            self.call_soon(self.stop)
            self.run_forever()

    def call(self, do: Callable[[], object]) -> None:
        """Do something as a callback of the loop's, and raise what it raises."""
        raised: list[BaseException] = []

        def run() -> None:
            try:
                do()
            except BaseException as error:
                raised.append(error)

        self.call_soon(run)
        self.turn(1)
        if raised:
            raise raised[0]

    def timers(self) -> list[asyncio.TimerHandle]:
        """What is still to be called."""
        return [timer for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]

    def dispose(self) -> None:
        """End what a failure left, and close."""
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        self.turn(3 if tasks else 0)
        self.close()


class Transport(asyncio.Transport):
    """A socket whose far end takes everything at once, or nothing while it is ``stuck``."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.written = bytearray()
        self.stuck = False
        self.unsent = 0
        self.reading = True
        self._loop = loop
        self._protocol: asyncio.BaseProtocol | None = None
        self._closing = self._full = False
        #: Whether the protocol was told that the connection is gone.
        self.lost = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return LOW_MARK + 1 + self.unsent if self.stuck else 0

    def write(self, data: Any) -> None:
        assert isinstance(data, bytes | bytearray | memoryview)
        if self.lost:
            return
        self.written += data
        if self.stuck:
            self.unsent += len(data)

    def block(self) -> None:
        """The far end stops reading."""
        if not self._closing:
            self.stuck = self._full = True
            self.get_protocol().pause_writing()

    def drain(self) -> None:
        """The far end reads all."""
        self.stuck, self.unsent = False, 0
        if self._full and not self.lost:
            self._full = False
            self.get_protocol().resume_writing()
        if self._closing:
            self._loop.call_soon(self._lose)

    def close(self) -> None:
        self._closing = True
        if not self.stuck:
            self._loop.call_soon(self._lose)

    def abort(self) -> None:
        self._closing = True
        self._loop.call_soon(self._lose)

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self.get_protocol().connection_lost(None)


class Feed:
    """A feed that takes every subscription, and has no changes."""

    position: str | None = "p"

    def __init__(self) -> None:
        self.subscribers: list[Subscriber] = []

    async def subscribe(
        self, subscriber: Subscriber, bindings: Sequence[Binding], claims: Claims, resume: str | None = None
    ) -> Subscribed:
        self.subscribers.append(subscriber)
        # As a real one, which waits for a read.
        await asyncio.sleep(0)
        return Subscribed((), True, self.position)

    def position_of(self, subscribers: Collection[Subscriber]) -> str | None:
        return self.position

    async def ready(self) -> None:
        await asyncio.sleep(0)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        subscriber.gone = True
        if subscriber in self.subscribers:
            self.subscribers.remove(subscriber)


class Door:
    """Private channels, some of which may be read, and some only later."""

    async def may_read(self, request: ChannelRequest, *, presence: bool) -> Allowed:
        await asyncio.sleep(0)
        if len(request.topic) % 4 == 0:
            raise ChannelUnavailable("UnableToConnectToProject", "no database")
        return Allowed(broadcast=len(request.topic) % 2 == 0, presence=presence)

    async def may_write(self, request: ChannelRequest) -> Allowed:
        await asyncio.sleep(0)
        if len(request.topic) % 3 == 0:
            raise ChannelUnavailable("UnableToConnectToProject", "no database")
        return Allowed(broadcast=len(request.topic) % 2 == 0)


class Shelf:
    """What a database sent before: a message of JSON and one of bytes, or neither now. Every other message is
    stored."""

    async def newest(self, topic: str, replay: Replay, *, private: bool) -> Sequence[Message]:
        await asyncio.sleep(0)
        if len(topic) % 3 == 0:
            raise ChannelUnavailable("UnableToReplayMessages", "no database")
        return [Message("1", topic, True, "e", b"[1]"), Message("2", topic, True, "e", b"\xff", True)]

    def put(self, message: Message, done: Callable[[str | None], None]) -> None:
        asyncio.get_running_loop().call_soon(done, None if len(message.payload) % 2 else "no database")

    async def store(self, messages: Sequence[Message]) -> str | None:
        await asyncio.sleep(0)
        return "no database" if len(messages) % 2 else None
