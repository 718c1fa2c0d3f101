"""What a conversation wants done: values that the web layer carries out, in order."""

from collections.abc import Sequence
from dataclasses import dataclass

from rowcast.model.binding import Binding
from rowcast.model.claims import Claims
from rowcast.model.message import Message
from rowcast.protocol.broadcasts import Broadcast
from rowcast.protocol.join import Replay
from rowcast.protocol.messages import ClientMessage, Ref, ServerMessage


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message, after ``delay`` seconds."""

    message: ServerMessage
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Attach:
    """Subscribe a channel's bindings, and report by ``Connection.attached``.

    ``channel`` tells one life of a channel from the next. A channel that was attached is attached anew.
    ``legacy`` is a channel that joined the old way: the operation of a change is its event. ``resume`` is
    the text of the position to resume from; it is told until ``attached`` said that the channel hears, and
    counts for one that does not hear yet.
    ``gap`` says whether the channel is told of missing changes, and ``group`` whether it is sent whole
    transactions. With ``messages`` it is sent those of its topic as a part of the stream, of the ``private``
    one or the public one; ``hears`` is whether it may.
    """

    channel: int
    topic: str
    bindings: Sequence[Binding]
    claims: Claims
    attempt: int
    legacy: bool = False
    resume: str | None = None
    gap: bool = False
    group: bool = False
    messages: bool = False
    private: bool = False
    hears: bool = True


@dataclass(frozen=True, slots=True)
class Authorize:
    """Ask what a channel allows, and report by ``Connection.authorized``: the last thing wanted. One that is
    not ``private`` allows all, and is asked for only with ``replay``.

    Nothing more is received before that: what a client says is heard in order. It is asked what may be read,
    without ``presence`` of broadcasts only; or, with ``writes``, what may be written.

    ``replay`` is what a join wants sent again of earlier broadcasts, if it may read them: for ``channel``,
    which has not entered. What is sent to its topic from then on is kept for it until it has.
    """

    name: str
    claims: Claims
    presence: bool
    writes: bool = False
    replay: Replay | None = None
    channel: int = 0
    private: bool = True


@dataclass(frozen=True, slots=True)
class Enter:
    """Have a channel hear what is sent to its topic: its join was answered. Wanted anew when ``hears`` or
    ``sees`` changed.

    ``echo`` says that it hears itself, ``hears`` and ``sees`` whether it may hear broadcasts and see presence
    at all. With ``state`` it is told who is present, once it sees: by ``join_ref``. ``key`` is what it is
    present under itself, None where that is to be chosen. ``known`` are the ids of messages that it was sent.
    """

    channel: int
    topic: str
    private: bool
    echo: bool
    hears: bool
    sees: bool = True
    state: bool = False
    key: str | None = None
    join_ref: Ref = None
    known: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a broadcast to this client alone, if its version has a form for it."""

    topic: str
    broadcast: Broadcast


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until each message that the database sends is certain to reach a channel that has entered, and
    report by ``Connection.ready``."""

    channel: int


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a broadcast of a channel that has entered to its topic."""

    channel: int
    broadcast: Broadcast


@dataclass(frozen=True, slots=True)
class Store:
    """Store a broadcast of a channel that has entered, from where it goes to its topic as a message of the
    database; report by ``Connection.stored``. ``asked`` is what is answered then. An empty id is to be
    chosen."""

    channel: int
    asked: ClientMessage
    message: Message


@dataclass(frozen=True, slots=True)
class Track:
    """Let a channel that has entered show itself: by JSON that ``protocol.presence.tracked`` made."""

    channel: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Untrack:
    """Let a channel show itself no longer."""

    channel: int


@dataclass(frozen=True, slots=True)
class Detach:
    """A channel is over: it hears nothing more, and is not present any more."""

    channel: int


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection, after ``delay`` seconds."""

    code: int
    reason: str = ""
    delay: float = 0.0


Want = Send | Attach | Authorize | Enter | Tell | Await | Publish | Store | Track | Untrack | Detach | Close
