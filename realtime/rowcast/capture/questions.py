"""Changes that wait for what only Postgres can say of them.

Subscribers whose filters Python cannot judge have a queue of their own here, so that nobody else waits for
Postgres. Order is kept: a change is sent once all before it were. A filter that takes too long is switched
off, and its subscribers are told; a row that a condition fails on passes no filter that has it. Where a
policy takes too long, the row is hidden, and those whom it may have been for are told.

Whoever asks what is slow must not keep the others waiting. When a question takes too long, those conditions
that were never slow are asked first, and the others for one connection after the other, at its cost.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Final

import asyncpg
import structlog

from rowcast.capture.costs import SHARE, Costs
from rowcast.capture.filters import answer, is_of_others
from rowcast.capture.judging import Judging, candidates, doubtful, kept
from rowcast.capture.question import Question
from rowcast.capture.reputations import Reputations
from rowcast.capture.waiting import Waiting
from rowcast.db.connection import LOST
from rowcast.db.roles import RoleUnavailable, Stubborn, end_sessions
from rowcast.hub.feed import Subscriber
from rowcast.hub.lanes import Lane
from rowcast.hub.sending import MayRead, Sees
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.change import Change, Relation
from rowcast.model.predicate import Ask, Predicate, Truth
from rowcast.protocol.rows import row_of

#: What is in one query at most: pairs of a row and a condition, and conditions.
_MAX_PAIRS: Final = 50_000
_MAX_ASKS: Final = 500

log = structlog.get_logger("rowcast.filters")

_Given = dict[str, dict[Ask, Truth]]
#: What was answered for a change, and for its old row, as those ask who want to know what left them.
_Both = tuple[_Given, _Given]


class Questions(Waiting):
    """What empties the queue. ``seconds`` bounds each question; ``doubt`` is handed those who may have missed
    a change of a table, as nothing was said in time of whether they may see it."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        may_read: MayRead,
        seconds: float,
        lose: Callable[[str], None],
        isolated: Callable[[Subscriptions, Relation], AbstractContextManager[None]],
        make_ready: Callable[[asyncpg.Connection, Relation], Awaitable[None]],
        judging: Judging,
        costs: Costs,
        doubt: Callable[[Collection[Subscriber], Relation], None],
    ) -> None:
        super().__init__(subscriptions.end_transaction, lose)
        self._subscriptions, self._may_read, self._seconds = subscriptions, may_read, seconds
        self._isolated, self._make_ready = isolated, make_ready
        self._judging, self._doubt = judging, doubt
        self._costs = costs
        self._reputations = Reputations()
        #: What was asked at the cost of single connections took so long, in the present batch.
        self._extra = 0.0
        #: Backends of conditions that did not end when they were told to.
        self._left: list[int] = []

    def refusal(self, client: Lane, predicates: Mapping[int, Predicate]) -> str | None:
        """Why this connection may not subscribe a filter, ready for these versions of tables, now."""
        now = _now()
        for relation, predicate in predicates.items():
            for ask in predicate.asks:
                if self._costs.is_off(relation, ask, now):
                    return self._costs.too_slow(ask)
                if not self._reputations.is_trusted(ask) and self._costs.overdrawn(client, now):
                    return self._costs.too_much(ask)
        return None

    async def run(self, connecting: Awaitable[asyncpg.Connection], on_ready: Callable[[], None]) -> None:
        """Answer until the connection is lost; raises then. Call again to go on."""
        connection = await connecting
        try:
            await end_sessions(connection, self._left)
            on_ready()
            while True:
                await self._filled()
                batch = self._batch()
                index = self._subscriptions.index
                while unready := {change.relation for change in batch if index(change.relation).missing}:
                    for relation in unready:
                        await self._make_ready(connection, relation)
                version = self._subscriptions.version
                answers = await self._answered(connection, batch)
                may_read = kept(self._may_read)
                wanted = map(partial(candidates, self._subscriptions, may_read), batch, answers)
                sees, unsure = await self._judging.sees(batch, list(wanted))
                # It may have been cleared meanwhile.
                if self._waiting and self._waiting[0] is batch[0]:
                    self._publish(batch, may_read, answers, sees, version, unsure=unsure)
        finally:
            connection.terminate()
            self._judging.end()

    def _publish(
        self,
        batch: Sequence[Change],
        may_read: MayRead,
        answers: Sequence[_Both],
        sees: Sequence[Sees],
        version: int,
        *,
        unsure: bool,
    ) -> None:
        doubted: set[Subscriber] = set()
        for change, both, seen in zip(batch, answers, sees, strict=True):
            if self._subscriptions.version != version and not (
                self._answers_all(change, both)
                and candidates(self._subscriptions, may_read, change, both) <= seen.keys()
            ):
                # Somebody came, or is somebody else now, since the questions were put: they are put again.
                break
            with self._isolated(self._subscriptions, change.relation):
                given, left = both
                newcomers = self._present_newcomers()
                if unsure:
                    missed = doubtful(self._subscriptions, may_read, change, both, seen)
                    # Who looks at the table again after one of a batch sees what became of all of it.
                    if missed := missed - doubted - set(newcomers):
                        doubted |= missed
                        self._doubt(missed, change.relation)
                self._subscriptions.publish(change, may_read, given, seen, left, newcomers)
            if not self._waiting or self._waiting[0] is not change:
                return
            self._sent_first()
        self._went()

    def _answers_all(self, change: Change, both: _Both) -> bool:
        if self._subscriptions.index(change.relation).missing:
            return False
        return all(
            ask in given.get(role, ())
            for face, given in zip((change, self._subscriptions.leave(change)), both, strict=True)
            if face is not None
            for role, ask in self._subscriptions.asks(face)
        )

    async def _answered(self, connection: asyncpg.Connection, batch: Sequence[Change]) -> list[_Both]:
        leaves = [self._subscriptions.leave(change) for change in batch]
        faces = [*batch, *(leave for leave in leaves if leave is not None)]
        answers: list[_Given] = [{} for _ in faces]
        self._extra = 0.0
        for question in self._questions(faces):
            try:
                given = await self._answer(connection, question, faces)
            except RoleUnavailable as error:
                self._give_up(error.role)
                given = question.unknown()
            for row, truths in zip(question.rows, given, strict=True):
                answers[row].setdefault(question.role, {}).update(truths)
        left = iter(answers[len(batch) :])
        return [(answers[row], {} if leave is None else next(left)) for row, leave in enumerate(leaves)]

    def _questions(self, batch: Sequence[Change]) -> Iterable[Question]:
        """What is to be asked, in pieces of a bounded size."""
        wanted: dict[tuple[Relation, str], tuple[dict[Ask, None], list[int]]] = {}
        for row, change in enumerate(batch):
            roles: set[str] = set()
            for role, ask in self._subscriptions.asks(change):
                asks, rows = wanted.setdefault((change.relation, role), ({}, []))
                asks[ask] = None
                if role not in roles:
                    roles.add(role)
                    rows.append(row)
        for (relation, role), (asks, rows) in wanted.items():
            step = max(1, min(_MAX_ASKS, _MAX_PAIRS // len(rows)))
            listed = [ask for ask in asks if not self._reputations.is_apart(ask)]
            for begin in range(0, len(listed), step):
                yield Question(relation, role, tuple(listed[begin : begin + step]), tuple(rows))
            for ask in asks:
                if self._reputations.is_apart(ask):
                    yield Question(relation, role, (ask,), tuple(rows), self._payer(relation, ask))

    async def _answer(
        self, connection: asyncpg.Connection, question: Question, batch: Sequence[Change]
    ) -> list[dict[Ask, Truth]]:
        if self._given_up(question):
            return question.unknown()
        rows = [row_of(batch[row]) for row in question.rows]
        began = _now()
        try:
            given = await answer(connection, question.role, question.asks, rows, self._seconds)
        except Stubborn as error:
            self._left.append(error.pid)
            for ask in question.asks:
                if is_of_others(ask.type):
                    self._costs.switch_off(question.relation.id, ask, _now())
                    self._drop(question.relation, ask, self._costs.too_slow(ask))
            raise asyncpg.InterfaceError(str(error)) from None
        except asyncpg.PostgresError as error:
            if isinstance(error, LOST):
                raise
            slow = isinstance(error, asyncpg.QueryCanceledError)
            if len(question.asks) == 1 and len(question.rows) == 1:
                self._failed(question, error)
                return question.unknown()
        else:
            if not question.partly:
                self._reputations.trust(question.asks)
            return given
        finally:
            if question.payer is not None:
                self._extra += _now() - began
                self._costs.charge(question.payer, _now() - began, _now())
        # One of the conditions, or one of the rows, is at fault: the others must not suffer from it.
        divided: dict[int, dict[Ask, Truth]] = {row: {} for row in question.rows}
        for part in self._parts(question, slow):
            for row, truths in zip(part.rows, await self._answer(connection, part, batch), strict=True):
                divided[row].update(truths)
        return [divided[row] for row in question.rows]

    def _given_up(self, question: Question) -> bool:
        """Whether there is nobody any more to ask this for, or no time."""
        relation, now = question.relation, _now()
        for ask in question.asks:
            # Who was let in just before, and attached since.
            if self._costs.is_off(relation.id, ask, now):
                self._drop(relation, ask, self._costs.too_slow(ask))
        if not any(True for ask in question.asks for _ in self._subscriptions.askers(relation, ask)):
            return True
        if question.payer is None:
            return False
        if self._costs.overdrawn(question.payer, now):
            for ask in question.asks:
                self._drop(relation, ask, self._costs.too_much(ask))
            return True
        # What it has spent itself is held against it above.
        if self._extra - self._costs.spent(question.payer, now) > SHARE * self._seconds:
            # Many connections at once: these did not have their turn. They may come again.
            late = {one: None for ask in question.asks for one in self._subscriptions.askers(relation, ask)}
            log.warning("filters_overloaded", subscribers=len(late))
            for subscriber in late:
                self._subscriptions.detach(subscriber)
                subscriber.lost()
            return True
        return False

    def _parts(self, question: Question, slow: bool) -> Iterator[Question]:
        """A question that failed, as several: each is made when the one before it was answered."""
        if len(question.asks) == 1:
            (ask,) = question.asks
            self._reputations.keep_apart(ask, failed=not slow)
            first, rest = question.rows[:1], question.rows[1:]
            middle = (len(rest) + 1) // 2
            for rows in (first, rest[:middle], rest[middle:]):
                if rows:
                    payer = self._payer(question.relation, ask)
                    yield replace(question, rows=rows, payer=payer, partly=True)
            return
        trusted = tuple(ask for ask in question.asks if self._reputations.is_trusted(ask))
        if trusted == question.asks:
            self._reputations.doubt(trusted)
            trusted = ()
        elif trusted:
            yield replace(question, asks=trusted)
        by_payer: dict[Lane | None, list[Ask]] = {}
        for ask in question.asks:
            if ask not in trusted:
                by_payer.setdefault(self._payer(question.relation, ask), []).append(ask)
        if len(by_payer) > 1:
            for payer, asks in by_payer.items():
                yield replace(question, asks=tuple(asks), payer=payer)
            return
        for asks in by_payer.values():
            for ask in asks:
                yield replace(question, asks=(ask,), payer=self._payer(question.relation, ask))

    def _payer(self, relation: Relation, ask: Ask) -> Lane | None:
        """Of the connections that ask this, the one that has cost least."""
        now = _now()
        lanes = (subscriber.lane for subscriber in self._subscriptions.askers(relation, ask))
        return min(lanes, key=lambda lane: self._costs.spent(lane, now), default=None)

    def _failed(self, question: Question, error: Exception) -> None:
        """A condition that failed on a single row: too slow is switched off; else the row passes nothing."""
        (ask,) = question.asks
        slow = isinstance(error, asyncpg.QueryCanceledError)
        if slow:
            log.warning("filter_switched_off", column=ask.column, operator=str(ask.op), seconds=self._seconds)
            self._costs.switch_off(question.relation.id, ask, _now())
            self._drop(question.relation, ask, self._costs.too_slow(ask))
        elif not self._reputations.has_failed(ask):
            log.warning(
                "condition_failed", column=ask.column, operator=str(ask.op), error=type(error).__name__
            )
        self._reputations.keep_apart(ask, failed=not slow)

    def _drop(self, relation: Relation, ask: Ask, text: str) -> None:
        for subscriber in self._subscriptions.without(relation, ask):
            subscriber.told("error", text)

    def _give_up(self, role: str) -> None:
        """A role that cannot be assumed any more: its subscribers miss what only Postgres can judge."""
        log.error("role_unavailable", role=role)
        for subscriber in self._subscriptions.subscribers():
            if subscriber.subject.role == role:
                subscriber.lost()


def _now() -> float:
    return asyncio.get_running_loop().time()
