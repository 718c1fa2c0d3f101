"""Row changes of a Postgres database, live, from a Rowcast (or Supabase Realtime) server."""

from .callbacks import (
    ChangeCallback,
    ErrorCallback,
    PostgresFilter,
    StatusCallback,
    SystemCallback,
    SystemMessage,
)
from .change import Change
from .channel import Channel
from .client import Client, create_client
from .credentials import Credential
from .errors import (
    AuthError,
    CallbackError,
    ClientClosed,
    ConnectError,
    ConnectionLost,
    JoinError,
    ProtocolError,
    RowcastError,
    TimedOut,
    TokenError,
    UsageError,
)
from .retry import RetryPolicy
from .states import ChannelState, ClientState, SubscribeStatus

__version__ = "0.1.0"

__all__ = [
    "AuthError",
    "CallbackError",
    "Change",
    "ChangeCallback",
    "Channel",
    "ChannelState",
    "Client",
    "ClientClosed",
    "ClientState",
    "ConnectError",
    "ConnectionLost",
    "Credential",
    "ErrorCallback",
    "JoinError",
    "PostgresFilter",
    "ProtocolError",
    "RetryPolicy",
    "RowcastError",
    "StatusCallback",
    "SubscribeStatus",
    "SystemCallback",
    "SystemMessage",
    "TimedOut",
    "TokenError",
    "UsageError",
    "__version__",
    "create_client",
]
