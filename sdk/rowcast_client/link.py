"""Link: a client's present socket, dialled, read, written and hung up.

The reader hands what comes to the channels' mailboxes and waits when one is full, so that a slow callback
holds the socket back; only while an answer of the server is being awaited does it read on past that bound,
because the answer is behind what waits.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ssl import SSLContext
from typing import TYPE_CHECKING

from websockets.asyncio.client import ClientConnection

from . import websocket
from ._core.wants import Batch, Deliver, Hear, Part, Present, Settle, System
from .address import with_key
from .credentials import Credential, resolve
from .errors import ConnectionLost, RowcastError
from .outbox import Outbox
from .states import ChannelState

if TYPE_CHECKING:
    from .client import Client

# What comes by itself and waits for room; the rest is for the shell at once.
_Content = Deliver | Part | Batch | System | Hear | Present


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Where to dial, and with what. It is shown nowhere: the key is in it."""

    url: str
    key: Credential
    headers: Mapping[str, str] | None
    ssl: SSLContext | None
    timeout: float

    async def dial(self) -> ClientConnection:
        """Open a WebSocket with a fresh key. Raises ConnectError, AuthError or TokenError."""
        url = with_key(self.url, await resolve(self.key, "key", self.timeout))
        return await websocket.dial(url, self.headers, self.ssl, self.timeout)


class Link:
    """One socket at a time. What happens to it is told to the client's core, under the socket's number."""

    def __init__(self, client: "Client", address: Address) -> None:
        self._client, self._address = client, address
        self._serving: asyncio.Task[None] | None = None
        self._socket: ClientConnection | None = None
        self.outbox = Outbox()

    def open(self, number: int) -> None:
        """Begin to open the socket of this number."""
        self._serving = self._client._tasks.spawn(self._serve(number), "rowcast connection")

    def send(self, frame: str | bytes) -> None:
        """Queue a frame."""
        if not self.outbox.put(frame) and self._socket is not None:
            self._socket.transport.abort()

    def hang_up(self, gently: bool) -> None:
        """End the socket, or the try to open it."""
        if self._serving is None:
            return
        if gently and self._socket is not None:
            self._client._tasks.spawn(websocket.close(self._socket), "rowcast close")
        else:
            self._serving.cancel()

    async def _serve(self, number: int) -> None:
        """One socket, from the handshake to its end."""
        client, core = self._client, self._client._core
        try:
            socket = await self._address.dial()
        except RowcastError as error:
            if not error.temporary:
                client._watchers.refuse(error)
            client._apply(core.failed(number, error, time.monotonic()))
            return
        self._socket, self.outbox = socket, (outbox := Outbox())
        writer = client._tasks.spawn(websocket.write(socket, outbox), "rowcast writer")
        try:
            client._apply(core.opened(number, time.monotonic()))
            await self._read(number, socket)
        except ConnectionLost as lost:
            client._apply(core.lost(number, lost, time.monotonic()))
        except Exception as fault:  # ours, and still no reason to leave the channels dead
            broken = ConnectionLost(f"reading failed with {type(fault).__name__}", code="InternalFault")
            client._apply(core.lost(number, broken, time.monotonic()))
        finally:
            writer.cancel()
            outbox.end()
            socket.transport.abort()

    async def _read(self, number: int, socket: ClientConnection) -> None:
        while True:
            message = await websocket.read(socket)
            wanted = self._client._core.received(number, message, time.monotonic())
            want = wanted[0] if len(wanted) == 1 else None
            if isinstance(want, _Content):
                if isinstance(want, System):
                    self._client._changed()  # it may have warned of the token's end
                await self._hand_over(want)
            elif isinstance(want, Settle):
                self._client._channels[want.topic]._sending.settle(want)
            else:
                self._client._apply(wanted)

    async def _hand_over(self, item: _Content) -> None:
        client = self._client
        channel = client._channels[item.topic]
        if channel._delivery.mailbox.full:
            client._core.listening(False, time.monotonic())
            try:
                await channel._delivery.mailbox.room()
            finally:
                client._core.listening(True, time.monotonic())
                client._changed()
        if channel.state not in (ChannelState.LEAVING, ChannelState.CLOSED):
            channel._delivery.put(item)
