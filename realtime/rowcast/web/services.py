"""What the web layer is handed by the runtime."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rowcast.hub.feed import Feed
from rowcast.hub.rooms import Rooms
from rowcast.hub.topics import Topics
from rowcast.model.allowed import Allowed, ChannelRequest
from rowcast.model.health import Health
from rowcast.model.message import Message
from rowcast.model.rates import Rates, RateWindow
from rowcast.model.seats import Seats
from rowcast.model.stopping import Stopping
from rowcast.protocol.join import Replay
from rowcast.session.admission import Limits
from rowcast.session.connection import Verify


class Channels(Protocol):
    """What private channels allow: what ``auth.channels`` tells."""

    async def may_read(self, request: ChannelRequest, *, presence: bool) -> Allowed: ...

    async def may_write(self, request: ChannelRequest) -> Allowed: ...


class Stored(Protocol):
    """What the database sent to topics, and keeps: what ``capture.stored`` reads."""

    async def newest(self, topic: str, replay: Replay, *, private: bool) -> Sequence[Message]: ...


class Storing(Protocol):
    """What keeps broadcasts, and sends them on: what ``capture.storing`` does."""

    def put(self, message: Message, done: Callable[[str | None], None]) -> None: ...

    async def store(self, messages: Sequence[Message]) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that requests use. ``faults`` says why the server is not ready; empty when it is;
    ``degraded`` what works worse than it might.

    ``lane_limit`` and ``body_limit`` (of a request) in bytes, ``handshake_delay`` (of a refused handshake) in
    seconds; ``joins`` is how often all clients together may join, ``requests`` how much whoever a token
    stands for may send by requests, ``seats`` how many clients may have channels; ``clock`` is Unix time. A
    channel waits ``ready_seconds`` for messages of the database to be certain.
    """

    feed: Feed
    channels: Channels
    stored: Stored
    storing: Storing
    verify: Verify
    limits: Limits
    lane_limit: int
    handshake_delay: float
    faults: Callable[[], Mapping[str, str]]
    degraded: Callable[[], Mapping[str, str]] = dict
    rooms: Rooms = field(default_factory=lambda: Rooms(Topics()))
    requests: Rates = field(default_factory=lambda: Rates(100))
    body_limit: int = 8_000_000
    joins: RateWindow = field(default_factory=lambda: RateWindow(100))
    seats: Seats = field(default_factory=Seats)
    health: Health = field(default_factory=Health)
    ready_seconds: float = 60.0
    stopping: Stopping = field(default_factory=Stopping)
    clock: Callable[[], float] = time.time

    @property
    def topics(self) -> Topics:
        """Who is joined to which topic."""
        return self.rooms.topics
