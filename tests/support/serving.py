"""The server in the test's own process: the real app on a real socket, over a feed that the test drives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette

from rowcast.auth.tokens import Verifier
from rowcast.hub.feed import Subscribed, Subscriber
from rowcast.model.allowed import Allowed, ChannelRequest
from rowcast.model.binding import Binding
from rowcast.model.claims import Claims
from rowcast.model.message import Message
from rowcast.model.stopping import Stopping
from rowcast.protocol.join import Replay
from rowcast.serving.draining import Server
from rowcast.serving.server import bound_port, make_server
from rowcast.session.admission import Limits
from rowcast.web.app import create_app
from rowcast.web.services import Services
from support.tokens import SECRET, make_token

PATIENCE = 30


@dataclass
class ListFeed:
    """A feed whose changes the test pushes itself."""

    subscribers: list[Subscriber] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    certain: asyncio.Event = field(default_factory=asyncio.Event)
    position: str | None = "p"

    async def subscribe(
        self, subscriber: Subscriber, bindings: Sequence[Binding], claims: Claims, resume: str | None = None
    ) -> Subscribed:
        if self.failures:
            raise self.failures.pop()
        self.subscribers.append(subscriber)
        return Subscribed((), True, self.position)

    def position_of(self, subscribers: Collection[Subscriber]) -> str | None:
        return self.position

    async def ready(self) -> None:
        await self.certain.wait()

    def unsubscribe(self, subscriber: Subscriber) -> None:
        subscriber.gone = True
        if subscriber in self.subscribers:
            self.subscribers.remove(subscriber)
        self.gone.set()


@dataclass
class Door:
    """What private channels allow, as the test says."""

    allowed: Allowed = field(default_factory=Allowed)
    failures: list[Exception] = field(default_factory=list)
    writable: Allowed = field(default_factory=Allowed)
    #: How often it was asked what may be written.
    asked: int = 0

    async def may_read(self, request: ChannelRequest, *, presence: bool) -> Allowed:
        if self.failures:
            raise self.failures.pop()
        return self.allowed

    async def may_write(self, request: ChannelRequest) -> Allowed:
        self.asked += 1
        if self.failures:
            raise self.failures.pop()
        return self.writable


@dataclass
class Shelf:
    """What the database sent and keeps, as the test says. ``asked`` is set once somebody asks, who waits for
    ``answers``."""

    messages: list[Message] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    failures: list[Exception] = field(default_factory=list)

    async def newest(self, topic: str, replay: Replay, *, private: bool) -> list[Message]:
        self.asked.set()
        await self.answers.wait()
        if self.failures:
            raise self.failures.pop()
        return self.messages[-replay.limit :]

    def put(self, message: Message, done: Callable[[str | None], None]) -> None:
        """Keep what is to be stored; say so at once."""
        self.messages.append(message)
        done(None)

    async def store(self, messages: Sequence[Message]) -> str | None:
        self.messages.extend(messages)
        return None


@dataclass
class Running:
    """A server in this process, and what it serves."""

    server: Server
    app: Starlette
    feed: ListFeed
    faults: dict[str, str]
    task: asyncio.Task[None]

    @property
    def port(self) -> int:
        return bound_port(self.server)

    @property
    def path(self) -> str:
        return f"/realtime/v1/websocket?apikey={make_token()}&vsn=2.0.0"

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}{self.path}"


def make_app(
    feed: ListFeed,
    *,
    lane_limit: int = 1 << 20,
    delay: float = 0.0,
    limits: Limits | None = None,
    faults: Mapping[str, str] | None = None,
    stopping: Stopping | None = None,
) -> Starlette:
    """The application; refusals are not slow unless the test says so."""
    return create_app(
        Services(
            feed=feed,
            channels=Door(),
            stored=Shelf(),
            storing=Shelf(),
            verify=Verifier(SECRET),
            limits=limits or Limits(refusal_delay=0.0),
            lane_limit=lane_limit,
            handshake_delay=delay,
            faults=lambda: faults or {},
            stopping=stopping or Stopping(),
        )
    )


@contextlib.asynccontextmanager
async def serving(server: uvicorn.Server) -> AsyncIterator[asyncio.Task[None]]:
    """Run a server of uvicorn's until the context ends."""
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(PATIENCE):
            while not (server.started or task.done()):  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0)
        yield task
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, PATIENCE)


@contextlib.asynccontextmanager
async def running(
    *,
    lane_limit: int = 1 << 20,
    delay: float = 0.0,
    limits: Limits | None = None,
    ping: float | None = None,
    max_frame: int = 5_000_000,
    log_level: str = "warning",
    drain_delay: float = 0.0,
    drain_seconds: float = 0.0,
) -> AsyncIterator[Running]:
    """Run our own server, with the fast lane."""
    feed, faults, stopping = ListFeed(), dict[str, str](), Stopping()
    app = make_app(feed, lane_limit=lane_limit, delay=delay, limits=limits, faults=faults, stopping=stopping)
    server = make_server(
        app,
        host="127.0.0.1",
        port=0,
        max_frame=max_frame,
        log_level=log_level,
        stopping=stopping,
        drain_delay=drain_delay,
        drain_seconds=drain_seconds,
    )
    server.config.ws_ping_interval = server.config.ws_ping_timeout = ping
    async with serving(server) as task:
        yield Running(server, app, feed, faults, task)
