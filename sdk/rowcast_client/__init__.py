"""Row changes of a Postgres database, live, from a Rowcast (or Supabase Realtime) server."""

from .callbacks import (
    ChangeCallback,
    ErrorCallback,
    GapCallback,
    PostgresFilter,
    SnapshotCallback,
    SnapshotOptions,
    StatusCallback,
    SystemCallback,
    SystemMessage,
    TransactionCallback,
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
    GapError,
    JoinError,
    ProtocolError,
    RowcastError,
    RowsError,
    StoreError,
    TimedOut,
    TokenError,
    UsageError,
)
from .gap import Gap
from .postgres import PostgresStore
from .retry import RetryPolicy
from .rows import RowChange, RowChanges, Rows
from .snapshot import Snapshot
from .states import ChannelState, ClientState, SubscribeStatus
from .stores import FileStore, PositionStore
from .transaction import Transaction

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
    "FileStore",
    "Gap",
    "GapCallback",
    "GapError",
    "JoinError",
    "PositionStore",
    "PostgresFilter",
    "PostgresStore",
    "ProtocolError",
    "RetryPolicy",
    "RowChange",
    "RowChanges",
    "RowcastError",
    "Rows",
    "RowsError",
    "Snapshot",
    "SnapshotCallback",
    "SnapshotOptions",
    "StatusCallback",
    "StoreError",
    "SubscribeStatus",
    "SystemCallback",
    "SystemMessage",
    "TimedOut",
    "TokenError",
    "Transaction",
    "TransactionCallback",
    "UsageError",
    "__version__",
    "create_client",
]
