"""What became of subscriptions when the catalog changed: held against it again, and their subscribers told.

Only what changed is looked at: for each name that somebody subscribed to, which tables it stands for now, in
which versions, and who may read them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from rowcast.capture.acceptance import Acceptance, Accepted, Named, Refused
from rowcast.capture.audiences import Audiences
from rowcast.capture.tables import Table
from rowcast.db.connection import Session
from rowcast.hub.feed import Subscriber
from rowcast.hub.places import Place
from rowcast.hub.subscriptions import Predicates
from rowcast.model.binding import Binding
from rowcast.model.claims import Subject

SUBSCRIBED: Final = "Subscribed to PostgreSQL"
#: Others have their turn after so many bindings.
_TURN: Final = 256

_Verdicts = dict[tuple[Binding, str], Accepted | str]


class Attach(Protocol):
    """Attaches a subscriber: what ``Moves.attach`` does."""

    async def __call__(
        self,
        subscriber: Subscriber,
        bindings: Sequence[Binding],
        subject: Subject,
        ready: Mapping[Binding, Predicates],
        *,
        judged: bool = False,
    ) -> str | None: ...


class Review:
    """Remembers which tables each name stood for, and which bindings sleep until they fit again."""

    def __init__(
        self,
        acceptance: Acceptance,
        audiences: Audiences,
        settle: Callable[[], Awaitable[None]],
        read_once: Callable[[], Awaitable[None]],
        attach: Attach,
    ) -> None:
        self._acceptance, self._audiences = acceptance, audiences
        self._settle, self._read_once, self._attach = settle, read_once, attach
        self._stood: dict[Place, frozenset[Table]] = {}
        self._asleep: dict[Subscriber, tuple[Subject, dict[Binding, None]]] = {}
        #: Who subscribed since the catalog was looked at last.
        self._fresh: set[Subscriber] = set()

    def stands(self, subscriber: Subscriber, binding: Binding, accepted: Accepted) -> bool:
        """A binding was accepted for what its name stood for. Whether that is what is known; if not, look
        again."""
        self._fresh.add(subscriber)
        place = (binding.schema, binding.table)
        known = self._stood.setdefault(place, accepted.tables)
        self._stood[place] = accepted.tables
        return known == accepted.tables

    def fitted(self, subscriber: Subscriber) -> list[Binding]:
        """What a subscriber hears, and what sleeps."""
        awake, _, _ = self._hears(subscriber)
        asleep = self._sleeping(subscriber)
        return [*awake, *asleep]

    def sleep(self, subscriber: Subscriber, subject: Subject, bindings: Sequence[Binding]) -> None:
        """These bindings do not fit now, and sleep until they do."""
        if bindings:
            self._asleep[subscriber] = (subject, dict.fromkeys(bindings))
        else:
            self._asleep.pop(subscriber, None)

    def forget(self, subscriber: Subscriber) -> None:
        """A subscriber is gone, or subscribes anew."""
        self._asleep.pop(subscriber, None)
        self._fresh.discard(subscriber)

    async def hold(self, connection: Session) -> None:
        """Look at everything that may have changed. Call when the catalog did, and from time to time."""
        before, versions = dict(self._stood), self._audiences.versions()
        self._fresh.clear()
        if not before and not self._asleep:
            return
        tables = await self._acceptance.catalog(connection)
        named = Named(tables)
        now = {place: frozenset(named.at(*place)) for place in self._audiences.places()}
        changed = {place for place in now if before.get(place, now[place]) != now[place]}
        # Who subscribed meanwhile was accepted for what stands now, and told so.
        affected = {
            subscriber: None
            for place in changed
            for subscriber in self._audiences.at(place)
            if subscriber not in self._fresh
        } | dict.fromkeys(self._asleep)
        verdicts: _Verdicts = {}
        for number, subscriber in enumerate(affected, start=1):
            if number % _TURN == 0:
                await asyncio.sleep(0)
            await self._judge(connection, subscriber, changed, named, verdicts)
        # What was accepted meanwhile may be older than what was looked up: it is compared the next time.
        accepted = {place: stood for place, stood in self._stood.items() if before.get(place) is not stood}
        self._stood = now | accepted
        if affected:
            # What was written before the catalog changed is still for whoever was subscribed then.
            await self._settle()
        for subscriber in affected:
            await self._tell(subscriber, verdicts, before)
        if affected:
            # All their rows were committed before the catalog was read, and have been sent by now.
            self._audiences.stale |= versions - {one for table in tables for one in table.relations}

    def _sleeping(self, subscriber: Subscriber) -> Mapping[Binding, None]:
        return self._asleep[subscriber][1] if subscriber in self._asleep else {}

    def _hears(
        self, subscriber: Subscriber
    ) -> tuple[Sequence[Binding], Subject, Mapping[Binding, Predicates]]:
        """What a subscriber hears now, and as whom, and what is ready of its filters."""
        heard = self._audiences.hears(subscriber)
        if heard is not None:
            return heard
        return (), self._asleep[subscriber][0] if subscriber in self._asleep else subscriber.subject, {}

    async def _judge(
        self,
        connection: Session,
        subscriber: Subscriber,
        changed: set[Place],
        named: Named,
        verdicts: _Verdicts,
    ) -> None:
        awake, subject, ready = self._hears(subscriber)
        role, asleep = subject.role, self._sleeping(subscriber)
        touched = [binding for binding in awake if (binding.schema, binding.table) in changed]
        for binding in (*touched, *asleep):
            if (binding, role) in verdicts:
                continue
            found = named.at(binding.schema, binding.table)
            try:
                verdicts[binding, role] = await self._acceptance.judge(
                    connection, binding, role, found, ready.get(binding, {})
                )
            except Refused as refusal:
                verdicts[binding, role] = str(refusal)

    async def _tell(
        self, subscriber: Subscriber, verdicts: _Verdicts, before: Mapping[Place, frozenset[Table]]
    ) -> None:
        if subscriber.gone:
            return
        awake, subject, ready = self._hears(subscriber)
        role, asleep = subject.role, self._sleeping(subscriber)
        given = {binding: verdicts.get((binding, role)) for binding in (*awake, *asleep)}
        faults = {binding: text for binding in awake if isinstance(text := given[binding], str)}
        woken = [binding for binding in asleep if isinstance(given[binding], Accepted)]
        others = [
            binding for binding in awake
            if isinstance(verdict := given[binding], Accepted)
            and _oids(verdict.tables) != _oids(before.get((binding.schema, binding.table), frozenset()))
        ]  # fmt: skip
        sleeping = dict.fromkeys([*(one for one in asleep if one not in woken), *faults])
        if sleeping:
            self._asleep[subscriber] = (subject, sleeping)
        else:
            self._asleep.pop(subscriber, None)
        if faults or woken:
            more = {
                one: verdict.predicates for one, verdict in given.items() if isinstance(verdict, Accepted)
            }
            kept = [binding for binding in awake if binding not in faults]
            judged = any(verdict.judged for verdict in given.values() if isinstance(verdict, Accepted))
            await self._attach(subscriber, [*kept, *woken], subject, {**ready, **more}, judged=judged)
        if woken or others:
            # From here on a write is certain to be delivered.
            await self._read_once()
        for text in faults.values():
            subscriber.told("error", text)
        if woken or others:
            subscriber.told("ok", SUBSCRIBED)


def _oids(tables: frozenset[Table]) -> frozenset[int]:
    return frozenset(table.oid for table in tables)
