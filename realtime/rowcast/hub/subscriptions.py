"""Who hears which table: the index of bindings, and the fan-out of a change.

Subscribers without any filter are kept grouped by what they are sent, for each (name, operation); the others
are found by what the row holds (``hub.matching``). Either way equal messages are encoded once. Where two
names that a subscriber gave mean one table, it stands under the narrower with the bindings of both. Nothing
is kept for tables that nobody hears. Runs on the event loop only; nothing here waits.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from rowcast.hub.counts import Counts
from rowcast.hub.feed import Subscriber
from rowcast.hub.finding import (
    Hit,
    Message,
    audience_of,
    found,
    found_leaving,
    grouped_by,
    hears,
    not_shown,
    select_of,
)
from rowcast.hub.matching import AnswersByRole, Audience, FilterIndex, Listeners
from rowcast.hub.places import Place, cross, narrower, places_of
from rowcast.hub.sending import NO_SEES, MayRead, Sees, Sending
from rowcast.hub.transactions import Transactions
from rowcast.model.binding import WILDCARD, Binding
from rowcast.model.change import Change, Op, Relation
from rowcast.model.claims import Subject
from rowcast.model.predicate import NEVER, Ask, Predicate
from rowcast.protocol.rows import row_of

K = TypeVar("K")
#: The predicates of a binding, by version of a table.
Predicates = Mapping[int, Predicate]

_NO_ANSWERS: Final[AnswersByRole] = {}
_Groups = dict[tuple[Place, Op], dict[Audience, dict[Subscriber, None]]]


@dataclass(slots=True)
class _Entry:
    bindings: Sequence[Binding]
    grouped: bool


@dataclass(slots=True)
class Subscriptions:
    """The subscribers of one database. ``limit`` bounds a whole message, in bytes."""

    limit: int
    counts: Counts = field(default_factory=Counts)
    #: Grows whenever somebody subscribes or leaves, and when a filter becomes ready.
    version: int = 0
    _entries: dict[Subscriber, _Entry] = field(default_factory=dict)
    _by_place: dict[Place, dict[Subscriber, None]] = field(default_factory=dict)
    _groups: _Groups = field(default_factory=dict)
    # The same of what is sent to them before their last message about a change.
    _early: _Groups = field(default_factory=dict)
    # Of those that are grouped, who has a broader name as well.
    _narrower: dict[Place, dict[Subscriber, None]] = field(default_factory=dict)
    _listeners: dict[Place, dict[Binding, Listeners]] = field(default_factory=dict)
    _indexes: dict[Place, dict[int, FilterIndex]] = field(default_factory=dict)
    # Who wants to know which rows they lost.
    _leaves: dict[Place, dict[Subscriber, None]] = field(default_factory=dict)
    transactions: Transactions = field(init=False)

    def __post_init__(self) -> None:
        self.transactions = Transactions(self.limit, self.counts)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, subscriber: Subscriber) -> bool:
        return subscriber in self._entries

    def attach(
        self,
        subscriber: Subscriber,
        bindings: Sequence[Binding],
        subject: Subject,
        predicates: Mapping[Binding, Predicates] = {},
    ) -> None:
        """Subscribe, or change what is subscribed, or as whom; no change falls between the two."""
        self.detach(subscriber)
        self.version += 1
        subscriber.subject = subject
        self.transactions.take(subscriber)
        filtered = any(binding.filter is not None for binding in bindings)
        grouped = not filtered and not cross(bindings)
        self._entries[subscriber] = entry = _Entry(tuple(bindings), grouped)
        for binding in bindings:
            place = (binding.schema, binding.table)
            self._by_place.setdefault(place, {})[subscriber] = None
            if hears(binding, Op.LEAVE):
                self._leaves.setdefault(place, {})[subscriber] = None
        if grouped:
            for spot, audience in grouped_by(subscriber, entry.bindings):
                groups = self._groups if audience.last else self._early
                groups.setdefault(spot, {}).setdefault(audience, {})[subscriber] = None
            for place in narrower(bindings):
                self._narrower.setdefault(place, {})[subscriber] = None
        else:
            for binding in entry.bindings:
                self._listen(binding, subscriber, predicates.get(binding, {}))

    def detach(self, subscriber: Subscriber) -> None:
        """Forget a subscriber, if it is known. What it has of a transaction that is open, it keeps."""
        self.transactions.let_go(subscriber)
        entry = self._entries.pop(subscriber, None)
        if entry is None:
            return
        self.version += 1
        for binding in entry.bindings:
            _take_out(self._by_place, (binding.schema, binding.table), subscriber)
            _take_out(self._leaves, (binding.schema, binding.table), subscriber)
        if not entry.grouped:
            for binding in dict.fromkeys(entry.bindings):
                self._unlisten(binding, subscriber)
            return
        for spot, audience in grouped_by(subscriber, entry.bindings):
            groups = self._groups if audience.last else self._early
            _take_out(groups[spot], audience, subscriber)
            if not groups[spot]:
                del groups[spot]
        for place in narrower(entry.bindings):
            _take_out(self._narrower, place, subscriber)

    def subscribers(self) -> list[Subscriber]:
        """Everyone, as a copy that may be changed under."""
        return list(self._entries)

    def places(self) -> Mapping[Place, Collection[Subscriber]]:
        """The names that somebody subscribed to, and who."""
        return self._by_place

    def bindings(self, subscriber: Subscriber) -> Sequence[Binding]:
        """What a subscriber is subscribed to."""
        return self._entries[subscriber].bindings

    # Filters

    def _listen(self, binding: Binding, subscriber: Subscriber, predicates: Predicates) -> None:
        place = (binding.schema, binding.table)
        at_place = self._listeners.setdefault(place, {})
        listeners = at_place.get(binding)
        if listeners is None:
            listeners = at_place[binding] = Listeners(binding, predicates=dict(predicates))
            for index in self._indexes_at(place):
                index.add(listeners)
        else:
            self.ready(listeners, predicates)
        # Nothing else of its channel can go into the same message, or into another about the same change.
        alone = len(self._entries[subscriber].bindings) == 1
        listeners.add(
            subscriber,
            audience_of(subscriber, (binding.id,), select_of(binding), last=True)
            if alone
            else subscriber.subject.role,
        )

    def _unlisten(self, binding: Binding, subscriber: Subscriber) -> None:
        place = (binding.schema, binding.table)
        listeners = self._listeners[place][binding]
        listeners.remove(subscriber)
        if not listeners.members:
            for index in list(listeners.indexes):
                index.remove(listeners)
                if not index:
                    self._give_up(index)
            del self._listeners[place][binding]
            if not self._listeners[place]:
                del self._listeners[place]

    def _indexes_at(self, place: Place) -> Iterator[FilterIndex]:
        """The indexes of the tables that a binding at this place may match."""
        if WILDCARD not in place:
            yield from self._indexes.get(place, {}).values()
            return
        for (schema, table), indexes in self._indexes.items():
            if place[0] in (schema, WILDCARD) and place[1] in (table, WILDCARD):
                yield from indexes.values()

    def index(self, relation: Relation) -> FilterIndex:
        """The index of one version of a table. It is kept while anyone is in it."""
        place = (relation.schema, relation.table)
        index = self._indexes.get(place, {}).get(relation.id)
        if index is None:
            index = FilterIndex(relation.id, place)
            for one in places_of(*place):
                for listeners in self._listeners.get(one, {}).values():
                    index.add(listeners)
            if index:
                self._indexes.setdefault(place, {})[relation.id] = index
        return index

    def _give_up(self, index: FilterIndex) -> None:
        del self._indexes[index.place][index.relation]
        if not self._indexes[index.place]:
            del self._indexes[index.place]

    def ready(self, listeners: Listeners, predicates: Predicates) -> None:
        """The filter of these listeners is ready for more versions of tables.

        One that was given up for a version, as it did not fit, may fit it after all.
        """
        for relation, predicate in predicates.items():
            if listeners.predicates.get(relation, NEVER) is NEVER:
                listeners.predicates[relation] = predicate
                self.version += 1
                for index in listeners.indexes:
                    if index.relation == relation:
                        index.add(listeners)

    def askers(self, relation: Relation, ask: Ask) -> Iterator[Subscriber]:
        """Whose filters have this condition on this version of a table; some perhaps more than once."""
        for listeners in self.index(relation).asking(ask):
            yield from listeners.members

    def without(self, relation: Relation, ask: Ask) -> list[Subscriber]:
        """Drop every binding whose filter has this condition on this version of a table; those who had
        one."""
        losers = {
            listeners.binding: list(listeners.members) for listeners in self.index(relation).asking(ask)
        }
        for binding, subscribers in losers.items():
            for subscriber in subscribers:
                self.drop(subscriber, binding)
        return list(dict.fromkeys(subscriber for members in losers.values() for subscriber in members))

    def drop(self, subscriber: Subscriber, binding: Binding) -> None:
        """Forget one binding of a subscriber; its others stay as they are."""
        entry = self._entries[subscriber]
        self.attach(
            subscriber,
            [one for one in entry.bindings if one != binding],
            subscriber.subject,
            self.predicates(subscriber),
        )

    def predicates(self, subscriber: Subscriber) -> dict[Binding, Predicates]:
        """What is ready of a subscriber's filters."""
        found: dict[Binding, Predicates] = {}
        for binding in self._entries[subscriber].bindings:
            listeners = self._listeners.get((binding.schema, binding.table), {}).get(binding)
            if listeners is not None:
                found[binding] = dict(listeners.predicates)
        return found

    def versions(self) -> set[int]:
        """The versions of tables that something was made ready for."""
        return {relation for indexes in self._indexes.values() for relation in indexes}

    def forget(self, relations: Collection[int]) -> None:
        """Forget what was made ready for these versions of tables."""
        for place, indexes in list(self._indexes.items()):
            for relation in indexes.keys() & relations:
                indexes.pop(relation).clear()
            if not indexes:
                del self._indexes[place]
        for at_place in self._listeners.values():
            for listeners in at_place.values():
                for relation in listeners.predicates.keys() & relations:
                    del listeners.predicates[relation]

    def asks(self, change: Change) -> Iterator[tuple[str, Ask]]:
        """What Postgres has to answer, and under which role, before the change can be published."""
        return self.index(change.relation).asks(row_of(change), leaving=change.op is Op.LEAVE)

    def leave(self, change: Change) -> Change | None:
        """A change as those would see it whose row it was, where anybody wants to know. Its filters are asked
        of Postgres as well, and ``publish`` is given the answers."""
        if not self._leaves or change.op is not Op.UPDATE or change.old_record is None:
            return None
        places = places_of(change.relation.schema, change.relation.table)
        return change.leave() if any(place in self._leaves for place in places) else None

    # Changes

    def known(self, relation: Relation) -> bool:
        """Whether anyone asked for changes of this table, of whatever kind."""
        return any(place in self._by_place for place in places_of(relation.schema, relation.table))

    def hearers(self, relation: Relation) -> list[Subscriber]:
        """Who asked for changes of this table, of whatever kind."""
        places = places_of(relation.schema, relation.table)
        return list(dict.fromkeys(one for place in places for one in self._by_place.get(place, ())))

    def heard(self, relation: Relation, op: Op) -> bool:
        """Whether anyone may want changes of this kind."""
        places = places_of(relation.schema, relation.table)
        return any((place, op) in self._groups or place in self._listeners for place in places)

    def publish(
        self,
        change: Change,
        may_read: MayRead,
        answers: AnswersByRole = _NO_ANSWERS,
        sees: Sees = NO_SEES,
        left_answers: AnswersByRole = _NO_ANSWERS,
        without: Collection[Subscriber] = (),
    ) -> None:
        """Send a change to everyone who asked for it and may read it, but to those ``without``.
        ``left_answers`` are those for its ``leave``."""
        sending = self._sending(change, may_read, sees, without)
        leave = self.leave(change)
        if leave is None:
            for audience, members in self._audiences_of(change, answers, sending):
                sending.send(audience, members)
            return
        left = self._sending(leave, may_read, sees, without)
        places = places_of(change.relation.schema, change.relation.table)
        for audience, members in self._grouped(places, Op.LEAVE):
            if gone := not_shown(audience.role, members, sending):
                left.send(audience, gone)
        for audience, members in self._grouped(places, Op.UPDATE):
            sending.send(audience, members)
        old, new = self._hits(leave, left_answers), self._hits(change, answers)
        for one, (audience, members) in found_leaving(old, new, left, sending):
            if members:
                one.send(audience, members)

    def end_transaction(self) -> None:
        """All changes of a transaction were published. Those of the next are of another."""
        if self.transactions:
            self.transactions.end()

    def judged(
        self,
        change: Change,
        may_read: MayRead,
        answers: AnswersByRole = _NO_ANSWERS,
        left_answers: AnswersByRole = _NO_ANSWERS,
    ) -> Iterator[Subscriber]:
        """For whom a change has to be judged before it can be published; some perhaps more than once."""
        sending = self._sending(change, may_read)
        audiences = [*self._audiences_of(change, answers, sending)]
        if (leave := self.leave(change)) is not None:
            audiences += found(self._hits(leave, left_answers), Op.LEAVE, self._sending(leave, may_read))
        for audience, members in audiences:
            if sending.judged(audience.role):
                yield from members

    def _sending(
        self,
        change: Change,
        may_read: MayRead,
        sees: Sees = NO_SEES,
        without: Collection[Subscriber] = (),
    ) -> Sending:
        return Sending(change, may_read, self.limit, self.counts, self.transactions, sees, without)

    def _audiences_of(self, change: Change, answers: AnswersByRole, sending: Sending) -> Iterator[Message]:
        """Who asked for a change, by what they are sent. A subscriber may be in several."""
        places = places_of(change.relation.schema, change.relation.table)
        if self._groups:
            yield from self._grouped(places, change.op)
        if self._listeners and any(place in self._listeners for place in places):
            yield from found(self._hits(change, answers), change.op, sending)

    def _grouped(self, places: Iterable[Place], op: Op) -> Iterator[Message]:
        """The same of those that are grouped."""
        served: list[Mapping[Subscriber, None]] = []
        for place in places:
            for groups in (self._early, self._groups) if self._early else (self._groups,):
                if (audiences := groups.get((place, op))) is None:
                    continue
                for audience, members in audiences.items():
                    rest: Collection[Subscriber] = members
                    for those in served:
                        rest = [subscriber for subscriber in rest if subscriber not in those]
                    if rest:
                        yield audience, rest
            if (narrower := self._narrower.get(place)) is not None:
                served.append(narrower)

    def _hits(self, change: Change, answers: AnswersByRole) -> Iterator[Hit]:
        """The listeners that a change is for, whatever they hear."""
        if change.op is not Op.TRUNCATE:
            return self.index(change.relation).matches(row_of(change), answers)
        places = places_of(change.relation.schema, change.relation.table)
        return (
            (listeners, None) for place in places for listeners in self._listeners.get(place, {}).values()
        )


def _take_out(kept: dict[K, dict[Subscriber, None]], key: K, subscriber: Subscriber) -> None:
    """Forget a subscriber there, if it is, and the key with the last one."""
    members = kept.get(key)
    if members is not None:
        members.pop(subscriber, None)
        if not members:
            del kept[key]
