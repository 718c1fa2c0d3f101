"""The entrance: what a connection may take, in time and in bytes, until the header of its request is whole.

uvicorn's own waits for it for ever, and keeps whatever comes.
"""

import asyncio
import sys
from typing import Final

from httptools import HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: More than 100 header lines of ordinary length; what becomes a WebSocket is bounded again, line by line.
MAX_HEAD: Final = 64 * 1024
TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 31\r\nconnection: close\r\n\r\n"
    b"The request's header is too big"
)


class Entrance(HttpToolsProtocol):
    """A connection that speaks HTTP, and is dropped when a header takes it too long."""

    header_timeout = 10.0
    _head = 0
    _data = b""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_header()

    def data_received(self, data: bytes) -> None:
        expected = self._deadline
        self._data = data
        super().data_received(data)
        self._data = b""
        if expected is None or self._deadline is not expected:
            return
        self._head += len(data)
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        upgrade = sys.exc_info()[1]
        super().handle_websocket_upgrade()
        # What came together with the request, and is the library's to drop: it says where the request ended.
        rest = self._data[upgrade.args[0] :] if isinstance(upgrade, HttpParserUpgrade) else b""
        protocol = self.transport.get_protocol()
        if rest and isinstance(protocol, asyncio.Protocol):
            protocol.data_received(rest)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_header()

    def on_headers_complete(self) -> None:
        self._cancel_deadline()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def _expect_header(self) -> None:
        if self._deadline is None:
            self._head = 0
            self._deadline = self.loop.call_later(self.header_timeout, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def entrance(header_timeout: float) -> type[Entrance]:
    """The class of connections that have so many seconds for a header: uvicorn makes them itself."""
    return type("Entrance", (Entrance,), {"header_timeout": header_timeout})
