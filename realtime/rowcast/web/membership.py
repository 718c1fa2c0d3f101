"""The channels of one connection as members of their topics: what they hear, show, say and store."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from rowcast.capture.storing import FULL, UNKNOWN
from rowcast.hub.earlier import Earlier
from rowcast.hub.feed import Hearing
from rowcast.hub.lanes import Lane
from rowcast.hub.topics import Member
from rowcast.protocol.messages import Version
from rowcast.session.channel import PREFIX
from rowcast.session.wants import Attach, Authorize, Enter, Publish, Store, Track
from rowcast.web.services import Services

#: Messages that a member stored and that did not come back yet, of which it is known that they are its own.
_MOST_OWN: Final = 10_000
#: Of one client, what may wait to be stored beside a first message: all of them share one queue.
_MOST_STORING: Final = 4 * 1024 * 1024


class Memberships:
    """By the keys of channels."""

    def __init__(self, services: Services, version: Version, lane: Lane) -> None:
        self._services, self._version, self._lane = services, version, lane
        self._members: dict[int, Member] = {}
        self._storing = 0

    def hold(self, question: Authorize) -> None:
        """What is sent to a topic from now on follows what is looked up next for a channel."""
        topic, private = PREFIX + question.name, question.private
        member = Member(topic, private, self._version, self._lane, sees=False, earlier=Earlier(self._lane))
        self._members[question.channel] = member
        self._services.topics.enter(member)

    def enter(self, want: Enter, hearing: Hearing | None) -> None:
        """Let a channel hear and see, by its rights of now; ``hearing`` says how messages of the stream."""
        member = self._members.get(want.channel)
        saw = member is not None and member.sees
        if member is None:
            member = Member(want.topic, want.private, self._version, self._lane, want.echo, key=want.key)
            self._members[want.channel] = member
        elif member.earlier is not None:
            member.echo, member.key = want.echo, want.key if member.key is None else member.key
            member.earlier.sent(want.known)
        member.hears, member.sees, member.hearing = want.hears, want.sees, hearing
        self._services.topics.enter(member)
        if want.state and want.sees and not saw:
            self._services.rooms.tell(member, want.join_ref)

    def leave(self, channel: int) -> None:
        """A channel is over."""
        if (member := self._members.pop(channel, None)) is not None:
            self._services.topics.leave(member)
            self._services.rooms.untrack(member)

    def leave_all(self) -> None:
        """The connection is."""
        for channel in list(self._members):
            self.leave(channel)

    def publish(self, want: Publish) -> None:
        """Send what a channel says."""
        member = self._members[want.channel]
        self._services.topics.publish(member.topic, want.broadcast, private=member.private, sender=member)

    def store(self, want: Store, done: Callable[[str | None], None]) -> None:
        """Store what a channel says; ``done`` is told why it was not, or None."""
        message, member = want.message, self._members[want.channel]
        if not message.id:
            message = replace(message, id=str(uuid.uuid4()))
        if self._storing and self._storing + message.size > _MOST_STORING:
            done(FULL)
            return
        self._storing += message.size
        if not member.echo:
            # It comes back, as to everybody.
            member.own[message.id] = None
            if len(member.own) > _MOST_OWN:
                del member.own[next(iter(member.own))]

        def told(reason: str | None) -> None:
            self._storing -= message.size
            if reason not in (None, UNKNOWN):
                member.own.pop(message.id, None)
            done(reason)

        self._services.storing.put(message, told)

    def track(self, want: Track) -> None:
        """Show a channel."""
        self._services.rooms.track(self._members[want.channel], want.payload)

    def untrack(self, channel: int) -> None:
        """Show it no longer."""
        self._services.rooms.untrack(self._members[channel])

    def hearing(self, want: Attach) -> Hearing:
        """How a channel hears messages in the stream: with its own place, and nothing twice."""

        def send(frame: bytes, id_: str) -> None:
            if (member := self._members.get(want.channel)) is not None:
                member.push(frame, id_)
            else:
                self._lane.push(frame)

        # Who resumes hears none before those that it missed.
        return Hearing(want.topic.removeprefix(PREFIX), want.private, send, began=want.resume is not None)
