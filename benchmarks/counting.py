"""A WebSocket client that counts frames and does no more, so that the server is what is measured."""

import asyncio
import base64
import json
import os
from urllib.parse import urlsplit

_SMALL = 126
_PING, _PONG = 0x89, b"\x8a"
_HEARTBEAT_SECONDS = 20.0


class CountingClient(asyncio.Protocol):
    """One socket with one channel. ``done`` is set once ``expected`` frames with row changes have come.

    A frame counts that is longer than ``least`` bytes: replies and `system` messages are shorter.
    """

    def __init__(self, expected: int, least: int) -> None:
        self.expected, self.least = expected, least
        self.frames = 0
        self.first = asyncio.Event()
        self.done = asyncio.Event()
        self.lost: Exception | None = None
        self._upgraded = asyncio.Event()
        self._rest = b""
        self._skip = 0
        self.transport: asyncio.Transport | None = None
        self._beating: asyncio.TimerHandle | None = None

    @classmethod
    async def join(
        cls, url: str, key: str, topic: str, config: dict[str, object], *, expected: int, least: int
    ) -> "CountingClient":
        """Connect and join."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        host, port = parts.hostname or "", parts.port or 80
        _, client = await loop.create_connection(lambda: cls(expected, least), host, port)
        nonce = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET /realtime/v1/websocket?apikey={key}&vsn=2.0.0 HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {nonce}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n"
        )
        client.send_raw(request.encode())
        # What comes before the handshake's answer is no part of the conversation.
        await client._upgraded.wait()
        client.send(json.dumps(["1", "1", f"realtime:{topic}", "phx_join", {"config": config}]))
        client._beat()
        return client

    def _beat(self) -> None:
        self.send('[null,"2","phoenix","heartbeat",{}]')
        self._beating = asyncio.get_running_loop().call_later(_HEARTBEAT_SECONDS, self._beat)

    def send(self, text: str) -> None:
        """Send a text frame."""
        data = text.encode()
        length = bytes([0x80 | len(data)]) if len(data) < _SMALL else b"\xfe" + len(data).to_bytes(2, "big")
        # A mask of zeros leaves the payload as it is.
        self.send_raw(b"\x81" + length + bytes(4) + data)

    def _pong(self, payload: bytes) -> None:
        self.send_raw(_PONG + bytes([0x80 | len(payload)]) + bytes(4) + payload)

    def send_raw(self, data: bytes) -> None:
        """Send bytes."""
        assert self.transport is not None
        self.transport.write(data)

    def close(self) -> None:
        """Drop the socket."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._beating is not None:
            self._beating.cancel()
        self.lost = exc or ConnectionResetError("the server closed the socket")
        self._upgraded.set()
        self.first.set()
        self.done.set()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at = 0
        if not self._upgraded.is_set():
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return
            self._upgraded.set()
            at = end + 4
        size, frames, least = len(data), 0, self.least
        at += self._skip
        self._skip = 0
        while at + 2 <= size:
            length, head = data[at + 1], 2
            if length >= _SMALL:
                head = 4 if length == _SMALL else 10
                if at + head > size:
                    break
                length = int.from_bytes(data[at + 2 : at + head], "big")
            frames += length > least
            if data[at] == _PING and at + head + length <= size:
                self._pong(data[at + head : at + head + length])
            at += head + length
        if at > size:
            self._skip = at - size
        else:
            self._rest = data[at:]
        if frames:
            self.frames += frames
            self.first.set()
            if self.frames >= self.expected:
                self.done.set()
