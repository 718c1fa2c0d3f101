"""Channels that resume, and those of them that stand at one place."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rowcast.capture.acceptance import Accepted
from rowcast.capture.delivery import Delivery
from rowcast.hub.feed import Subscriber
from rowcast.hub.subscriptions import Predicates
from rowcast.model.binding import Binding
from rowcast.model.claims import Subject
from rowcast.model.position import Position, Snapshot

#: Before a member has a place.
NOWHERE: Final = Position(b"", Snapshot(0, ()))


@dataclass(eq=False, slots=True)
class Member:
    """A channel that resumes: what it is subscribed to, and where it stands.

    ``accepted`` is what its bindings were accepted for. ``at`` is where it is attached while a leg is read.
    """

    subscriber: Subscriber
    bindings: Sequence[Binding]
    subject: Subject
    ready: Mapping[Binding, Predicates]
    judged: bool
    accepted: Mapping[Binding, Accepted]
    place: Position = NOWHERE
    at: Delivery | None = None


@dataclass(eq=False, slots=True)
class Group:
    """Those who stand at one place. ``near`` says that it was the present a moment ago, and ``turns`` how
    often their last leg took too long."""

    members: dict[Subscriber, Member] = field(default_factory=dict)
    near: bool = False
    turns: int = 0

    @property
    def asks(self) -> bool:
        """Whether somebody waits for Postgres."""
        return any(member.judged for member in self.members.values())


@dataclass(eq=False, slots=True)
class Turn:
    """A last leg that is to be read. ``called`` gets the place that the live reader waits at; it waits until
    it is ``over``, or ``late``."""

    asks: bool
    seconds: float
    called: asyncio.Future[Position] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    over: asyncio.Event = field(default_factory=asyncio.Event)
    late: bool = False
