"""A client's bytes through the entrance, the fast lane and the application, over a transport in memory.

The first byte is the number of steps, each a byte; then the bytes come. A step takes as many of them as its
low five bits say (31: all), after doing what its high bits say: nothing (what it takes comes in the same turn
of the loop as what was taken before), let the loop turn, push a frame to the lane (or let the feed lose its
subscribers, or tell them something), close the lane, let the transport be stuck or drain, let time pass, push
a large frame, shut down.
Bytes that begin with ``GET`` are a request; any other come after a good one.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any, Final

import msgspec
import uvicorn
from structlog.testing import capture_logs
from uvicorn.server import ServerState

from fuzzing.surroundings import Door, Feed, Loop, Shelf, Transport, claims_of
from rowcast.hub.lanes import LOW_MARK
from rowcast.model.seats import Seats
from rowcast.protocol.frames import text_frame
from rowcast.serving.entrance import Entrance
from rowcast.serving.fastlane import FastLane
from rowcast.serving.server import make_server
from rowcast.session.admission import Limits
from rowcast.web.app import create_app
from rowcast.web.services import Services

MAX_FRAME: Final = 4096
LANE_LIMIT: Final = 50_000
REQUEST: Final = (
    b"GET /realtime/v1/websocket?apikey=anon&vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
#: More turns than anything takes that does not wait for the client.
_TURNS: Final = 30
_HEADER: Final = 14
_HANDSHAKE_DELAY: Final = 2.0
_STEP_SECONDS: Final = 12.0
#: A close frame may wait so long for what stands before it, and then as long for its answer.
_ENDING_SECONDS: Final = 11.0
_MESSAGES: Final = frozenset({0x1, 0x2})
_CLOSE: Final = 0x8
_PONG, _PING = 0xA, 0x9


def fuzz_sockets(data: bytes) -> None:
    """Have one connection, from its first byte to its end."""
    if not data:
        return
    steps, stream = data[1 : 1 + data[0]], data[1 + data[0] :]
    loop = Loop()
    try:
        with _Faults(loop) as log, capture_logs() as events:
            client = _Client(loop)
            client.run(steps, stream)
            client.end()
        assert not log.faults, log.faults
        assert not [event for event in events if event["log_level"] in ("error", "critical")], events
    finally:
        loop.dispose()


class _Client:
    """The far end, and what it holds the server to."""

    def __init__(self, loop: Loop) -> None:
        self._loop, self._feed = loop, Feed()
        self._state = ServerState()
        config, app = _served()
        self._seats = Seats(1)
        app.state.services = Services(
            feed=self._feed,
            channels=Door(),
            stored=Shelf(),
            storing=Shelf(),
            verify=claims_of,
            limits=Limits(channels=3, entries_size=4000, topic_size=100, message_size=MAX_FRAME, refusals=5),
            lane_limit=LANE_LIMIT,
            handshake_delay=_HANDSHAKE_DELAY,
            faults=dict,
            seats=self._seats,
            clock=lambda: loop.now,
        )
        self._transport = Transport(loop)
        entrance = Entrance(config=config, server_state=self._state, app_state={}, _loop=loop)
        self._transport.set_protocol(entrance)
        self._loop.call(lambda: entrance.connection_made(self._transport))

    def run(self, steps: bytes, stream: bytes) -> None:
        if not stream.startswith(b"GET"):
            self._hear([REQUEST])
            self._loop.turn(_TURNS)
        at, pieces = 0, list[bytes]()
        for step in steps:
            if what := step >> 5:
                self._hear(pieces)
                pieces.clear()
                self._do(what, step & 31)
            size = len(stream) if step & 31 == 31 else 1 + (step & 31)
            pieces.append(stream[at : at + size])
            at += size
        self._hear([*pieces, stream[at:]])
        self._loop.turn(_TURNS)

    def end(self) -> None:
        """The client goes away. Nothing of it may stay."""
        lane = self._lane()
        if lane is not None and lane.closing:
            self._loop.now += _ENDING_SECONDS
            self._loop.turn(_TURNS)
            assert self._transport.lost, "a client that does not read is waited for"
        self._transport.drain()
        self._transport.abort()
        self._loop.turn(_TURNS)
        # A refusal is late on purpose, also for who has gone.
        self._loop.now += _HANDSHAKE_DELAY
        self._loop.turn(_TURNS)
        self._check_written(bytes(self._transport.written))
        assert not self._feed.subscribers, "a subscription outlives its connection"
        assert not self._seats.taken, "a seat outlives its connection"
        assert not self._state.tasks, "a task outlives its connection"
        assert not self._state.connections, "a connection is still counted"
        assert not self._loop.timers(), "a timer outlives its connection"

    def _hear(self, pieces: Sequence[bytes]) -> None:
        """Read the pieces, in one turn of the loop if reading is not paused, as uvloop may."""
        unread = deque(filter(None, pieces))
        turns = 0
        while unread and not self._transport.is_closing() and turns < _TURNS:
            size = sum(map(len, unread))
            self._loop.call(lambda: self._read(unread))
            read = size - sum(map(len, unread))
            self._check_memory(read)
            turns = 0 if read else turns + 1

    def _read(self, unread: deque[bytes]) -> None:
        while unread and self._transport.reading and not self._transport.is_closing():
            protocol = self._transport.get_protocol()
            assert isinstance(protocol, asyncio.Protocol)
            protocol.data_received(unread.popleft())

    def _do(self, what: int, low: int) -> None:
        lane = self._lane()
        match what:
            case 1:
                self._loop.turn(2)
            case 2 if low in (1, 2):
                for subscriber in list(self._feed.subscribers):
                    self._loop.call(
                        subscriber.lost if low == 1 else partial(subscriber.told, "error", "news")
                    )
            case 2 if lane is not None:
                self._loop.call(lambda: lane.push(text_frame(b'["small"]')))
            case 3 if lane is not None:
                self._loop.call(lambda: lane.close(4000, "enough"))
            case 4:
                self._loop.call(self._transport.drain if self._transport.stuck else self._transport.block)
            case 5:
                self._loop.now += _STEP_SECONDS
                self._loop.turn(4)
            case 6 if lane is not None:
                self._loop.call(lambda: lane.push(text_frame(b'["' + b"x" * 30_000 + b'"]')))
            case 7:
                protocol = self._transport.get_protocol()
                if isinstance(protocol, Entrance | FastLane):
                    self._loop.call(protocol.shutdown)

    def _lane(self) -> Any:
        protocol = self._transport.get_protocol()
        return protocol.lane if isinstance(protocol, FastLane) else None

    def _check_memory(self, piece: int) -> None:
        protocol = self._transport.get_protocol()
        if not isinstance(protocol, FastLane):
            return
        assert len(protocol._early) <= LOW_MARK + piece
        if not protocol.handshake_complete:
            return
        unread = len(protocol.conn.reader.buffer)
        assert unread <= MAX_FRAME + _HEADER, unread
        kept = sum(map(len, protocol.frames)) + len(getattr(protocol, "_fragments", b""))
        assert kept <= MAX_FRAME
        assert len(protocol.frames) <= 1
        # Reading pauses once a message is whole, so what waits for the application came in this piece, and
        # one message had begun before.
        waits = [_weight(event) for event in _queued(protocol.queue)]
        assert sum(waits) <= piece + MAX_FRAME
        if protocol.lane is not None:
            assert protocol.lane.queued <= LANE_LIMIT
        assert self._transport.unsent <= 2 * LANE_LIMIT + 200

    def _check_written(self, written: bytes) -> None:
        head, _, frames = written.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            assert not head or head.startswith(b"HTTP/1.")
            return
        closed = False
        for opcode, payload in _frames(frames):
            assert not closed, "something follows a close frame"
            if opcode in _MESSAGES:
                msgspec.json.decode(payload)
            closed = opcode == _CLOSE
            assert closed or opcode in _MESSAGES | {_PONG, _PING}
            assert opcode in _MESSAGES or len(payload) <= 125


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole frames that a server wrote; the last one may be cut off."""
    at = 0
    while at < len(data):
        assert data[at] & 0xF0 == 0x80, "no whole frame"
        size, begin = data[at + 1], at + 2
        assert size < 128, "a masked frame"
        if size > 125:
            wide = 2 if size == 126 else 8
            size = int.from_bytes(data[begin : begin + wide], "big")
            begin += wide
        assert begin + size <= len(data), "a frame that is cut short"
        yield data[at] & 0x0F, data[begin : begin + size]
        at = begin + size


def _queued(queue: "asyncio.Queue[Any]") -> Sequence[Any]:
    return list(queue._queue)  # type: ignore[attr-defined]


def _weight(event: Any) -> int:
    text, data = event.get("text"), event.get("bytes")
    return len(text.encode()) if text is not None else len(data or b"")


@cache
def _served() -> tuple[uvicorn.Config, Any]:
    app = create_app(None)  # type: ignore[arg-type]
    server = make_server(app, host="", port=0, max_frame=MAX_FRAME, log_level="error", lifespan="off")
    server.config.load()
    return server.config, app


class _Faults(logging.Handler):
    """What was logged as an error. That a client sent no UTF-8 is the library's to say."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(logging.ERROR)
        self.faults: list[str] = []
        self._logger = logging.getLogger("uvicorn.error")
        loop.set_exception_handler(lambda _, context: self.faults.append(repr(context)))

    def emit(self, record: logging.LogRecord) -> None:
        if "Invalid UTF-8" not in record.getMessage():
            self.faults.append(self.format(record))

    def __enter__(self) -> "_Faults":
        self._kept = self._logger.propagate, self._logger.level
        self._logger.propagate = False
        self._logger.setLevel(logging.ERROR)
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._kept[0]
        self._logger.setLevel(self._kept[1])
