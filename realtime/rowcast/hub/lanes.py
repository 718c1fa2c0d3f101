"""A connection's outgoing queue, bounded in bytes.

Frames that wait in one turn of the event loop are joined into one write, and all lanes of a loop are written
to by one callback: one for each would cost as much as all else here. The lane keeps its own queue and
leaves little in the transport, so that a slow consumer's unsent bytes are ours to drop. Over the limit the
queue is dropped and the connection closed with a code of its own: nothing is lost, since the client
subscribes again. After a close frame nothing is ever written. Everything here runs on the event loop only,
and nothing waits.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol
from weakref import WeakKeyDictionary

#: Close code for a client that does not read as fast as it is sent to.
SLOW_CONSUMER: Final = 4008
SERVICE_RESTART: Final = 1012
_ABORT_SECONDS: Final = 5.0
#: A sink with no more than this waiting is written to. It says when it has room again.
LOW_MARK: Final = 64 * 1024
_WRITE_SIZE: Final = 256 * 1024


class Pipe(Protocol):
    """Takes whole frames, each of which costs a system call."""

    def write(self, frame: bytes, /) -> object: ...


class Sink(Protocol):
    """Where a lane writes: a transport, or an ASGI server's ``send``.

    One that has a ``pipe`` tells the lane when that is full (``filled``), and when it has room (``emptied``).
    """

    @property
    def pipe(self) -> Pipe | None:
        """What takes single frames, where there is such."""
        ...

    def waiting(self) -> int:
        """Bytes that were written and have not left yet."""
        ...

    def write(self, frames: Sequence[bytes]) -> None:
        """Send whole frames, in one write where that is possible. Called only while little is waiting."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Send a close frame as the last thing."""
        ...

    def abort(self) -> None:
        """Drop the connection at once."""
        ...


class _Piped:
    """What a broadcast looks at of a lane, and all it does: each further line of memory has left the
    processor's cache since the broadcast before. The slots of a base come right after an object's head."""

    __slots__ = ("pipe",)

    #: The sink's, while a frame may be written to it: None while frames wait here, it is full, or the
    #: connection is to be closed.
    pipe: Pipe | None


class Lane(_Piped):
    """The queue of one connection."""

    __slots__ = (
        "_abort_timer",
        "_closing",
        "_drained",
        "_due",
        "_frames",
        "_full",
        "_limit",
        "_loop",
        "_queued",
        "_scheduled",
        "_sink",
        "_waiting",
        "closed",
    )

    def __init__(self, sink: Sink, limit: int, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._sink = sink
        self._limit = limit
        self._waiting = sink.waiting
        self._loop = loop or asyncio.get_running_loop()
        self._due = _due.setdefault(self._loop, [])
        self._frames: list[bytes] = []
        self._queued = 0
        self._scheduled = False
        self._closing: tuple[int, str] | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Event | None = None
        self._full = False
        self.pipe = sink.pipe
        #: Whether a close frame was written, or the peer is gone: nothing is written any more.
        self.closed = False

    @property
    def closing(self) -> bool:
        """Whether the connection is to be closed, or is: a push is dropped."""
        return self.closed or self._closing is not None

    @property
    def limit(self) -> int:
        """Bytes that may wait in the lane."""
        return self._limit

    @property
    def queued(self) -> int:
        """Bytes that wait in the lane."""
        return self._queued

    def push(self, frame: bytes) -> None:
        """Send a whole frame, soon. Never blocks and never raises; a closed lane drops it."""
        if self.closed or self._closing is not None:
            return
        queued = self._queued + len(frame)
        # One frame larger than the limit may still go, alone.
        if queued > self._limit and self._queued:
            self.cut()
            return
        self._frames.append(frame)
        self._queued = queued
        self.pipe = None
        if not self._scheduled:
            self._schedule()

    def filled(self) -> None:
        """The sink is full, until it is ``emptied``."""
        self._full = True
        self.pipe = None

    async def drained(self, below: int) -> None:
        """Wait until no more bytes than this wait in the lane, or the connection is to be closed."""
        while self._queued > below and not self.closing:
            if self._drained is None:
                self._drained = asyncio.Event()
            await self._drained.wait()

    def cut(self) -> None:
        """The client is too slow: drop what waits, say so, and do not wait for it."""
        self._frames.clear()
        self._queued = 0
        self.close(SLOW_CONSUMER, "slow consumer: subscribe again")
        self._went()

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection once what is queued has been written."""
        if self.closing:
            return
        self._closing = (code, reason)
        self.pipe = None
        self._abort_timer = self._loop.call_later(_ABORT_SECONDS, self._sink.abort)
        self._schedule()

    def end(self) -> None:
        """The connection is gone, or somebody else wrote the close frame."""
        self.closed = True
        self.pipe = None
        self._frames.clear()
        self._queued = 0
        self._went()
        if self._abort_timer is not None:
            self._abort_timer.cancel()
            self._abort_timer = None

    def flush(self) -> None:
        """Write what the sink takes now; called by the loop, and when the sink has room again."""
        self._scheduled = False
        if self.closed:
            return
        try:
            while self._frames and self._waiting() <= LOW_MARK:
                if self._queued <= _WRITE_SIZE:
                    frames, self._frames, self._queued = self._frames, [], 0
                else:
                    frames = self._take_some()
                self._sink.write(frames)
                if self._drained is not None:
                    self._went()
            if self._frames:
                return
            if self._closing is not None:
                self.closed = True
                self._sink.close(*self._closing)
            elif not self._full:
                self.pipe = self._sink.pipe
        except Exception as error:
            self.fail(error)

    def emptied(self) -> None:
        """The sink has room again."""
        self._full = False
        self.flush()

    def fail(self, error: Exception) -> None:
        """A write failed, and nobody knows what left: the client is to subscribe again.

        One dead socket is no matter of the others.
        """
        self.end()
        self._sink.abort()
        context = {"message": "A lane could not be written to", "exception": error}
        self._loop.call_exception_handler(context)

    def _take_some(self) -> list[bytes]:
        """As many of the frames as go in one write, and at least one."""
        size = count = 0
        for frame in self._frames:
            if count and size + len(frame) > _WRITE_SIZE:
                break
            size += len(frame)
            count += 1
        frames = self._frames[:count]
        del self._frames[:count]
        self._queued -= size
        return frames

    def _went(self) -> None:
        """Who waits for room looks again."""
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            if not self._due:
                self._loop.call_soon(_flush, self._due)
            self._due.append(self)


def send_to_all(lanes: Sequence[Lane], frame: bytes, but: Lane | None = None) -> int:
    """Push a frame that is likely alone in its turn: at once, where nothing waits. To how many it went.

    More than one in a turn cost less by ``push``, which joins them.
    """
    # All lanes are looked at before the first write: what waits for memory then waits together, and is not
    # thrown out of the processor's cache by a system call in between.
    pipes = [lane.pipe for lane in lanes]
    own = None if but is None else but.pipe
    sent, held = len(pipes), False
    for pipe in pipes:
        if pipe is None:
            held = True
        elif pipe is own:
            sent -= 1
        else:
            try:
                pipe.write(frame)
            except Exception as error:
                lanes[pipes.index(pipe)].fail(error)
    if held:
        for lane, pipe in zip(lanes, pipes, strict=True):
            if pipe is not None:
                continue
            if lane is but:
                sent -= 1
            else:
                lane.push(frame)
    return sent


#: What is to be written to at the end of a loop's turn.
_due: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Lane]] = WeakKeyDictionary()


def _flush(due: list[Lane]) -> None:
    lanes = due[:]
    # What is pushed meanwhile is for the next turn.
    due.clear()
    for lane in lanes:
        lane.flush()
