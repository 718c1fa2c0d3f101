"""uvicorn, as this server needs it: our fast lane, and no address with a key in any log."""

import contextlib
import logging
import socket
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from rowcast.serving.entrance import entrance
from rowcast.serving.fastlane import FastLane

_DRAIN_SECONDS: Final = 10
#: At these levels uvicorn and websockets log requests and frames whole: keys, tokens and payloads.
_TELLTALE: Final = frozenset({"trace", "debug"})


class _NoAddresses(logging.Filter):
    """uvicorn logs each handshake's URL, which holds the key, and calls a refused one an error."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.msg if isinstance(record.msg, str) else ""
        return '"WebSocket' not in message and "without completing handshake" not in message


def make_server(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    max_frame: int,
    log_level: str,
    handshake_timeout: float = 10.0,
    lifespan: str = "on",
) -> uvicorn.Server:
    """A server, ready to ``serve``.

    ``max_frame`` in bytes bounds a client's message, ``handshake_timeout`` in seconds how long the header of
    a request may take.
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
        log_level="info" if log_level in _TELLTALE else log_level,
        log_config=None,
        lifespan=lifespan,  # type: ignore[arg-type]
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = uvicorn.Server(config)
    # uvicorn would catch signals itself, and raise them again at its end: the exit code would not be 0.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    return server


def bound_port(server: uvicorn.Server) -> int:
    """The port that a started server listens on: of use where it was asked for any."""
    listening: socket.socket = server.servers[0].sockets[0]
    return int(listening.getsockname()[1])
