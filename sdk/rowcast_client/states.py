"""The words for how a client, a channel and a subscription are doing. They compare equal to their text."""

from enum import StrEnum


class ClientState(StrEnum):
    """How the connection is doing."""

    IDLE = "idle"
    """Not asked to connect yet."""
    CONNECTING = "connecting"
    """On the way to its first connection."""
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    """The connection ended or failed; the next try is under way or waits for its turn."""
    CLOSED = "closed"
    """Closed by us, or stopped because the server refused the key."""


class ChannelState(StrEnum):
    """How a channel is doing, in Phoenix' words."""

    CLOSED = "closed"
    JOINING = "joining"
    """Asked to subscribe; not confirmed yet."""
    JOINED = "joined"
    """Subscribed: from here on each matching change is delivered."""
    ERRORED = "errored"
    """Something failed; it will be joined again."""
    LEAVING = "leaving"


class SubscribeStatus(StrEnum):
    """What ``on_status`` is told. After the middle two the client tries again by itself.

    CHANNEL_ERROR comes also when one of a channel's subscriptions was refused, or went away with its table;
    the others go on. SUBSCRIBED follows when they do, and when the table is back.
    """

    SUBSCRIBED = "SUBSCRIBED"
    CHANNEL_ERROR = "CHANNEL_ERROR"
    TIMED_OUT = "TIMED_OUT"
    CLOSED = "CLOSED"
