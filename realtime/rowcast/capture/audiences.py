"""The subscribers, in two groups: whose filters Python can judge, and who waits for what Postgres says.

A channel is in one of them as a whole, so that its changes keep their order.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Final

from rowcast.capture.filters import FilterError, Filters
from rowcast.db.connection import Session
from rowcast.hub.feed import Subscriber
from rowcast.hub.hearers import Hearers
from rowcast.hub.matching import Listeners
from rowcast.hub.places import Place
from rowcast.hub.sending import MayRead
from rowcast.hub.subscriptions import Predicates, Subscriptions
from rowcast.model.binding import Binding
from rowcast.model.change import Relation
from rowcast.model.claims import Subject
from rowcast.model.predicate import NEVER

#: Others have their turn after so many filters were made ready.
_TURN: Final = 256


class Audiences:
    """``plain`` are sent a change at once, ``asking`` when its questions were answered. ``hearers`` are those
    who hear messages, whether they hear changes or not."""

    def __init__(self, plain: Subscriptions) -> None:
        self.plain = plain
        self.asking = Subscriptions(limit=plain.limit, counts=plain.counts)
        self.hearers = Hearers()
        #: Versions of tables of which no more rows will come.
        self.stale: set[int] = set()

    @property
    def version(self) -> int:
        """Grows whenever somebody subscribes or leaves."""
        return self.plain.version + self.asking.version

    def subscribers(self) -> list[Subscriber]:
        """Everyone."""
        both = (subscriber for subscriptions in self._both() for subscriber in subscriptions.subscribers())
        return list(dict.fromkeys([*both, *self.hearers.subscribers()]))

    def __len__(self) -> int:
        return len(self.subscribers())

    def attach(
        self,
        subscriber: Subscriber,
        bindings: Sequence[Binding],
        subject: Subject,
        ready: Mapping[Binding, Predicates],
        *,
        judged: bool = False,
    ) -> None:
        """Subscribe, or change what is subscribed; no change falls between the two.

        ``judged`` says that Postgres has to judge rows for it. Who asked stays among the asking, since
        changes may wait there. What was ready of a binding stays so.
        """
        asks = subscriber in self.asking or judged or self._asks(bindings, ready)
        heard = self.hears(subscriber)
        if heard is not None:
            ready = {binding: {**heard[2].get(binding, {}), **ready.get(binding, {})} for binding in bindings}
        self.detach(subscriber)
        if bindings:
            (self.asking if asks else self.plain).attach(subscriber, bindings, subject, ready)
        else:
            # What it has of a transaction is all that it hears of it.
            self.plain.transactions.finish(subscriber)
        subscriber.subject = subject
        self.hearers.attach(subscriber)

    def moves(
        self,
        subscriber: Subscriber,
        bindings: Sequence[Binding],
        ready: Mapping[Binding, Predicates],
        *,
        judged: bool = False,
    ) -> bool:
        """Whether a subscriber is attached only while no change waits for an answer: one that begins to ask
        was sent those already, and one that hears messages alone from now on is yet to be sent those between
        them."""
        if subscriber in self.asking:
            return not bindings and subscriber.hearing is not None
        return subscriber in self.plain and (judged or self._asks(bindings, ready))

    def unjudged(self, relation: Relation, may_read: MayRead) -> list[Subscriber]:
        """Whose rows of a table have to be judged from now on, and who does not ask yet."""
        if not self.plain.known(relation):
            return []
        judged: dict[str, bool] = {}
        movers = []
        for subscriber in self.plain.hearers(relation):
            role = subscriber.subject.role
            if role not in judged:
                reading = may_read(role, relation)
                judged[role] = reading is not None and reading.judged
            if judged[role]:
                movers.append(subscriber)
        return movers

    @staticmethod
    def _asks(bindings: Sequence[Binding], ready: Mapping[Binding, Predicates]) -> bool:
        return any(one.asks for binding in bindings for one in ready.get(binding, {}).values())

    def detach(self, subscriber: Subscriber) -> None:
        """Forget a subscriber, if it is known."""
        for subscriptions in self._both():
            subscriptions.detach(subscriber)
        self.hearers.detach(subscriber)

    def hears(
        self, subscriber: Subscriber
    ) -> tuple[Sequence[Binding], Subject, Mapping[Binding, Predicates]] | None:
        """What a subscriber is subscribed to, and as whom, and what is ready of its filters."""
        for subscriptions in self._both():
            if subscriber in subscriptions:
                bindings, predicates = (
                    subscriptions.bindings(subscriber),
                    subscriptions.predicates(subscriber),
                )
                return bindings, subscriber.subject, predicates
        return ((), subscriber.subject, {}) if subscriber in self.hearers else None

    def known(self, relation: Relation) -> bool:
        """Whether anyone asked for changes of this table, of whatever kind."""
        return any(subscriptions.known(relation) for subscriptions in self._both())

    def places(self) -> set[Place]:
        """The names that somebody subscribed to."""
        return {place for subscriptions in self._both() for place in subscriptions.places()}

    def at(self, place: Place) -> Iterator[Subscriber]:
        """Who subscribed to a name."""
        for subscriptions in self._both():
            yield from subscriptions.places().get(place, ())

    def versions(self) -> set[int]:
        """The versions of tables that filters were made ready for."""
        return self.plain.versions() | self.asking.versions()

    def forget_stale(self) -> None:
        """Forget the versions that are ``stale``. Not while a change that was made ready for waits."""
        for subscriptions in self._both():
            subscriptions.forget(self.stale)
        self.stale.clear()

    def is_ready(self, relation: Relation) -> bool:
        """Whether every filter on a version of a table is ready for its rows."""
        return not any(
            subscriptions.known(relation) and subscriptions.index(relation).missing
            for subscriptions in self._both()
        )

    async def make_ready(self, connection: Session, filters: Filters, relation: Relation) -> list[Subscriber]:
        """Make every filter on a version of a table ready for its rows. Returns who has to ask from now on,
        and does not yet: ``attach`` them again."""
        await self.make_asking_ready(connection, filters, relation)
        movers: dict[Subscriber, None] = {}
        async for listeners, asks in self._made_ready(self.plain, connection, filters, relation):
            if asks:
                movers |= dict.fromkeys(listeners.members)
        return list(movers)

    async def make_asking_ready(self, connection: Session, filters: Filters, relation: Relation) -> None:
        """The same for those who ask already."""
        async for _ in self._made_ready(self.asking, connection, filters, relation):
            pass

    async def _made_ready(
        self, subscriptions: Subscriptions, connection: Session, filters: Filters, relation: Relation
    ) -> AsyncIterator[tuple[Listeners, bool]]:
        """Those whose filter became ready, and whether it asks."""
        if not subscriptions.known(relation):
            return
        missing = list(subscriptions.index(relation).missing)
        by_role: dict[str, list[Binding]] = {}
        for listeners in missing:
            by_role.setdefault(next(iter(listeners.roles)), []).append(listeners.binding)
        for role, bindings in by_role.items():
            await filters.cast_ahead(connection, relation, bindings, role)
        for number, listeners in enumerate(missing, start=1):
            if number % _TURN == 0:
                await asyncio.sleep(0)
            if not listeners.members:
                continue
            role = next(iter(listeners.roles))
            try:
                predicate = await filters.prepare(
                    connection, relation, listeners.binding, role, listeners.predicates
                )
            except FilterError:
                # The table is another one by now. The review of what changed tells its subscribers.
                predicate = NEVER
            subscriptions.ready(listeners, {relation.id: predicate or NEVER})
            yield listeners, predicate is not None and bool(predicate.asks)

    def _both(self) -> tuple[Subscriptions, Subscriptions]:
        return self.plain, self.asking
