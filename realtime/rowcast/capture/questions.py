"""Changes that wait for what only Postgres can say of them.

Subscribers whose filters Python cannot judge have a queue of their own here, so that nobody else waits for
Postgres. Order is kept: a change is sent once all before it were. A filter that takes too long is switched
off, and its subscribers are told; a row that a condition fails on passes no filter that has it.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog

from rowcast.capture.filters import RoleUnavailable, answer
from rowcast.db.connection import LOST
from rowcast.hub.sending import MayRead
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.change import Change, Relation
from rowcast.model.predicate import Ask, Truth
from rowcast.protocol.rows import row_of

#: Changes judged together and their bytes, bytes that may wait, and what is in one query: pairs of a row and
#: a condition, and conditions.
BATCH: Final = 200
MAX_BATCH: Final = 1024 * 1024
MAX_WAITING: Final = 64 * 1024 * 1024
_MAX_PAIRS: Final = 50_000
_MAX_ASKS: Final = 500
_OVERHEAD: Final = 500
#: Conditions that failed on a row before: they are asked by themselves.
_MAX_APART: Final = 1_000

log = structlog.get_logger("rowcast.filters")

_Given = dict[str, dict[Ask, Truth]]


@dataclass(frozen=True, slots=True)
class _Question:
    """Rows of one version of a table that one role asks about, by their place in the batch."""

    role: str
    asks: tuple[Ask, ...]
    rows: tuple[int, ...]


class Questions:
    """The queue, and what empties it. ``seconds`` bounds each question."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        may_read: MayRead,
        seconds: float,
        lose: Callable[[str], None],
        isolated: Callable[[Subscriptions, Relation], AbstractContextManager[None]],
        make_ready: Callable[[asyncpg.Connection, Relation], Awaitable[None]],
    ) -> None:
        self._subscriptions, self._may_read, self._seconds = subscriptions, may_read, seconds
        self._lose, self._isolated, self._make_ready = lose, isolated, make_ready
        self._apart: OrderedDict[Ask, None] = OrderedDict()
        #: Switched off while the present batch is judged: its other rows need no answer.
        self._off: set[Ask] = set()
        self._waiting: deque[Change] = deque()
        self._size = 0
        self._taken = self._sent = 0
        self._more = asyncio.Event()
        self._turn = asyncio.Event()
        #: From where to resume while changes wait here; None while none does.
        self.position: str | None = None

    def put(self, change: Change, before: str | None) -> None:
        """Take a change. ``before`` is the position that precedes it."""
        if not self._waiting:
            self.position = before
        self._waiting.append(change)
        self._taken += 1
        self._size += _size(change)
        if self._size > MAX_WAITING:
            self.clear()
            self._lose("filters that Postgres judges fell too far behind")
        self._more.set()

    def clear(self) -> None:
        """Forget what waits: its subscribers were told that they miss it."""
        self._waiting.clear()
        self._went()
        self._size, self.position = 0, None

    async def drain(self) -> None:
        """Wait until all that waits now was sent, or forgotten."""
        taken = self._taken
        while self._sent < taken:
            await self._turn.wait()

    def _went(self) -> None:
        self._sent = self._taken - len(self._waiting)
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()

    async def run(self, connecting: Awaitable[asyncpg.Connection], on_ready: Callable[[], None]) -> None:
        """Answer until the connection is lost; raises then. Call again to go on."""
        connection = await connecting
        try:
            on_ready()
            while True:
                while not self._waiting:
                    self._more.clear()
                    await self._more.wait()
                batch = self._batch()
                for relation in {change.relation for change in batch}:
                    await self._make_ready(connection, relation)
                answers = await self._answered(connection, batch)
                # It may have been cleared meanwhile.
                if self._waiting and self._waiting[0] is batch[0]:
                    self._publish(batch, answers)
        finally:
            connection.terminate()

    def _batch(self) -> list[Change]:
        batch: list[Change] = []
        size = 0
        for change in self._waiting:
            size += _size(change)
            if batch and (len(batch) == BATCH or size > MAX_BATCH):
                break
            batch.append(change)
        return batch

    def _publish(self, batch: Sequence[Change], answers: Sequence[_Given]) -> None:
        for change, given in zip(batch, answers, strict=True):
            if not self._answers_all(change, given):
                # Somebody came, or has another role now, since the questions were put: they are put again.
                break
            with self._isolated(self._subscriptions, change.relation):
                self._subscriptions.publish(change, self._may_read, given)
            if not self._waiting or self._waiting[0] is not change:
                return
            self._waiting.popleft()
            self._size -= _size(change)
            self.position = change.position
        if not self._waiting:
            self.position = None
        self._went()

    def _answers_all(self, change: Change, given: _Given) -> bool:
        if self._subscriptions.index(change.relation).missing:
            return False
        return all(ask in given.get(role, ()) for role, ask in self._subscriptions.asks(change))

    async def _answered(self, connection: asyncpg.Connection, batch: Sequence[Change]) -> list[_Given]:
        answers: list[_Given] = [{} for _ in batch]
        self._off.clear()
        for question in self._questions(batch):
            try:
                given = await self._answer(connection, question, batch)
            except RoleUnavailable as error:
                self._give_up(error.role)
                given = _unknown(question)
            for row, truths in zip(question.rows, given, strict=True):
                answers[row].setdefault(question.role, {}).update(truths)
        return answers

    def _questions(self, batch: Sequence[Change]) -> Iterable[_Question]:
        """What is to be asked, in pieces of a bounded size."""
        wanted: dict[tuple[int, str], tuple[dict[Ask, None], list[int]]] = {}
        for row, change in enumerate(batch):
            roles: set[str] = set()
            for role, ask in self._subscriptions.asks(change):
                asks, rows = wanted.setdefault((change.relation.id, role), ({}, []))
                asks[ask] = None
                if role not in roles:
                    roles.add(role)
                    rows.append(row)
        for (_, role), (asks, rows) in wanted.items():
            step = max(1, min(_MAX_ASKS, _MAX_PAIRS // len(rows)))
            listed = [ask for ask in asks if ask not in self._apart]
            for begin in range(0, len(listed), step):
                yield _Question(role, tuple(listed[begin : begin + step]), tuple(rows))
            for ask in asks:
                if ask in self._apart:
                    yield _Question(role, (ask,), tuple(rows))

    async def _answer(
        self, connection: asyncpg.Connection, question: _Question, batch: Sequence[Change]
    ) -> list[dict[Ask, Truth]]:
        if len(question.asks) == 1 and question.asks[0] in self._off:
            return _unknown(question)
        rows = [row_of(batch[row]) for row in question.rows]
        try:
            return await answer(connection, question.role, question.asks, rows, self._seconds)
        except asyncpg.PostgresError as error:
            if isinstance(error, LOST):
                raise
            if len(question.asks) == 1 and len(question.rows) == 1:
                return self._failed(question, error)
        # One of the conditions, or one of the rows, is at fault: the others must not suffer from it.
        if len(question.asks) > 1:
            parts = [_Question(question.role, (ask,), question.rows) for ask in question.asks]
        else:
            self._keep_apart(question.asks[0])
            middle = len(question.rows) // 2
            halves = (question.rows[:middle], question.rows[middle:])
            parts = [_Question(question.role, question.asks, rows) for rows in halves]
        given: dict[int, dict[Ask, Truth]] = {row: {} for row in question.rows}
        for part in parts:
            for row, truths in zip(part.rows, await self._answer(connection, part, batch), strict=True):
                given[row].update(truths)
        return [given[row] for row in question.rows]

    def _failed(self, question: _Question, error: Exception) -> list[dict[Ask, Truth]]:
        """A condition that failed on a single row: too slow is switched off; else the row passes nothing."""
        (ask,) = question.asks
        if isinstance(error, asyncpg.QueryCanceledError):
            self._off.add(ask)
            self._switch_off(ask)
        elif ask not in self._apart:
            log.warning(
                "condition_failed", column=ask.column, operator=str(ask.op), error=type(error).__name__
            )
        self._keep_apart(ask)
        return _unknown(question)

    def _keep_apart(self, ask: Ask) -> None:
        self._apart[ask] = None
        if len(self._apart) > _MAX_APART:
            self._apart.popitem(last=False)

    def _give_up(self, role: str) -> None:
        """A role that cannot be assumed any more: its subscribers miss what only Postgres can judge."""
        log.error("role_unavailable", role=role)
        for subscriber in self._subscriptions.subscribers():
            if self._subscriptions.entry(subscriber)[1] == role:
                subscriber.lost()

    def _switch_off(self, ask: Ask) -> None:
        log.warning("filter_switched_off", column=ask.column, operator=str(ask.op), seconds=self._seconds)
        text = (
            f"The filter on {ask.column} ({ask.op}) took longer than {self._seconds:g} s and was switched "
            "off: nothing more is sent for it. Subscribe again with one that is simpler."
        )
        for subscriber in self._subscriptions.without(ask):
            subscriber.told("error", text)


def _unknown(question: _Question) -> list[dict[Ask, Truth]]:
    return [dict.fromkeys(question.asks) for _ in question.rows]


def _size(change: Change) -> int:
    return _OVERHEAD + len(change.record or b"") + len(change.old_record or b"")
