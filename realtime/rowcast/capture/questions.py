"""Changes that wait for what only Postgres can say of them.

Subscribers whose filters Python cannot judge have a queue of their own here, so that nobody else waits for
Postgres. Order is kept: a change is sent once all before it were. A filter that takes too long is switched
off, and its subscribers are told; a row that a condition fails on passes no filter that has it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog

from rowcast.capture.filters import answer
from rowcast.db.connection import LOST, connect
from rowcast.hub.feed import Subscriber
from rowcast.hub.subscriptions import MayRead, Subscriptions
from rowcast.model.change import Change, Relation
from rowcast.model.predicate import Ask, Truth
from rowcast.protocol.rows import image_of

#: Changes judged together, bytes that may wait, and (row, condition) pairs in one query.
BATCH: Final = 200
MAX_WAITING: Final = 64 * 1024 * 1024
_MAX_PAIRS: Final = 50_000
_OVERHEAD: Final = 500

log = structlog.get_logger("rowcast.filters")


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
    ) -> None:
        self._subscriptions, self._may_read, self._seconds = subscriptions, may_read, seconds
        self._lose, self._isolated = lose, isolated
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

    async def run(self, dsn: str, patience: float, on_ready: Callable[[], None]) -> None:
        """Answer until the connection is lost; raises then. Call again to go on."""
        connection = await connect(dsn, purpose="filters", patience=patience)
        try:
            on_ready()
            while True:
                while not self._waiting:
                    self._more.clear()
                    await self._more.wait()
                batch = [self._waiting[n] for n in range(min(BATCH, len(self._waiting)))]
                answers = await self._answered(connection, batch)
                # It may have been cleared meanwhile.
                if self._waiting and self._waiting[0] is batch[0]:
                    self._publish(batch, answers)
        finally:
            connection.terminate()

    def _publish(self, batch: Sequence[Change], answers: Sequence[dict[str, dict[Ask, Truth]]]) -> None:
        for change, given in zip(batch, answers, strict=True):
            with self._isolated(self._subscriptions, change.relation):
                self._subscriptions.publish(change, self._may_read, given)
            self._waiting.popleft()
            self._size -= _size(change)
            self.position = change.position
        if not self._waiting:
            self.position = None
        self._went()

    async def _answered(
        self, connection: asyncpg.Connection, batch: Sequence[Change]
    ) -> list[dict[str, dict[Ask, Truth]]]:
        answers: list[dict[str, dict[Ask, Truth]]] = [{} for _ in batch]
        for question in self._questions(batch):
            given = await self._answer(connection, question, batch)
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
            step = max(1, _MAX_PAIRS // len(rows))
            listed = list(asks)
            for begin in range(0, len(listed), step):
                yield _Question(role, tuple(listed[begin : begin + step]), tuple(rows))

    async def _answer(
        self, connection: asyncpg.Connection, question: _Question, batch: Sequence[Change]
    ) -> list[dict[Ask, Truth]]:
        images = [image_of(batch[row]) or b"{}" for row in question.rows]
        try:
            return await answer(connection, question.role, question.asks, images, self._seconds)
        except asyncpg.PostgresError as error:
            if isinstance(error, LOST):
                raise
            if len(question.asks) == 1:
                return await self._alone(connection, question, images, error)
        # One of them is at fault: the others must not suffer from it.
        given: list[dict[Ask, Truth]] = [{} for _ in images]
        for ask in question.asks:
            one = _Question(question.role, (ask,), question.rows)
            for truths, more in zip(given, await self._answer(connection, one, batch), strict=True):
                truths.update(more)
        return given

    async def _alone(
        self, connection: asyncpg.Connection, question: _Question, images: Sequence[bytes], error: Exception
    ) -> list[dict[Ask, Truth]]:
        """A condition that failed by itself: too slow is switched off; else it is asked row by row."""
        (ask,) = question.asks
        if isinstance(error, asyncpg.QueryCanceledError):
            self._switch_off(ask)
            return [{} for _ in images]
        given: list[dict[Ask, Truth]] = []
        for image in images:
            try:
                given += await answer(connection, question.role, [ask], [image], self._seconds)
            except asyncpg.PostgresError as fault:
                if isinstance(fault, LOST):
                    raise
                log.warning(
                    "condition_failed", column=ask.column, operator=str(ask.op), error=type(fault).__name__
                )
                given.append({})
        return given

    def _switch_off(self, ask: Ask) -> None:
        log.warning("filter_switched_off", column=ask.column, operator=str(ask.op), seconds=self._seconds)
        text = (
            f"The filter on {ask.column} ({ask.op}) took longer than {self._seconds:g} s and was switched "
            "off: nothing more is sent for it. Subscribe again with one that is simpler."
        )
        for subscriber in self._subscriptions.without(ask):
            tell(subscriber, text)


def tell(subscriber: Subscriber, text: str) -> None:
    """Tell a subscriber of a fault in what it subscribed to."""
    subscriber.told("error", text)


def _size(change: Change) -> int:
    return _OVERHEAD + len(change.record or b"") + len(change.old_record or b"")
