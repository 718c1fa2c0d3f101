"""Socket: one WebSocket, opened, read and written. Its faults leave here as this package's exceptions.

The exceptions and the logger of the WebSocket library may show the URL and so the key: neither gets out.
"""

import asyncio
import logging
from collections.abc import Mapping
from ssl import SSLContext
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response

from .errors import AuthError, ConnectError, ConnectionLost, RowcastError
from .outbox import Outbox

SEND_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0

# Not registered under any name, so that nobody turns it on: at DEBUG it shows the request line.
_silent = logging.Logger("rowcast_client.silent", logging.CRITICAL + 1)


async def dial(
    address: str, headers: Mapping[str, str] | None, ssl: SSLContext | None, timeout: float
) -> ClientConnection:
    """Open a WebSocket. Raises ConnectError or AuthError."""
    options: dict[str, Any] = {"ssl": ssl} if ssl is not None else {}
    try:
        async with asyncio.timeout(timeout):
            return await connect(
                address,
                additional_headers=headers,
                max_size=None,
                compression=None,
                ping_interval=None,  # the protocol has heartbeats of its own
                open_timeout=None,
                close_timeout=CLOSE_TIMEOUT,
                logger=_silent,
                **options,
            )
    except InvalidStatus as refused:
        raise _refusal(refused.response) from None
    except TimeoutError:
        raise ConnectError(f"the server did not answer the handshake within {timeout:g} s") from None
    except OSError as fault:
        reason = fault.strerror or type(fault).__name__
        raise ConnectError(f"the server cannot be reached: {reason}", hint="is it running there?") from None
    except Exception as fault:  # whatever it was, its text may show the URL
        raise ConnectError(f"the handshake failed: {type(fault).__name__}") from None


async def read(socket: ClientConnection) -> str | bytes:
    """The next message. Raises ConnectionLost."""
    try:
        return await socket.recv()
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd else 1006
        how = f"the server closed it with {code}" if closed.rcvd else "it went away without a close"
        raise ConnectionLost(f"the connection ended: {how}", close_code=code) from None


async def write(socket: ClientConnection, frames: Outbox) -> None:
    """Send what comes, until the socket ends. A socket that takes nothing for too long is ended."""
    try:
        while True:
            frame = await frames.take()
            async with asyncio.timeout(SEND_TIMEOUT):
                await socket.send(frame)
    except TimeoutError:
        socket.transport.abort()
    except ConnectionClosed:
        return


async def close(socket: ClientConnection) -> None:
    """Close in good order if the peer answers in time, else cut."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await socket.close()
    except TimeoutError:
        socket.transport.abort()


def _refusal(response: Response) -> RowcastError:
    status = response.status_code
    text = f"the server refused the connection with {status}"
    if reason := _reason(response.body):
        text += f": {reason}"
    if status in (401, 403):
        return AuthError(text, code="Unauthorized" if status == 401 else "Forbidden")
    if status == 404:
        return ConnectError(text, status=404, code="NotFound", hint="check the path of the url, and its host")
    return ConnectError(text, status=status, code="HandshakeRefused")


def _reason(body: bytes | bytearray | None) -> str:
    try:
        answer = msgspec.json.decode(body or b"null", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError):
        return ""
    return answer["error"] if isinstance(answer.get("error"), str) else ""
