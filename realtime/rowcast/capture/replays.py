"""Channels that resume: what they missed is read again, until they are where everybody is.

Who stands at the same place is a group, and is read for together. A worker brings a group on by a leg, up to
a recorded snapshot (a mark) at most: there groups meet and go on as one, so that a crowd that comes back at
once is read for about once. Each leg is made of short statements, and of pieces that wait until those who are
sent them have room; who has none for long goes on alone. Nothing is held between two legs but the place.

The last leg is read while the live reader waits for it, between two of its batches: it then ends exactly
where the live reader stands, and the group joins those who hear the present. That leg is short, as the group
was at the present a moment ago; where it takes too long the reader goes on, and the group tries again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

import asyncpg
import structlog

from rowcast.capture import outbox
from rowcast.capture.delivery import Delivery
from rowcast.capture.groups import Group, Member, Turn
from rowcast.capture.parts import beside
from rowcast.capture.precedence import Precedence
from rowcast.capture.reader import HistoryLost, Reader
from rowcast.db.connection import AWAY
from rowcast.hub.feed import Subscriber
from rowcast.hub.lanes import Lane
from rowcast.hub.subscriptions import Predicates
from rowcast.model.binding import Binding
from rowcast.model.claims import Subject
from rowcast.model.position import Position, Snapshot

#: A leg ends at the last mark of a stretch of so many transactions.
_STRETCH: Final = 2048
#: Bytes that may wait for a client before its group waits for it, and those below which it goes on.
_FULL: Final = 1024 * 1024
_LOW: Final = 256 * 1024
#: Seconds that a group waits for one of its clients, and after which such a client is cut.
_WAIT_SECONDS: Final = 1.0
_STALL_SECONDS: Final = 30.0
#: How long the live reader waits for a last leg at first, and how often it does, twice as long each time.
_TURN_SECONDS: Final = 0.1
_TURNS: Final = 6
#: After so long without work a worker gives its connections back.
_IDLE_SECONDS: Final = 60.0

log = structlog.get_logger("rowcast.replays")


class Replays:
    """Those who resume. ``arrive`` lets a member hear the present from now on; ``miss`` is told of one that
    cannot go on, and why. ``live`` is what hands out the present, and ``wake`` wakes its reader."""

    def __init__(
        self,
        arrive: Callable[[Member], None],
        miss: Callable[[Member, str], None],
        live: Delivery,
        wake: asyncio.Event,
    ) -> None:
        self._arrive, self._miss, self._live, self._wake = arrive, miss, live, wake
        self._members: dict[Subscriber, Member] = {}
        self._groups: dict[Position, Group] = {}
        self._turns: list[Turn] = []
        self._more = asyncio.Event()
        self._parked: set[asyncio.Task[None]] = set()
        self.precedence = Precedence()

    def __len__(self) -> int:
        return len(self._members)

    def get(self, subscriber: Subscriber) -> Member | None:
        """A channel that resumes, if it does."""
        return self._members.get(subscriber)

    def add(self, member: Member) -> None:
        """Take a member in. Its place is covered by the present, and of the same history."""
        self.hold(member)
        self.release(member)

    def hold(self, member: Member) -> None:
        """Take a member in that stays at its place until it is released."""
        self._members[member.subscriber] = member
        member.subscriber.behind = True
        if member.subscriber.hearing is not None:
            member.subscriber.hearing.began = True

    def release(self, member: Member) -> None:
        """Bring a member on that was held, unless it is gone."""
        self._put(member)

    def where(self, member: Member) -> str:
        """The position up to which a member was sent everything."""
        here = None if member.at is None else member.at.here_of(member.subscriber)
        return (here or member.place).encode()

    async def attach(
        self,
        member: Member,
        bindings: Sequence[Binding],
        subject: Subject,
        ready: Mapping[Binding, Predicates],
        *,
        judged: bool,
    ) -> None:
        """Change what a member is subscribed to, or as whom; no change falls between the two."""
        if member.at is not None:
            await member.at.moves.attach(member.subscriber, bindings, subject, ready, judged=judged)
        else:
            member.bindings, member.subject, member.ready, member.judged = bindings, subject, ready, judged

    def forget(self, subscriber: Subscriber) -> None:
        """A channel is gone, if it is one of these."""
        member = self._members.pop(subscriber, None)
        if member is None:
            return
        subscriber.behind = False
        if member.at is not None:
            member.at.audiences.detach(subscriber)
        group = self._groups.get(member.place)
        if group is not None:
            group.members.pop(subscriber, None)
            if not group.members:
                del self._groups[member.place]

    def lose_asking(self, delivery: Delivery, text: str) -> None:
        """Those of a delivery who wait for Postgres get no answer."""
        delivery.questions.clear()
        self.lose(delivery.audiences.asking.subscribers(), text)

    def lose(self, subscribers: Collection[Subscriber], text: str) -> None:
        """These miss changes: they go on from the present, and are told."""
        log.warning("replay_lost", reason=text, subscribers=len(subscribers))
        for subscriber in subscribers:
            if (member := self._members.get(subscriber)) is not None:
                self.forget(subscriber)
                self._miss(member, "behind")

    def _put(self, member: Member, *, near: bool = False, turns: int = 0) -> None:
        """A member waits at its place to be brought on, if it is still there."""
        if self._members.get(member.subscriber) is member:
            group = self._groups.setdefault(member.place, Group())
            group.members[member.subscriber] = member
            group.near, group.turns = group.near or near, max(group.turns, turns)
            self._more.set()

    # For the live reader

    async def admit(self) -> None:
        """Wait while those who are nearly there are brought to where the reader stands."""
        for turn in list(self._turns):
            place = self._live.reader.place
            if place is None or place.end is not None or turn.called.done():
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(turn.seconds):
                    if turn.asks:
                        # What waits there already would be sent to them again.
                        await self._live.questions.drain()
                    turn.called.set_result(place)
                    await turn.over.wait()
            turn.late = turn.called.done() and not turn.over.is_set()

    # Workers

    async def work(
        self,
        make_delivery: Callable[[Reader], Delivery],
        connect: Callable[[str], Awaitable[asyncpg.Connection]],
        size: int,
        *,
        pooled: bool,
        newest: bool,
    ) -> None:
        """Bring groups on until a connection is lost; raises then. Call again to go on.

        ``newest`` are first those who are nearest to the present, who need little; else those furthest from
        it. ``size`` is that of a page, in rows.
        """
        while True:
            await self._wait()
            delivery = make_delivery(Reader(size))
            connection = await connect("replay")
            try:
                await delivery.reader.open(connection, pooled=pooled)
                answering = delivery.questions.run(connect("replay filters"), lambda: None)
                await beside(self._brought_on(connection, delivery, size, newest=newest), answering)
            finally:
                connection.terminate()

    async def _wait(self) -> None:
        while not self._groups:
            self._more.clear()
            await self._more.wait()

    async def _brought_on(
        self, connection: asyncpg.Connection, delivery: Delivery, size: int, *, newest: bool
    ) -> None:
        try:
            await self._bring_on(connection, delivery, size, newest=newest)
        finally:
            # At once: else asyncpg goes about having a statement cancelled that nobody waits for.
            connection.terminate()

    async def _bring_on(
        self, connection: asyncpg.Connection, delivery: Delivery, size: int, *, newest: bool
    ) -> None:
        """Bring one group after the other on, until there has been none for a while."""
        choose = max if newest else min
        while True:
            try:
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self._wait()
            except TimeoutError:
                return
            place = choose(self._groups, key=lambda one: (one.end or one.start).xmax)
            group = self._groups.pop(place)
            try:
                await self._step(connection, delivery, group, place, size)
            except HistoryLost as lost:
                self._lose(group, lost.reason, str(lost))
            except (*AWAY, asyncpg.QueryCanceledError, asyncio.CancelledError):
                for member in group.members.values():
                    self._put(member)
                raise
            except Exception as error:
                # It would fail again: nobody else must wait for that. A name and no arguments, as an error's
                # text may hold rows.
                log.error("replay_failed", error=type(error).__name__, subscribers=len(group.members))
                for member in group.members.values():
                    self.forget(member.subscriber)
                    member.subscriber.lost()

    async def _step(
        self, connection: asyncpg.Connection, delivery: Delivery, group: Group, place: Position, size: int
    ) -> None:
        """Bring a group on by one leg."""
        present = self._live.reader.place
        if present is None or present.epoch != place.epoch:
            raise HistoryLost("the database has another history than before")
        try:
            delivery.reader.go_to(place)
        except HistoryLost:
            # It is this connection that belongs to another, and nothing has told it yet that it is dead.
            raise ConnectionResetError("the database has another history than this connection's") from None
        if not present.start.covers(place.end or place.start):
            raise HistoryLost("the position is ahead of the database", "future")
        if group.near:
            await self._last_leg(connection, delivery, group)
            return
        end = await _end_of_leg(connection, place.end or place.start, present.start)
        changes = await self._leg(connection, delivery, group, end)
        near = end == present.start and changes <= size
        for member in group.members.values():
            self._put(member, near=near)

    async def _last_leg(self, connection: asyncpg.Connection, delivery: Delivery, group: Group) -> None:
        """Bring a group to where the live reader waits, and let it in there."""
        turn = Turn(group.asks, _TURN_SECONDS * 2**group.turns)
        self._turns.append(turn)
        self._wake.set()
        try:
            place = await turn.called
            if place.epoch != (delivery.reader.place or place).epoch:
                raise HistoryLost("the database has another history than before")
            await self._leg(connection, delivery, group, place.start)
            for member in group.members.values():
                if not turn.late and member.place == place:
                    self.forget(member.subscriber)
                    self._arrive(member)
        finally:
            self._turns.remove(turn)
            turn.over.set()
        if turn.late and group.turns == _TURNS:
            self._lose(group, "behind", "what judges their changes is too slow")
        elif turn.late:
            for member in group.members.values():
                self._put(member, near=True, turns=group.turns + 1)

    async def _leg(
        self, connection: asyncpg.Connection, delivery: Delivery, group: Group, end: Snapshot
    ) -> int:
        """Read for a group up to ``end``. Returns how many changes there were. However it ends, each member
        stands where it was brought."""
        self._sweep(group)
        for member in group.members.values():
            member.at = delivery
            delivery.audiences.attach(
                member.subscriber, member.bindings, member.subject, member.ready, judged=member.judged
            )
        pages = delivery.reader.read_to(connection, end, delivery.unheard())
        try:
            return await delivery.hand_out(connection, pages, pause=lambda: self._pause(delivery, group))
        finally:
            seated = [member for member in group.members.values() if member.at is delivery]
            places = [delivery.here_of(member.subscriber) for member in seated]
            delivery.questions.clear()
            # Who was changed meanwhile leaves as what it is now.
            delivery.moves.finish()
            for member, place in zip(seated, places, strict=True):
                self._unseat(member, delivery, place)

    def _unseat(self, member: Member, delivery: Delivery, place: Position | None) -> None:
        heard = delivery.audiences.hears(member.subscriber)
        member.at = None
        if heard is None or place is None:
            # It is gone, or nothing is left that it hears.
            if self._members.get(member.subscriber) is member:
                self.forget(member.subscriber)
            return
        member.bindings, member.subject, member.ready = heard
        member.judged = member.subscriber in delivery.audiences.asking
        member.place = place
        delivery.audiences.detach(member.subscriber)

    async def _pause(self, delivery: Delivery, group: Group) -> bool:
        """Wait until a piece was sent to all and they have room for more. Whether anybody is left."""
        await delivery.questions.drain()
        await delivery.moves.make()
        await asyncio.sleep(0)
        await self.precedence.give()
        full = {one.subscriber.lane for one in group.members.values() if _is_full(one.subscriber.lane)}
        if full:
            waits = [asyncio.ensure_future(lane.drained(_low(lane))) for lane in full]
            try:
                await asyncio.wait(waits, timeout=_WAIT_SECONDS)
            finally:
                for wait in waits:
                    wait.cancel()
            for member in [one for one in group.members.values() if _is_full(one.subscriber.lane)]:
                del group.members[member.subscriber]
                self._unseat(member, delivery, delivery.here)
                self._park(member)
        self._sweep(group)
        return bool(group.members)

    def _sweep(self, group: Group) -> None:
        """Leave out who is gone."""
        for subscriber in [one for one in group.members if one not in self._members]:
            del group.members[subscriber]

    def _park(self, member: Member) -> None:
        """It does not read as fast as it is sent to: it goes on alone when it has read, or is cut."""

        lane = member.subscriber.lane

        async def wait() -> None:
            try:
                async with asyncio.timeout(_STALL_SECONDS):
                    await lane.drained(_low(lane))
            except TimeoutError:
                lane.cut()
            self._put(member)

        parked = asyncio.ensure_future(wait())
        self._parked.add(parked)
        parked.add_done_callback(self._parked.discard)

    def end(self) -> None:
        """Wait for nobody any more."""
        for parked in self._parked:
            parked.cancel()

    def _lose(self, group: Group, reason: str, text: str) -> None:
        log.warning("replay_lost", reason=text, subscribers=len(group.members))
        for member in group.members.values():
            if self._members.get(member.subscriber) is member:
                self.forget(member.subscriber)
                self._miss(member, reason)


async def _end_of_leg(connection: asyncpg.Connection, base: Snapshot, present: Snapshot) -> Snapshot:
    """The mark that a leg ends at; the present where there is none between."""
    text = await connection.fetchval(outbox.MARK, str(base.xmax), str(present.xmax), _STRETCH)
    if text is None:
        return present
    mark = Snapshot.parse(text)
    return mark if mark.covers(base) and present.covers(mark) else present


def _low(lane: Lane) -> int:
    return min(_LOW, lane.limit // 16)


def _is_full(lane: Lane) -> bool:
    return lane.queued > min(_FULL, lane.limit // 4) and not lane.closing
