"""Who hears which table: the index of bindings, and the fan-out of a change.

Cost grows with the matches, not with the subscriptions: bindings are indexed by (schema, table), and the
subscribers of one (table, operation) are kept grouped by what they are sent, so that equal messages are
encoded once. Runs on the event loop only; nothing here waits.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rowcast.hub.feed import Subscriber
from rowcast.model.binding import WILDCARD, Binding
from rowcast.model.change import Change, Op, Relation
from rowcast.protocol.changes import encode_data, encode_message, encode_reduced
from rowcast.protocol.frames import text_frame
from rowcast.protocol.messages import Version

Place = tuple[str, str]
MayRead = Callable[[str, Relation], bool]


class Audience(NamedTuple):
    """What subscribers must have in common to be sent the very same bytes, and to be judged alike."""

    role: str
    version: Version
    topic: str
    ids: tuple[int, ...]


@dataclass(slots=True)
class _Entry:
    role: str
    bindings: Sequence[Binding]


@dataclass(slots=True)
class Counts:
    """What the fan-out did since the start."""

    messages: int = 0
    hidden: int = 0


@dataclass(slots=True)
class Subscriptions:
    """The subscribers of one database. ``limit`` bounds a whole message, in bytes."""

    limit: int
    counts: Counts = field(default_factory=Counts)
    #: Grows whenever somebody subscribes or leaves.
    version: int = 0
    _entries: dict[Subscriber, _Entry] = field(default_factory=dict)
    _by_place: dict[Place, dict[Subscriber, None]] = field(default_factory=dict)
    # Filled when a table's first change comes, and kept up to date from then on.
    _audiences: dict[tuple[str, str, Op], dict[Audience, dict[Subscriber, None]]] = field(
        default_factory=dict
    )

    def __len__(self) -> int:
        return len(self._entries)

    def attach(self, subscriber: Subscriber, bindings: Sequence[Binding], role: str) -> None:
        """Subscribe, or change what is subscribed; no change falls between the two."""
        self.detach(subscriber)
        self.version += 1
        self._entries[subscriber] = entry = _Entry(role, tuple(bindings))
        for binding in bindings:
            self._by_place.setdefault((binding.schema, binding.table), {})[subscriber] = None
        for (schema, table, op), audiences in self._audiences.items():
            if ids := _matching(entry.bindings, schema, table, op):
                audiences.setdefault(_audience(subscriber, role, ids), {})[subscriber] = None

    def detach(self, subscriber: Subscriber) -> None:
        """Forget a subscriber, if it is known."""
        entry = self._entries.pop(subscriber, None)
        if entry is None:
            return
        self.version += 1
        for binding in entry.bindings:
            place = self._by_place.get((binding.schema, binding.table))
            if place is not None:
                place.pop(subscriber, None)
                if not place:
                    del self._by_place[binding.schema, binding.table]
        for key, audiences in list(self._audiences.items()):
            if ids := _matching(entry.bindings, *key):
                audience = _audience(subscriber, entry.role, ids)
                members = audiences[audience]
                del members[subscriber]
                if not members:
                    del audiences[audience]

    def subscribers(self) -> Iterable[Subscriber]:
        """Everyone, as a copy that may be changed under."""
        return list(self._entries)

    def known(self, relation: Relation) -> bool:
        """Whether anyone asked for changes of this table, of whatever kind."""
        return any(place in self._by_place for place in _places(relation.schema, relation.table))

    def heard(self, relation: Relation, op: Op) -> bool:
        """Whether anyone wants changes of this kind."""
        return bool(self._of(relation.schema, relation.table, op))

    def publish(self, change: Change, may_read: MayRead) -> None:
        """Send a change to everyone who asked for it and may read it."""
        relation = change.relation
        data: bytes | None = None
        reduced: bytes | None = None
        verdicts: dict[str, bool] = {}
        for audience, members in self._of(relation.schema, relation.table, change.op).items():
            role = audience.role
            if role not in verdicts:
                verdicts[role] = may_read(role, relation)
            if not verdicts[role]:
                self.counts.hidden += len(members)
                continue
            if data is None:
                data = encode_data(change)
            message = encode_message(data, audience.topic, audience.ids, audience.version)
            if len(message) > self.limit:
                reduced = reduced or encode_reduced(change)
                message = encode_message(reduced, audience.topic, audience.ids, audience.version)
            frame = text_frame(message)
            self.counts.messages += len(members)
            for subscriber in members:
                subscriber.lane.push(frame)

    def _of(self, schema: str, table: str, op: Op) -> dict[Audience, dict[Subscriber, None]]:
        audiences = self._audiences.get((schema, table, op))
        if audiences is None:
            audiences = self._audiences[schema, table, op] = {}
            for place in _places(schema, table):
                for subscriber in self._by_place.get(place, ()):
                    entry = self._entries[subscriber]
                    if ids := _matching(entry.bindings, schema, table, op):
                        audiences.setdefault(_audience(subscriber, entry.role, ids), {})[subscriber] = None
        return audiences


def _places(schema: str, table: str) -> tuple[Place, ...]:
    """Where bindings that match a table may stand."""
    return (schema, table), (schema, WILDCARD), (WILDCARD, table), (WILDCARD, WILDCARD)


def _audience(subscriber: Subscriber, role: str, ids: tuple[int, ...]) -> Audience:
    return Audience(role, subscriber.version, subscriber.topic, ids)


def _matching(bindings: Sequence[Binding], schema: str, table: str, op: Op) -> tuple[int, ...]:
    """The ids of the bindings that a change of this kind matches, in the order they were given."""
    return tuple(
        binding.id
        for binding in bindings
        if binding.schema in (schema, WILDCARD)
        and binding.table in (table, WILDCARD)
        # A TRUNCATE is no event of the protocol.
        and (binding.event == op or (binding.event == WILDCARD and op is not Op.TRUNCATE))
    )
