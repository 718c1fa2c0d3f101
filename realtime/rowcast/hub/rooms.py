"""Who is present on which topic, and who is told of it.

What becomes of presence within one turn of the event loop is told at its end, for each topic in one diff. Who
joins meanwhile is sent the state that all others know, and then that diff. Everything here runs on the event
loop only, and nothing waits.
"""

import asyncio
import secrets
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from rowcast.hub.topics import Member, Topics
from rowcast.model.roster import Part, Presence, Roster, difference
from rowcast.protocol.messages import Ref
from rowcast.protocol.presence import diff_frame, encode_state, state_frame

_NODE_BYTES: Final = 6
_COUNT_BYTES: Final = 6
_NOBODY: Final = encode_state(())


@dataclass(slots=True)
class _Room:
    """``roster`` is what all know, ``next`` who is present by this node, once something has changed."""

    roster: Roster = field(default_factory=Roster)
    next: dict[str, Presence] | None = None
    state: bytes | None = None


class Rooms:
    """The presences of all topics; a topic on which nobody is present has no room."""

    def __init__(self, topics: Topics) -> None:
        #: Who is told.
        self.topics = topics
        self._node = secrets.token_bytes(_NODE_BYTES)
        self._name = self._node.hex()
        #: Of what was ever present or gone by this node: refs and versions are made of it.
        self._count = 0
        self._rooms: dict[tuple[str, bool], _Room] = {}
        self._changed: dict[tuple[str, bool], _Room] = {}

    def tell(self, member: Member, join_ref: Ref) -> None:
        """Send a member the state; it has entered its topic within this turn."""
        room = self._rooms.get((member.topic, member.private))
        state = _NOBODY
        if room is not None:
            if room.state is None:
                room.state = encode_state(room.roster.present().values())
            state = room.state
        frame = state_frame(member.topic, state, member.version, join_ref)
        if member.lane.queued + len(frame) <= member.lane.limit:
            member.lane.push(frame)
            return
        # One that is larger than the lane may go alone: without the reply before it, or what follows.
        member.lane.flush()
        member.lane.push(frame)
        member.lane.flush()

    def track(self, member: Member, payload: bytes) -> None:
        """Let a member show itself. ``payload`` is as ``protocol.presence.tracked`` makes it."""
        old, prev = member.presence, None
        if old is not None and old.payload == payload:
            return
        room, present = self._change(member)
        if old is not None:
            del present[old.ref]
            # Nobody has heard of one that came in this very turn.
            prev = old.ref if old.ref in room.roster.present() else old.prev
        number = self._count.to_bytes(_COUNT_BYTES, "big")
        ref = urlsafe_b64encode(self._node + number).decode()
        if member.key is None:
            member.key = str(uuid.uuid4())
        member.presence = present[ref] = Presence(member.key, ref, payload, prev)

    def untrack(self, member: Member) -> None:
        """Let a member be gone. One that does not show itself is no matter."""
        if member.presence is not None:
            _, present = self._change(member)
            del present[member.presence.ref]
            member.presence = None

    def _change(self, member: Member) -> tuple[_Room, dict[str, Presence]]:
        place = (member.topic, member.private)
        room = self._rooms.get(place)
        if room is None:
            room = self._rooms[place] = _Room()
        if room.next is None:
            known = room.roster.parts.get(self._name, Part())
            room.next = dict(known.present)
            if not self._changed:
                asyncio.get_running_loop().call_soon(self._show)
            self._changed[place] = room
        self._count += 1
        return room, room.next

    def _show(self) -> None:
        changed, self._changed = self._changed, {}
        for place, room in changed.items():
            assert room.next is not None
            before, room.roster = room.roster, room.roster.change(self._name, Part(self._count, room.next))
            room.next = room.state = None
            if not room.roster.present():
                del self._rooms[place]
            if diff := difference(before, room.roster):
                topic, private = place
                self.topics.show(topic, partial(diff_frame, topic, diff), private=private)
