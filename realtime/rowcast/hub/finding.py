"""Whom a change goes to, as messages: one for each `select` of a channel.

Runs on the event loop only; nothing here waits.
"""

from collections.abc import Collection, Iterable, Iterator

from rowcast.hub.feed import Subscriber
from rowcast.hub.matching import Audience, Listeners, Select
from rowcast.hub.places import Place, places_of
from rowcast.hub.sending import Sending
from rowcast.model.binding import WILDCARD, Binding
from rowcast.model.change import Op

#: Listeners that a row is for; with a role where it is for the members of that role alone.
Hit = tuple[Listeners, str | None]
Message = tuple[Audience, Collection[Subscriber]]
#: The ids that a channel is sent a change with, by `select`.
_Ids = dict[Subscriber, dict[Select, list[int]]]


def hears(binding: Binding, op: Op) -> bool:
    """Whether a binding is for changes of this kind."""
    if op is Op.LEAVE:
        return binding.leave and binding.event in (WILDCARD, Op.UPDATE)
    if op is Op.TRUNCATE:
        return binding.truncate and binding.event == WILDCARD
    return binding.event == WILDCARD or binding.event == op


def select_of(binding: Binding) -> Select:
    """The columns that a binding asks for."""
    return None if binding.select is None else frozenset(binding.select)


def audience_of(subscriber: Subscriber, ids: Iterable[int], select: Select, *, last: bool) -> Audience:
    """Among whom a subscriber is sent a change with these ids. It is subscribed already."""
    return Audience(
        subscriber.subject.role,
        subscriber.version,
        subscriber.topic,
        tuple(ids),
        select,
        subscriber.legacy,
        subscriber.group,
        last,
    )


def grouped_by(
    subscriber: Subscriber, bindings: Iterable[Binding]
) -> Iterator[tuple[tuple[Place, Op], Audience]]:
    """Where a subscriber that is grouped stands, and among whom: one message for each `select`."""
    by_place: dict[Place, list[Binding]] = {}
    for binding in bindings:
        by_place.setdefault((binding.schema, binding.table), []).append(binding)
    ids: dict[tuple[Place, Op], dict[Select, list[int]]] = {}
    for place in by_place:
        for binding in (binding for one in places_of(*place) for binding in by_place.get(one, ())):
            for op in Op:
                if hears(binding, op):
                    by_select = ids.setdefault((place, op), {})
                    by_select.setdefault(select_of(binding), []).append(binding.id)
    for (place, op), by_select in ids.items():
        for number, (select, of) in enumerate(by_select.items(), start=1):
            yield (place, op), audience_of(subscriber, of, select, last=number == len(by_select))


def found(hits: Iterable[Hit], op: Op, sending: Sending) -> Iterator[Message]:
    """Who hears of a change by these hits. A channel has its last message about it last."""
    ids: _Ids = {}
    for listeners, role in hits:
        binding = listeners.binding
        if not hears(binding, op):
            continue
        for audience, members in listeners.alone.items():
            if (role is None or role == audience.role) and sending.hears(audience.role, binding):
                yield audience, members
        for subscriber, its in listeners.among.items():
            if (role is None or role == its) and sending.hears(its, binding):
                _add(ids, subscriber, binding)
    if ids:
        yield from _messages(ids)


def found_leaving(
    old: Iterable[Hit], new: Iterable[Hit], left: Sending, sending: Sending
) -> Iterator[tuple[Sending, Message]]:
    """Whom an UPDATE's row left, by the hits of the old row; who hears of it, by those of the new.

    ``left`` sends the LEAVE, which comes first, and ``sending`` the UPDATE.
    """
    new = list(new)
    passed: dict[Listeners, set[str | None]] = {}
    nobody = set[str | None]()
    for listeners, role in new:
        passed.setdefault(listeners, set()).add(role)
    ids: _Ids = {}
    for listeners, role in old:
        binding = listeners.binding
        if not hears(binding, Op.LEAVE):
            continue
        roles = passed.get(listeners, nobody)
        for audience, members in listeners.alone.items():
            its = audience.role
            if (role is None or role == its) and left.hears(its, binding):
                passes = None in roles or its in roles
                yield left, (audience, not_shown(its, members, sending) if passes else members)
        for subscriber, its in listeners.among.items():
            if (role is None or role == its) and left.hears(its, binding):
                passes = None in roles or its in roles
                if not (passes and sending.shows(subscriber)):
                    _add(ids, subscriber, binding)
    updates = list(found(new, Op.UPDATE, sending))
    updated = {one for _, members in updates for one in members if one in ids and sending.shows(one)}
    yield from ((left, message) for message in _messages(ids, updated))
    yield from ((sending, message) for message in updates)


def not_shown(role: str, members: Collection[Subscriber], sending: Sending) -> Collection[Subscriber]:
    """Those of one role who are not shown a change that is for them."""
    return [one for one in members if not sending.shows(one)] if sending.judged(role) else ()


def _add(ids: _Ids, subscriber: Subscriber, binding: Binding) -> None:
    ids.setdefault(subscriber, {}).setdefault(select_of(binding), []).append(binding.id)


def _messages(ids: _Ids, more: Collection[Subscriber] = ()) -> Iterator[Message]:
    """One message for each `select`. Those in ``more`` are sent others about the same change afterwards."""
    early: dict[Audience, list[Subscriber]] = {}
    final: dict[Audience, list[Subscriber]] = {}
    for subscriber, by_select in ids.items():
        open_ = len(by_select)
        for select, its in by_select.items():
            open_ -= 1
            last = not open_ and subscriber not in more
            audience = audience_of(subscriber, sorted(its), select, last=last)
            (final if last else early).setdefault(audience, []).append(subscriber)
    yield from early.items()
    yield from final.items()
