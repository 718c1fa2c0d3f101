"""The fast lane: uvicorn's WebSocket protocol, with its transport handed to the hub.

Handshake, ping, pong and closing stay the library's. Data frames are made once for all connections and
written to the transport without ``await``; what the library writes goes between whole frames. Once either
side has written a close frame, neither writes again.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame
from websockets.http11 import Request

from rowcast.hub.lanes import LOW_MARK, SERVICE_RESTART, Lane
from rowcast.serving.entrance import TOO_LARGE

FAST_LANE = "rowcast.fastlane"
_CLOSE_SECONDS = 5.0


class FastLane(WebSocketsSansIOProtocol):
    """A connection whose lane writes to the transport."""

    lane: Lane | None = None
    #: Whether a channel is joined on it.
    joined: Callable[[], bool]
    #: Bytes that were written and have not left yet.
    waiting: Callable[[], int]
    pipe: asyncio.Transport | None = None
    _fragments: bytearray
    _early: bytearray
    _pong_limit = LOW_MARK

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._early = bytearray()
        self.joined = lambda: False
        self.waiting = transport.get_write_buffer_size
        super().connection_made(transport)

    def open_lane(self, limit: int) -> Lane:
        """The lane of this connection, bounded to ``limit`` bytes."""
        self.transport.set_write_buffer_limits(high=LOW_MARK)
        self.pipe = self.transport
        self.lane = Lane(self, limit, self.loop)
        self._pong_limit = 2 * limit
        return self.lane

    # What the lane does

    def write(self, frames: Sequence[bytes]) -> None:
        transport = self.transport
        if not (self.close_sent or transport.is_closing()):
            transport.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def close(self, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        # Reading goes on, for the client's own close frame.
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._bound_closing()

    def abort(self) -> None:
        self.transport.abort()

    # What the library does

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            cast(dict[str, Any], self.scope["extensions"])[FAST_LANE] = self

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self.handshake_complete:
            # The library would take them for frames, and answer them, before it has answered the handshake.
            self._early += data
            if len(self._early) > LOW_MARK:
                self.transport.abort()
            return
        try:
            super().data_received(data)
        except InvalidState:
            # It closes for what is no UTF-8, also when the client has closed already.
            self._end_lane()
            self.transport.close()
            self._bound_closing()
        if not self.handshake_initiated and self.conn.handshake_exc is not None and not self.close_sent:
            # The library would neither answer nor close.
            self.close_sent = self.handshake_complete = True
            self.transport.write(TOO_LARGE)
            self.transport.close()

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.close":
            self._end_lane()
        await super().send(message)
        if self._early and self.handshake_complete:
            early, self._early = bytes(self._early), bytearray()
            if not (self.close_sent or self.transport.is_closing()):
                self.data_received(early)

    def handle_text(self, event: Frame) -> None:
        super().handle_text(event)
        self._keep_fragment(event)

    def handle_bytes(self, event: Frame) -> None:
        super().handle_bytes(event)
        self._keep_fragment(event)

    def handle_cont(self, event: Frame) -> None:
        # The library keeps an object for each fragment, and fragments may be empty: there would be no end.
        self._fragments += event.data
        if event.fin:
            self.frames = [bytes(self._fragments)]
            self._fragments = bytearray()
            self.send_receive_event_to_app()

    def _keep_fragment(self, event: Frame) -> None:
        if not event.fin:
            self._fragments = bytearray(event.data)
            self.frames = []

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.lane is not None:
            self.lane.filled()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.lane is not None:
            self.lane.emptied()

    def handle_ping(self) -> None:
        if self.close_sent:
            self.conn.data_to_send()
            return
        super().handle_ping()
        # Pongs pass the lane by. Whoever asks for ever more of them without reading any is let go.
        if self.waiting() > self._pong_limit:
            self.transport.abort()

    def handle_close(self, event: Frame) -> None:
        self._end_lane()
        super().handle_close(event)
        self._bound_closing()

    def handle_parser_exception(self) -> None:
        self._end_lane()
        if self.close_sent:
            # What the library has to say is not said after a close frame.
            self.conn.data_to_send()
            self.transport.close()
        else:
            super().handle_parser_exception()
        self._bound_closing()

    def keepalive_timeout(self) -> None:
        self._end_lane()
        super().keepalive_timeout()
        self._bound_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_lane()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self.lane is not None and not self.lane.closed:
            self.lane.close(SERVICE_RESTART, "the server is restarting")
        elif self.lane is not None and self.close_sent:
            # The client has its time to answer: a transport that is closed before may lose the close frame.
            self._bound_closing()
        elif not self.transport.is_closing():
            super().shutdown()
            self._bound_closing()

    def _bound_closing(self) -> None:
        """A transport's close() waits until all is sent: for ever, where the client does not read."""
        if self.close_timer is None and not self.disconnected:
            self.close_timer = self.loop.call_later(_CLOSE_SECONDS, self.transport.abort)

    def _end_lane(self) -> None:
        if self.lane is not None:
            self.lane.end()
