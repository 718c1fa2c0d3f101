"""Wants: what the core asks of the shell. Values only."""

from dataclasses import dataclass
from typing import Any

from ..errors import RowcastError
from ..gap import Gap
from ..states import SubscribeStatus


@dataclass(frozen=True, slots=True)
class Open:
    """Open a socket; answer with ``opened`` or ``failed`` and this number."""

    socket: int


@dataclass(frozen=True, slots=True)
class Close:
    """End this socket, or the try to open it. Not ``gently``: the peer is dead, do not wait for it."""

    socket: int
    gently: bool


@dataclass(frozen=True, slots=True)
class Send:
    """Send this on the open socket: a text frame, or a binary one where it is bytes."""

    text: str | bytes


@dataclass(frozen=True, slots=True)
class Load:
    """Get the stored position that this join resumes from; answer with ``loaded`` or ``unloaded``."""

    topic: str
    join_ref: str


@dataclass(frozen=True, slots=True)
class Authorize:
    """Get the access token for this join; answer with ``authorized`` or ``unauthorized``."""

    topic: str
    join_ref: str


@dataclass(frozen=True, slots=True)
class Refresh:
    """Get another access token for this joined channel; answer with ``refreshed`` or ``unrefreshed``."""

    topic: str
    join_ref: str


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the channel's owner."""

    topic: str
    status: SubscribeStatus
    error: RowcastError | None = None
    position: str | None = None


@dataclass(frozen=True, slots=True)
class Deliver:
    """A row change for the bindings with these indices. ``data`` is the change's JSON, unparsed."""

    topic: str
    bindings: tuple[int, ...]
    data: bytes
    seq: int | None = None
    position: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A transaction, or a part of one: its changes in order, each as in ``Deliver``."""

    topic: str
    changes: tuple[tuple[tuple[int, ...], bytes], ...]
    commit_timestamp: bytes
    position: str | None
    last: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a snapshot. ``position`` is its moment, given with the last batch of the channel only."""

    topic: str
    bindings: tuple[int, ...]
    data: bytes
    first: bool
    position: str | None


@dataclass(frozen=True, slots=True)
class Miss:
    """Changes are missing here. ``position`` is where it goes on; None while a snapshot is to come."""

    topic: str
    gap: Gap
    position: str | None


@dataclass(frozen=True, slots=True)
class Advance:
    """Nothing more is to come for the channel before this position."""

    topic: str
    position: str


@dataclass(frozen=True, slots=True)
class System:
    """A ``system`` message of the server for the channel."""

    topic: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hear:
    """A broadcast. ``data`` is its payload: JSON, unparsed, or any bytes where it is ``raw``.

    ``position`` is for one that is a part of the stream, ``again`` says that it comes again from there.
    """

    topic: str
    event: str
    data: bytes
    raw: bool = False
    id: str | None = None
    replayed: bool = False
    position: str | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Present:
    """Who is there: all of it where it is ``whole``, else what became of it, under this join."""

    topic: str
    join_ref: str
    data: bytes
    whole: bool


@dataclass(frozen=True, slots=True)
class Settle:
    """What became of a call, by its number: the server took it, or it failed."""

    topic: str
    number: int
    error: RowcastError | None


@dataclass(frozen=True, slots=True)
class Report:
    """A fault to log and hand to ``on_error``."""

    error: RowcastError


@dataclass(frozen=True, slots=True)
class Stop:
    """The connection is given up for this reason: whoever waits must be told."""

    error: RowcastError


Item = Deliver | Part | Batch | Miss | Advance | System | Hear | Present
Want = Open | Close | Send | Load | Authorize | Refresh | Notify | Item | Settle | Report | Stop
