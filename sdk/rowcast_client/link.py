"""Link: a client's present socket, dialled, read, written and hung up.

The reader hands changes to the channels' mailboxes and waits when one is full, so that a slow callback holds
the socket back; only while a subscribe or unsubscribe is being awaited does it read on past that bound,
because the answer is behind those changes.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ssl import SSLContext
from typing import TYPE_CHECKING

from websockets.asyncio.client import ClientConnection

from . import websocket
from ._core.wants import Batch, Deliver, Part, System
from .address import with_key
from .credentials import Credential, resolve
from .errors import ConnectionLost, RowcastError
from .states import ChannelState

if TYPE_CHECKING:
    from .client import Client

# Control frames only (joins, leaves, heartbeats): more than this unsent means a socket that takes nothing.
_OUTBOX = 65_536


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
        self._outbox: asyncio.Queue[str] = asyncio.Queue(_OUTBOX)

    def open(self, number: int) -> None:
        """Begin to open the socket of this number."""
        self._serving = self._client._tasks.spawn(self._serve(number), "rowcast connection")

    def send(self, text: str) -> None:
        """Queue a frame."""
        try:
            self._outbox.put_nowait(text)
        except asyncio.QueueFull:
            if self._socket is not None:
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
        self._socket, self._outbox = socket, asyncio.Queue(_OUTBOX)
        writer = client._tasks.spawn(websocket.write(socket, self._outbox), "rowcast writer")
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
            socket.transport.abort()

    async def _read(self, number: int, socket: ClientConnection) -> None:
        while True:
            message = await websocket.read(socket)
            if isinstance(message, bytes):
                continue  # binary frames carry broadcasts, which nobody here has asked for
            wanted = self._client._core.received(number, message, time.monotonic())
            if len(wanted) == 1 and isinstance(want := wanted[0], Deliver | Part | Batch | System):
                if isinstance(want, System):
                    self._client._changed()  # it may have warned of the token's end
                await self._hand_over(want)
            else:
                self._client._apply(wanted)

    async def _hand_over(self, item: Deliver | Part | Batch | System) -> None:
        client = self._client
        channel = client._channels[item.topic]
        if channel._mailbox.full:
            client._core.listening(False, time.monotonic())
            try:
                await channel._mailbox.room()
            finally:
                client._core.listening(True, time.monotonic())
                client._changed()
        if channel.state not in (ChannelState.LEAVING, ChannelState.CLOSED):
            channel._put(item)
