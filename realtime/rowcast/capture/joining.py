"""What becomes of a subscription: it hears the present, at once or after what it missed or a snapshot."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from rowcast.capture.acceptance import Acceptance, Accepted, Refused
from rowcast.capture.beginnings import Beginnings
from rowcast.capture.delivery import Delivery
from rowcast.capture.groups import NOWHERE, Member
from rowcast.capture.replays import Replays
from rowcast.capture.review import Review
from rowcast.hub.feed import Gap, Subscribed, Subscriber
from rowcast.hub.subscriptions import Predicates
from rowcast.model.binding import Binding
from rowcast.model.claims import Claims, Subject
from rowcast.model.position import Position, PositionError

log = structlog.get_logger("rowcast.capture")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A subscription that is asked for: what of it is good, and what was said of the rest."""

    subscriber: Subscriber
    bindings: Sequence[Binding]
    subject: Subject
    accepted: dict[Binding, Accepted]
    refused: list[str] = field(default_factory=list)

    @property
    def good(self) -> list[Binding]:
        return [binding for binding in self.bindings if binding in self.accepted]

    @property
    def ready(self) -> Mapping[Binding, Predicates]:
        return {binding: one.predicates for binding, one in self.accepted.items()}

    @property
    def judged(self) -> bool:
        return any(one.judged for one in self.accepted.values())

    @property
    def hears(self) -> bool:
        """Whether anything is left to hear: changes, or messages."""
        return bool(self.good) or self.subscriber.hearing is not None

    def subscribed(self, position: str | None) -> Subscribed:
        return Subscribed(tuple(self.refused), self.hears, position)

    def without(self, faults: Mapping[Binding, str]) -> "_Asked":
        """The same without the bindings that something was found against."""
        accepted = {binding: one for binding, one in self.accepted.items() if binding not in faults}
        return replace(self, accepted=accepted, refused=[*self.refused, *faults.values()])

    def member(self, place: Position = NOWHERE) -> Member:
        """It, at a place of the stream."""
        return Member(self.subscriber, self.good, self.subject, self.ready, self.judged, self.accepted, place)


class Joining:
    """Subscribes channels, and lets them go. ``catch_up`` waits until the present stands where it was when
    that was called, ``read_once`` for a read; ``look`` has the catalog looked at again."""

    def __init__(
        self,
        acceptance: Acceptance,
        live: Delivery,
        replays: Replays,
        review: Review,
        beginnings: Beginnings,
        *,
        catch_up: Callable[[], Awaitable[None]],
        read_once: Callable[[], Awaitable[None]],
        look: Callable[[], None],
    ) -> None:
        self._acceptance, self._live, self._replays, self._review = acceptance, live, replays, review
        self._beginnings = beginnings
        self._catch_up, self._read_once, self._look = catch_up, read_once, look
        self._works: dict[Subscriber, asyncio.Task[None]] = {}

    async def subscribe(
        self, subscriber: Subscriber, bindings: Sequence[Binding], claims: Claims, resume: str | None
    ) -> Subscribed:
        """Attach a subscriber, and return when a write made from now on is certain to be delivered."""
        asked = await self._accept(subscriber, bindings, claims)
        if (work := self._works.get(subscriber)) is not None:
            # It begins anew at this moment, which is no reason to begin twice.
            await asyncio.wait({work})
        if subscriber.gone:
            return Subscribed(tuple(asked.refused), ok=False, position=None)
        if (member := self._replays.get(subscriber)) is not None:
            return await self._change(member, asked)
        gap: Gap | None = None
        if resume is not None and asked.hears:
            place = await self._place(resume)
            if isinstance(place, Position):
                if not subscriber.gone:
                    self._replays.add(asked.member(place))
                return asked.subscribed(resume)
            gap = place
        if self._live.audiences.hears(subscriber) is None and _wants_snapshot(asked.good):
            member = asked.member()
            asked = asked.without(await self._beginnings.begin(member))
            if subscriber.gone:
                self._beginnings.go(member)
                return Subscribed(tuple(asked.refused), ok=False, position=None)
            if self._replays.get(subscriber) is member:
                position = member.place.encode()
                self._tell(subscriber, gap, position)
                self._beginnings.go(member)
                return asked.subscribed(position)
        return await self._attach(asked, gap)

    async def _accept(self, subscriber: Subscriber, bindings: Sequence[Binding], claims: Claims) -> _Asked:
        asked = _Asked(subscriber, bindings, claims.subject, {})
        for binding in bindings:
            try:
                one = await self._acceptance.accept(binding, claims.role)
                if (fault := self._live.questions.refusal(subscriber.lane, one.predicates)) is not None:
                    raise Refused(fault)
                asked.accepted[binding] = one
            except Refused as refusal:
                asked.refused.append(str(refusal))
        return asked

    async def _change(self, member: Member, asked: _Asked) -> Subscribed:
        """A channel that resumes is somebody else from now on, perhaps."""
        if not asked.hears:
            self._replays.forget(member.subscriber)
            return asked.subscribed(None)
        member.accepted = asked.accepted
        await self._replays.attach(member, asked.good, asked.subject, asked.ready, judged=asked.judged)
        open_ = member.subscriber.transaction
        return asked.subscribed(self._replays.where(member) if open_ is None else open_.before)

    async def _attach(self, asked: _Asked, gap: Gap | None) -> Subscribed:
        """Let a subscriber hear the present."""
        subscriber, accepted = asked.subscriber, asked.accepted
        nothing = Subscribed(tuple(asked.refused), ok=False, position=None)
        # What fitted before may do so again: it sleeps until then.
        fitted = self._review.fitted(subscriber)
        asleep = [one for one in fitted if one in asked.bindings and one not in accepted]
        position = await self._live.moves.attach(
            subscriber, asked.good, asked.subject, asked.ready, judged=asked.judged
        )
        if subscriber.gone:
            return nothing
        self._review.sleep(subscriber, asked.subject, asleep)
        if not asked.hears:
            return nothing
        self._stands(subscriber, accepted)
        self._tell(subscriber, gap, position)
        await self._read_once()
        return asked.subscribed(position)

    def _stands(self, subscriber: Subscriber, accepted: Mapping[Binding, Accepted]) -> None:
        if not all([self._review.stands(subscriber, binding, one) for binding, one in accepted.items()]):
            self._look()

    @staticmethod
    def _tell(subscriber: Subscriber, gap: Gap | None, position: str | None) -> None:
        if gap is not None:
            subscriber.missed(replace(gap, position=position))

    async def _place(self, text: str) -> Position | Gap:
        """The place that a position means, once the present covers it; or why it cannot be resumed from."""
        try:
            place = Position.decode(text)
        except PositionError:
            return Gap("unreadable", text)
        # Its client may come from another node, which had read further.
        await self._catch_up()
        present = self._live.reader.place
        assert present is not None
        if present.epoch != place.epoch:
            return Gap("history", text)
        return place if present.start.covers(place.end or place.start) else Gap("future", text)

    # Those who resume

    def arrive(self, member: Member) -> None:
        """A member stands where the live reader does, which waits: it hears the present from here on."""
        self._live.audiences.attach(
            member.subscriber, member.bindings, member.subject, member.ready, judged=member.judged
        )
        accepted = member.accepted
        self._stands(member.subscriber, {one: accepted[one] for one in member.bindings if one in accepted})

    def miss(self, member: Member, reason: str) -> None:
        """A member cannot go on from where it stands: it begins anew, and is told."""
        # Of no position either, before it knows of the gap.
        subscriber = member.subscriber
        subscriber.behind, subscriber.transaction = True, None
        work = asyncio.ensure_future(self._begin_anew(member, Gap(reason, member.place.encode())))
        self._works[subscriber] = work
        work.add_done_callback(lambda _: self._works.pop(subscriber, None))

    def end(self) -> None:
        """Give up what is under way."""
        for work in list(self._works.values()):
            work.cancel()
        self._beginnings.end()

    async def _begin_anew(self, member: Member, gap: Gap) -> None:
        try:
            await self._begun_anew(member, gap)
        except Exception as error:
            # A name and no arguments: an error's text may hold rows.
            log.error("subscription_lost", error=type(error).__name__)
            if not member.subscriber.gone:
                member.subscriber.lost()

    async def _begun_anew(self, member: Member, gap: Gap) -> None:
        subscriber = member.subscriber
        if _wants_snapshot(member.bindings):
            faults = await self._beginnings.begin(member)
            if subscriber.gone:
                self._beginnings.go(member)
                return
            for text in faults.values():
                subscriber.told("error", text)
            if self._replays.get(subscriber) is member:
                self._tell(subscriber, gap, member.place.encode())
                self._beginnings.go(member)
                return
        # A new token may have come meanwhile, and what it may hear stands.
        wants = member.bindings or subscriber.hearing is not None
        if not subscriber.gone and self._live.audiences.hears(subscriber) is None and wants:
            position = await self._live.moves.attach(
                subscriber, member.bindings, member.subject, member.ready, judged=member.judged
            )
            if not subscriber.gone:
                self._stands(subscriber, member.accepted)
                self._tell(subscriber, gap, position)
        subscriber.behind = False


def _wants_snapshot(bindings: Sequence[Binding]) -> bool:
    return any(binding.snapshot is not None for binding in bindings)
