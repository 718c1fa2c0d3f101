"""Which filtered bindings a row passes: an index over the filters of one version of a table.

Cost grows with the matches, not with the subscriptions: filters that ask for equal values are found by
value, those that are one bound by bisection; only the others are looked at one after the other. Runs on the
event loop only.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from rowcast.hub.bounds import Bounds
from rowcast.hub.feed import Subscriber
from rowcast.model.binding import Binding
from rowcast.model.predicate import NULL, Answers, Ask, Bound, Equal, Key, Predicate, Row
from rowcast.protocol.messages import Version

#: The answers for one row, by the role under which Postgres gave them.
AnswersByRole = Mapping[str, Answers]
_NONE: Final[Answers] = {}
Select = frozenset[str] | None


class Audience(NamedTuple):
    """What subscribers must have in common to be sent the very same bytes, and to be judged alike.

    ``group`` are those who are sent whole transactions; ``last`` says that nothing else about the change is
    sent to them.
    """

    role: str
    version: Version
    topic: str
    ids: tuple[int, ...]
    select: Select
    legacy: bool
    group: bool = False
    last: bool = True


@dataclass(eq=False, slots=True)
class Listeners:
    """The subscribers of one binding. ``predicates`` are its filter's, by version of a table.

    Those who have this binding ``alone`` are grouped by what they are sent; those who have it ``among``
    others are there with their role.
    """

    binding: Binding
    predicates: dict[int, Predicate] = field(default_factory=dict)
    alone: dict[Audience, dict[Subscriber, None]] = field(default_factory=dict)
    among: dict[Subscriber, str] = field(default_factory=dict)
    roles: dict[str, int] = field(default_factory=dict)
    indexes: set["FilterIndex"] = field(default_factory=set)
    _places: dict[Subscriber, Audience | str] = field(default_factory=dict)

    @property
    def members(self) -> Collection[Subscriber]:
        """Everyone."""
        return self._places.keys()

    def add(self, subscriber: Subscriber, place: Audience | str) -> None:
        """Take a subscriber in, under its audience or its role; one that is there already stays once."""
        if subscriber in self._places:
            return
        self._places[subscriber] = place
        if isinstance(place, Audience):
            self.alone.setdefault(place, {})[subscriber] = None
            role = place.role
        else:
            self.among[subscriber] = role = place
        self.roles[role] = self.roles.get(role, 0) + 1

    def remove(self, subscriber: Subscriber) -> None:
        """Take a subscriber out, if it is there."""
        place = self._places.pop(subscriber, None)
        if place is None:
            return
        if isinstance(place, Audience):
            del self.alone[place][subscriber]
            if not self.alone[place]:
                del self.alone[place]
            role = place.role
        else:
            del self.among[subscriber]
            role = place
        self.roles[role] -= 1
        if not self.roles[role]:
            del self.roles[role]


@dataclass(slots=True)
class _Column:
    """Who is found by what one key makes of a column's value: equal to one, or within a bound."""

    equal: dict[Any, dict[Listeners, Predicate]] = field(default_factory=dict)
    lower: Bounds[Listeners] = field(default_factory=lambda: Bounds(upper=False))
    upper: Bounds[Listeners] = field(default_factory=lambda: Bounds(upper=True))

    def __bool__(self) -> bool:
        return bool(self.equal or self.lower or self.upper)

    def bounds(self, bound: Bound) -> Bounds[Listeners]:
        """Those that it stands among."""
        return self.upper if bound.upper else self.lower


@dataclass(eq=False, slots=True)
class FilterIndex:
    """The listeners of one version of a table, and ``missing`` those whose filter is not ready for it.

    ``place`` is the table's schema and name.
    """

    relation: int
    place: tuple[str, str] = ("", "")
    missing: dict[Listeners, None] = field(default_factory=dict)
    _always: dict[Listeners, None] = field(default_factory=dict)
    _ready: dict[Listeners, Predicate] = field(default_factory=dict)
    _columns: dict[tuple[str, Key], _Column] = field(default_factory=dict)
    _scanned: dict[Listeners, Predicate] = field(default_factory=dict)
    _by_ask: dict[Ask, dict[Listeners, None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.missing) + len(self._always) + len(self._ready)

    def add(self, listeners: Listeners) -> None:
        """Take listeners in, as far as their filter is ready; or again, when it has become so."""
        self.remove(listeners)
        listeners.indexes.add(self)
        predicate = listeners.predicates.get(self.relation)
        if listeners.binding.filter is None:
            self._always[listeners] = None
        elif predicate is None:
            self.missing[listeners] = None
        else:
            self._ready[listeners] = predicate
            for ask in predicate.asks:
                self._by_ask.setdefault(ask, {})[listeners] = None
            if (entry := predicate.bound or predicate.equal) is None:
                self._scanned[listeners] = predicate
            else:
                self._enter(listeners, predicate, entry)

    def _enter(self, listeners: Listeners, predicate: Predicate, entry: Bound | Equal) -> None:
        if isinstance(entry, Equal) and not entry.values:
            return
        column = self._columns.setdefault((entry.column, entry.key), _Column())
        if isinstance(entry, Bound):
            column.bounds(entry).add(entry.value, inclusive=entry.inclusive, thing=listeners)
        else:
            for value in entry.values:
                column.equal.setdefault(value, {})[listeners] = predicate

    def clear(self) -> None:
        """Forget all listeners: the index is given up."""
        for listeners in (*self.missing, *self._always, *self._ready):
            listeners.indexes.discard(self)

    def remove(self, listeners: Listeners) -> None:
        """Forget listeners, if they are there."""
        listeners.indexes.discard(self)
        self.missing.pop(listeners, None)
        self._always.pop(listeners, None)
        # What it was taken in with: its filter may be another by now.
        predicate = self._ready.pop(listeners, None)
        if predicate is None:
            return
        for ask in predicate.asks:
            del self._by_ask[ask][listeners]
            if not self._by_ask[ask]:
                del self._by_ask[ask]
        if (entry := predicate.bound or predicate.equal) is None:
            del self._scanned[listeners]
        else:
            self._erase(listeners, entry)

    def _erase(self, listeners: Listeners, entry: Bound | Equal) -> None:
        if isinstance(entry, Equal) and not entry.values:
            return
        column = self._columns[entry.column, entry.key]
        if isinstance(entry, Bound):
            column.bounds(entry).remove(entry.value, inclusive=entry.inclusive, thing=listeners)
        else:
            for value in entry.values:
                del column.equal[value][listeners]
                if not column.equal[value]:
                    del column.equal[value]
        if not column:
            del self._columns[entry.column, entry.key]

    def matches(self, row: Row, answers: AnswersByRole) -> Iterator[tuple[Listeners, str | None]]:
        """The listeners that a row is for; with a role where it is for the members of that role alone."""
        for listeners in self._always:
            yield listeners, None
        for listeners, predicate in self._candidates(row):
            if not predicate.asks:
                if predicate.exact or predicate.passes(row, _NONE):
                    yield listeners, None
                continue
            for role in listeners.roles:
                if predicate.passes(row, answers.get(role, _NONE)):
                    yield listeners, role

    def asks(self, row: Row, *, leaving: bool = False) -> Iterator[tuple[str, Ask]]:
        """What has to be answered for a row, and under which role; ``leaving``: for one that was, and only
        for those who want to know that they lost it."""
        if self._by_ask:
            for listeners, predicate in self._candidates(row):
                if leaving and not listeners.binding.leave:
                    continue
                for ask in predicate.asks:
                    for role in listeners.roles:
                        yield role, ask

    def asking(self, ask: Ask) -> Collection[Listeners]:
        """The listeners whose filter has this condition."""
        return self._by_ask.get(ask, {})

    def _candidates(self, row: Row) -> Iterator[tuple[Listeners, Predicate]]:
        """Whose filters a row may pass; those that are ``exact`` it does pass."""
        for (name, key), column in self._columns.items():
            raw = row.get(name)
            if raw is None or raw == NULL:
                continue
            value = key(raw)
            if (found := column.equal.get(value)) is not None:
                yield from found.items()
            for bounds in (column.lower, column.upper):
                for listeners in bounds.within(value):
                    yield listeners, self._ready[listeners]
        yield from self._scanned.items()
