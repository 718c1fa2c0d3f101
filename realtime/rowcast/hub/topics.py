"""Who is joined to which topic on this node, and what is sent there.

A public and a private channel of one name are two topics, which never mix. Everything here runs on the event
loop only, and nothing waits: what is published has gone to all members within one turn.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rowcast.hub.earlier import Earlier
from rowcast.hub.feed import Hearing
from rowcast.hub.lanes import Lane, send_to_all
from rowcast.model.roster import Presence
from rowcast.protocol.broadcasts import Broadcast, encode_broadcast
from rowcast.protocol.messages import Version

_Place = tuple[str, bool, Version]


@dataclass(slots=True, eq=False)
class Member:
    """A channel that is joined. ``topic`` is the whole of it, ``echo`` says that it hears itself.

    ``hears`` is False for a private channel whose policies let it read no broadcasts, ``sees`` for one that
    may not read presence. ``key`` is what it is present under, None until one is chosen, and ``presence``
    what it shows of itself.
    ``earlier`` is for one that is sent earlier messages first, and ``hearing`` for one that is sent messages
    as a part of the stream; ``own`` are ids of messages that it has stored and is not to hear.
    """

    topic: str
    private: bool
    version: Version
    lane: Lane
    echo: bool = False
    hears: bool = True
    sees: bool = True
    key: str | None = None
    presence: Presence | None = None
    earlier: Earlier | None = None
    hearing: Hearing | None = None
    own: dict[str, None] = field(default_factory=dict)

    def push(self, frame: bytes, id_: str | None) -> None:
        """Send a whole frame, of a message with this id: once, and never what it has stored itself."""
        if self.own and id_ in self.own:
            del self.own[id_]
        elif self.earlier is None:
            self.lane.push(frame)
        else:
            self.earlier.push(frame, id_)


class Topics:
    """The members of all topics. Those of one version are kept together, as they are sent the same bytes."""

    def __init__(self) -> None:
        self._listeners: dict[_Place, dict[Member, None]] = {}
        #: Of a topic that was published to, the lanes of those who hear all, and nothing earlier.
        self._lanes: dict[_Place, list[Lane]] = {}
        #: What was published to in this turn of the event loop.
        self._said: set[_Place] = set()
        #: Frames that were handed to lanes since the start.
        self.sent = 0

    def enter(self, member: Member) -> None:
        """Let a member hear and see from now on; or no longer, where it may do neither."""
        if not (member.hears or member.sees):
            self.leave(member)
            return
        self._listeners.setdefault(_place(member), {})[member] = None
        self._lanes.pop(_place(member), None)

    def leave(self, member: Member) -> None:
        """Forget a member. One that is not there is no matter."""
        listeners = self._listeners.get(_place(member))
        if listeners is not None:
            listeners.pop(member, None)
            self._lanes.pop(_place(member), None)
            if not listeners:
                del self._listeners[_place(member)]

    def publish(
        self,
        topic: str,
        broadcast: Broadcast,
        *,
        private: bool,
        sender: Member | None = None,
        id_: str | None = None,
    ) -> None:
        """Send it to all who hear the topic; to ``sender`` only if that hears itself. ``id_`` is that of a
        message of the database, which nobody is sent twice."""
        for version in Version:
            listeners = self._listeners.get((topic, private, version))
            if listeners is None:
                continue
            frame = encode_broadcast(topic, broadcast, version)
            if frame is None:
                continue
            if id_ is None:
                self._say((topic, private, version), listeners, frame, sender)
                continue
            for member in listeners:
                if member.hears and (member.hearing is None or not member.hearing.began):
                    member.push(frame, id_)
                    self.sent += 1

    def _say(
        self, place: _Place, listeners: Mapping[Member, None], frame: bytes, sender: Member | None
    ) -> None:
        """Send what a client says: the first of a turn at once, and the others of it together.

        Lanes are looked up once: to go by members costs as much again.
        """
        lanes = self._lanes.get(place)
        if lanes is None:
            plain = (member for member in listeners if member.hears and member.earlier is None)
            lanes = self._lanes[place] = [member.lane for member in plain]
        # A connection has one channel of a topic.
        silent = None if sender is None or sender.echo else sender.lane
        if place in self._said:
            for lane in lanes:
                if lane is not silent:
                    lane.push(frame)
                    self.sent += 1
        else:
            if not self._said:
                asyncio.get_running_loop().call_soon(self._said.clear)
            self._said.add(place)
            self.sent += send_to_all(lanes, frame, silent)
        if len(lanes) < len(listeners):
            for member in listeners:
                if member.earlier is not None and member.hears and member.lane is not silent:
                    member.push(frame, None)
                    self.sent += 1

    def show(self, topic: str, frame_of: Callable[[Version], bytes], *, private: bool) -> None:
        """Send what became of presence to all who see it, their own part of it as well."""
        for version in Version:
            if (listeners := self._listeners.get((topic, private, version))) is not None:
                frame = frame_of(version)
                for member in listeners:
                    if member.sees:
                        member.lane.push(frame)
                        self.sent += 1


def _place(member: Member) -> _Place:
    return member.topic, member.private, member.version
