"""Every exception this package raises or hands to ``on_error``.

::

    RowcastError                 catch this for all of them
    ├── UsageError               the call itself cannot be right
    ├── ClientClosed             the client was closed while somebody waited
    ├── ConnectError             no connection: unreachable, or the handshake was refused
    │   └── ConnectionLost       there was one, and it ended
    ├── AuthError                key or token refused (401, 403, or a join refused for its token), or a
    │                            private channel that no policy lets the token's role read
    ├── TokenError               the `key` or `token` callable failed
    ├── JoinError                the server refused the channel, its subscriptions, or ended it
    ├── SendError                the server refused a broadcast, or what was to be tracked
    ├── TimedOut                 no answer in time
    ├── GapError                 changes are missing, and nobody listens for gaps
    ├── StoreError               a store of positions failed
    ├── RowsError                the rows of a table cannot be kept, or are not whole
    ├── ProtocolError            the server sent what the protocol does not allow
    └── CallbackError            a callback raised; ``__cause__`` is what it raised

Each has a stable ``code`` (the server's word where it gave one), a ``hint`` that says how to mend it, and
``temporary``: whether the client expects it to pass without anybody's help.
"""

from .gap import Gap


class RowcastError(Exception):
    """The root of the tree."""

    code: str = "RowcastError"
    hint: str = ""
    temporary: bool = False

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if hint is not None:
            self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(RowcastError):
    """The call itself cannot be right."""

    code = "BadUsage"


class ClientClosed(RowcastError):
    """The client was closed while somebody waited for it."""

    code = "ClientClosed"
    hint = "open it again with `async with client` or `await client.connect()`"


class ConnectError(RowcastError):
    """No connection could be made. ``status`` is the HTTP status of a refused handshake, else None."""

    code = "ConnectionFailed"

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status = status
        self.temporary = status != 404


class ConnectionLost(ConnectError):
    """The connection ended. ``close_code`` is the WebSocket's close code (1006: it just went away)."""

    code = "ConnectionLost"

    def __init__(self, message: str, *, close_code: int = 1006, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.close_code = close_code


class AuthError(RowcastError):
    """The server refused the key or the token; for a private channel, no policy lets its role read it."""

    code = "Unauthorized"
    hint = "check the key and the token, and that the server verifies with the secret they were signed with"


class TokenError(RowcastError):
    """The ``key`` or ``token`` callable raised, hung, or gave no text. It is called again at the next try.

    A channel that is joined stays so meanwhile, until the token it has ends.
    """

    code = "TokenUnavailable"


class JoinError(RowcastError):
    """The server refused the channel or its subscriptions, or ended the channel."""

    code = "JoinRefused"


class SendError(RowcastError):
    """The server refused a broadcast, or what was to be tracked.

    ``status`` is the HTTP status of a broadcast that went by a request, else None.
    """

    code = "SendRefused"

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status = status
        self.temporary = status is not None and (status == 429 or status >= 500)


class TimedOut(RowcastError):
    """The server, or a wait with a timeout, gave no answer in time."""

    code = "TimedOut"


class ProtocolError(RowcastError):
    """The server sent what the protocol does not allow."""

    code = "ProtocolViolation"
    hint = "check that the address is that of a Rowcast or Supabase Realtime server"


class CallbackError(RowcastError):
    """A callback of ``channel`` raised. The exception is ``__cause__``; later changes are still delivered."""

    code = "CallbackFailed"

    def __init__(self, message: str, *, channel: str) -> None:
        super().__init__(message)
        self.channel = channel


class GapError(RowcastError):
    """Changes of a channel are missing, and no ``gap`` callback was there to be told. ``gap`` says which."""

    code = "Gap"
    hint = 'listen with channel.on("gap", ...), or ask for a snapshot, to make up for them'

    def __init__(self, gap: Gap, channel: str) -> None:
        super().__init__(f"channel {channel!r} has a gap ({gap.reason}): {gap.message}")
        self.gap = gap


class StoreError(RowcastError):
    """A store of positions failed. It is asked again: after a load at the next try to join, else soon."""

    code = "StoreFailed"


class RowsError(RowcastError):
    """The rows of a table cannot be kept, or are not whole."""

    code = "RowsNotKept"
