"""Row changes of a Postgres database, broadcasts and presence, live, from Rowcast (or Supabase Realtime)."""

from .broadcast import Broadcast
from .callbacks import (
    BroadcastCallback,
    ChangeCallback,
    ErrorCallback,
    EventFilter,
    GapCallback,
    PostgresFilter,
    PresenceCallback,
    PresenceFilter,
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
    SendError,
    StoreError,
    TimedOut,
    TokenError,
    UsageError,
)
from .gap import Gap
from .options import ReplayOptions
from .postgres import PostgresStore
from .presence import Presence, PresenceEvent
from .retry import RetryPolicy
from .rows import RowChange, RowChanges, Rows
from .snapshot import Snapshot
from .states import ChannelState, ClientState, SubscribeStatus
from .stores import FileStore, PositionStore
from .transaction import Transaction

__version__ = "0.1.0"

__all__ = [
    "AuthError",
    "Broadcast",
    "BroadcastCallback",
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
    "EventFilter",
    "FileStore",
    "Gap",
    "GapCallback",
    "GapError",
    "JoinError",
    "PositionStore",
    "PostgresFilter",
    "PostgresStore",
    "Presence",
    "PresenceCallback",
    "PresenceEvent",
    "PresenceFilter",
    "ProtocolError",
    "ReplayOptions",
    "RetryPolicy",
    "RowChange",
    "RowChanges",
    "RowcastError",
    "Rows",
    "RowsError",
    "SendError",
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
