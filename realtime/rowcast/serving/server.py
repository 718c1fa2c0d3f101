"""uvicorn, as this server needs it: our fast lane, and no address with a key in any log."""

import contextlib
import errno
import logging
import socket
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from rowcast.errors import ListenError
from rowcast.model.stopping import Stopping
from rowcast.serving.draining import GRACE, Server
from rowcast.serving.entrance import entrance
from rowcast.serving.fastlane import FastLane

_BACKLOG: Final = 2048
#: At these levels uvicorn and websockets log requests and frames whole: keys, tokens and payloads; or tell of
#: each start and end in seven lines.
_TELLTALE: Final = frozenset({"trace", "debug", "info"})
_UNWANTED: Final = ('"WebSocket', "without completing handshake", "Invalid UTF-8 sequence")


class _NoAddresses(logging.Filter):
    """uvicorn logs each handshake's URL, which holds the key, and calls a refused one an error, as it does a
    text that is no UTF-8."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.msg if isinstance(record.msg, str) else ""
        return not any(text in message for text in _UNWANTED)


def make_server(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    max_frame: int,
    log_level: str,
    handshake_timeout: float = 10.0,
    lifespan: str = "on",
    stopping: Stopping | None = None,
    drain_delay: float = 0.0,
    drain_seconds: float = 0.0,
) -> Server:
    """A server, ready to ``serve``.

    ``max_frame`` in bytes bounds a client's message, ``handshake_timeout`` in seconds how long the header of
    a request may take. ``stop`` says in ``stopping`` how far it is, and drains as ``Server`` does.
    """
    logging.getLogger("uvicorn.error").addFilter(_NoAddresses())
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=entrance(handshake_timeout),
        ws=FastLane,
        ws_max_size=max_frame,
        # A compressed frame could not be shared.
        ws_per_message_deflate=False,
        # Nothing here depends on a client's address; what any client may write would only mislead.
        proxy_headers=False,
        access_log=False,
        log_level="warning" if log_level in _TELLTALE else log_level,
        log_config=None,
        lifespan=lifespan,  # type: ignore[arg-type]
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    server = Server(config, stopping or Stopping(), delay=drain_delay, seconds=drain_seconds)
    # uvicorn would catch signals itself, and raise them again at its end: the exit code would not be 0.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    return server


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that take connections at a host, by name or address, and a port; served later.

    Raises ListenError, which says what to set instead.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise ListenError(_no_address(host)) from None
    sockets: list[socket.socket] = []
    fault: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            sockets.append(_bound(family, kind, protocol, address))
        except OSError as error:
            fault = error
            # A name may stand for addresses that this machine does not have; a taken port is taken.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
    else:
        if sockets:
            return sockets
    for one in sockets:
        one.close()
    match fault.errno if fault is not None else None:
        case errno.EADDRINUSE:
            text = (
                f"Port {port} of {host} is taken by another program. End that, or set PORT to another port."
            )
        case errno.EACCES:
            text = f"Port {port} is for privileged programs only. Set PORT to one from 1024 on."
        case _:
            text = _no_address(host)
    raise ListenError(text)


def _bound(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.setblocking(False)
        # Only who listens keeps others from the port.
        one.listen(_BACKLOG)
    except BaseException:
        one.close()
        raise
    return one


def _no_address(host: str) -> str:
    return (
        f"ROWCAST_HOST is {host}, which is no address of this machine. Set it to 0.0.0.0 for all addresses, "
        "or to 127.0.0.1 for this machine alone."
    )


def bound_port(server: uvicorn.Server) -> int:
    """The port that a started server listens on: of use where it was asked for any."""
    listening: socket.socket = server.servers[0].sockets[0]
    return int(listening.getsockname()[1])
