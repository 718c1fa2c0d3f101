"""What a channel is to the hub, and what the source of changes is to the web."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from rowcast.hub.lanes import Lane
from rowcast.model.binding import Binding
from rowcast.model.claims import Claims, Subject
from rowcast.protocol.messages import Version

NOBODY: Final = Subject("")


@dataclass(frozen=True, slots=True)
class Gap:
    """Changes that a channel missed, or may have.

    ``reason`` is ``retention`` (they were trimmed), ``history`` (of another history of the database),
    ``future`` (the position is ahead of the database), ``unreadable`` (it is no position) or ``behind`` (what
    judges them fell too far behind). ``since`` is the position that could not be resumed from, where there is
    one, and ``position`` that from which the stream goes on.
    """

    reason: str
    since: str | None = None
    position: str | None = None


@dataclass(slots=True)
class Transaction:
    """What a channel is to be sent of a transaction that is not known to be complete.

    ``before`` is the position before all of it, ``position`` that after its last change so far; ``size`` is
    in bytes, of a message with its ``parts`` and no position. Each part has the number of its change.
    """

    before: str
    position: str
    commit_timestamp: str
    size: int
    parts: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Hearing:
    """A channel that hears the messages of its topic as a part of the stream.

    ``name`` is the topic without its prefix; ``send`` takes a frame and the id of its message. ``allowed`` is
    whether it may hear them now; ``began`` is set once they come by the stream: until then they come as to
    everybody.
    """

    name: str
    private: bool
    send: Callable[[bytes, str], None]
    allowed: bool = True
    began: bool = False


@dataclass(eq=False, slots=True)
class Subscriber:
    """One joined channel. ``lost`` is called when the feed can no longer say what the subscriber missed.

    ``gone`` is set once it has been unsubscribed: a subscription that is still being made then comes to
    nothing. ``told`` is called with a status, ``ok`` or ``error``, and what became of a binding later.
    ``legacy`` is a channel that joined the old way: its changes have the operation as their event.
    ``subject`` is who it is subscribed as. ``gap`` says whether it is told of missing changes and goes on,
    and ``group`` whether it is sent whole transactions; ``transaction`` is what it has yet to be sent of one.
    ``missed`` is called with a gap after which the subscription goes on. ``behind`` is set while it is sent
    what it missed, or a snapshot. ``hearing`` is how it hears messages, where they are to be in the stream.
    ``doubted`` is when it was told last that it may miss changes, in seconds of the monotonic clock.
    """

    topic: str
    version: Version
    lane: Lane
    lost: Callable[[], None]
    gone: bool = False
    legacy: bool = False
    told: Callable[[str, str], None] = lambda status, text: None
    subject: Subject = NOBODY
    gap: bool = False
    group: bool = False
    transaction: Transaction | None = None
    missed: Callable[[Gap], None] = lambda gap: None
    behind: bool = False
    hearing: Hearing | None = None
    doubted: float = -math.inf


@dataclass(frozen=True, slots=True)
class Subscribed:
    """What became of a subscription: why bindings were refused, and whether any other is heard from now
    on."""

    refused: tuple[str, ...]
    ok: bool
    position: str | None


class Feed(Protocol):
    """A source of changes."""

    def position_of(self, subscribers: Collection[Subscriber]) -> str | None:
        """From where all of these could resume after what they were sent, and be sent nothing again. None
        where one is ahead of another, and before the first read."""
        ...

    async def subscribe(
        self, subscriber: Subscriber, bindings: Sequence[Binding], claims: Claims, resume: str | None = None
    ) -> Subscribed: ...

    def unsubscribe(self, subscriber: Subscriber) -> None: ...

    async def ready(self) -> None:
        """Return when each message that the database sends from now on is certain to be handed out."""
        ...
