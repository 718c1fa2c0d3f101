"""Rows are handed out here, in order, to those who are at one place of the stream: the present, or a place in
the past that they resume from.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog

from rowcast.capture.acceptance import Rights
from rowcast.capture.audiences import Audiences
from rowcast.capture.costs import Costs
from rowcast.capture.filters import Filters
from rowcast.capture.judging import Judging, Visibility
from rowcast.capture.messages import KINDS, message_of
from rowcast.capture.moves import Moves
from rowcast.capture.questions import Questions
from rowcast.capture.reader import HistoryLost, Page, Reader, Row
from rowcast.capture.readiness import Readiness
from rowcast.capture.relations import Relations
from rowcast.hub.feed import Subscriber
from rowcast.hub.hearers import hand_on
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.change import Change, Op, Relation
from rowcast.model.message import Message
from rowcast.model.position import Order, Position, encode_batch, encode_event

_OPS: Final = {"I": Op.INSERT, "U": Op.UPDATE, "D": Op.DELETE, "T": Op.TRUNCATE}
_CATALOG_CHANGED: Final = "C"
_TO_MILLISECONDS: Final = len("2000-01-01T00:00:00.000")
#: So many relations that nobody hears are left out of a read, at most: each read names them.
_MAX_SILENT: Final = 256
#: After so many seconds, or bytes of rows, those who wait between two rows have their turn.
_SLICE_SECONDS: Final = 0.002
_SLICE_BYTES: Final = 256 * 1024

log = structlog.get_logger("rowcast.capture")


@dataclass(frozen=True, slots=True)
class Means:
    """What rows are judged with, by all that hand them out. ``seconds`` bounds each question about filters;
    ``detach`` forgets a subscriber, wherever it is. ``message_limit`` bounds the payload of a message, in
    bytes: one that is larger is for nobody."""

    rights: Rights
    relations: Relations
    filters: Filters
    costs: Costs
    seconds: float
    connect_judge: Callable[[], Awaitable[asyncpg.Connection]]
    detach: Callable[[Subscriber], None]
    message_limit: int


class Delivery:
    """Hands out what a reader reads. ``wake`` wakes who reads; ``lose_asking`` tells those who wait for
    Postgres that changes are missing, and ``doubt`` some of them that changes of a table may be. Its
    subscribers are those in ``audiences``, and nobody else's.
    ``tell`` is handed the messages that the database sends, where they are wanted."""

    def __init__(
        self,
        means: Means,
        reader: Reader,
        subscriptions: Subscriptions,
        visibility: Visibility,
        wake: asyncio.Event,
        lose_asking: Callable[[str], None],
        doubt: Callable[[Collection[Subscriber], Relation], None],
        tell: Callable[[Message], None] | None = None,
    ) -> None:
        self._means, self.reader, self._tell = means, reader, tell
        self.audiences = audiences = Audiences(subscriptions)
        self.questions = Questions(
            audiences.asking,
            means.rights.may_read,
            means.seconds,
            lose_asking,
            self._isolated,
            self._ready_asking,
            Judging(visibility, means.connect_judge),
            means.costs,
            doubt,
        )
        self.moves = Moves(audiences, self.questions, wake, lose_asking, lambda: self.here, self.here_of)
        self.readiness = Readiness(means.rights, visibility, audiences, self.moves, means.filters)
        self._handed: tuple[Page, Order] | None = None
        #: The maxseq of the transaction that is being handed out.
        self._open: int | None = None
        self._before = ""
        self._silent: dict[int, Relation] = {}
        self._silent_as_of = self._heard_as_of = 0
        #: Whether plain and asking subscribers may want changes of a version of a table and a kind.
        self._heard: dict[tuple[int, Op], tuple[bool, bool]] = {}

    @property
    def here(self) -> Position | None:
        """Up to where rows were handed out to those who wait for nothing; None before the first read."""
        place = self.reader.place
        if self._handed is None or place is None:
            return place
        page, order = self._handed
        return Position(place.epoch, page.start, page.end, order)

    def here_of(self, subscriber: Subscriber) -> Position | None:
        """Up to where rows were handed out to a subscriber."""
        waiting = self.questions.position_of(subscriber)
        if waiting is not None and subscriber in self.audiences.asking:
            return Position.decode(waiting)
        return self.here

    @property
    def position(self) -> str | None:
        """From where to resume after the last change that everybody was sent; None before the first read."""
        here = self.here
        return self.questions.position or (None if here is None else here.encode())

    def position_of(self, subscribers: Collection[Subscriber]) -> str | None:
        """From where all of these could resume and be sent nothing again; None where one is ahead."""
        if (waiting := self.questions.position) is not None:
            asking = {subscriber in self.audiences.asking for subscriber in subscribers}
            if True in asking:
                ahead = False in asking or any(map(self.questions.is_newcomer, subscribers))
                return None if ahead else waiting
        here = self.here
        return None if here is None else here.encode()

    async def hand_out(
        self,
        connection: asyncpg.Connection,
        pages: AsyncGenerator[Page, None],
        *,
        on_catalog: Callable[[], None] = lambda: None,
        pause: Callable[[], Awaitable[bool]] | None = None,
    ) -> int:
        """Hand out pages of the reader. Returns how many changes there were, heard or not.

        However it ends, the reader's place says how far it came. ``on_catalog`` is called where the catalog
        changed. ``pause`` is awaited after each small part; nothing more is handed out once it says no.
        """
        changes = 0
        place = self.reader.place
        self._open = None if place is None or place.order is None else place.order.maxseq
        try:
            async with contextlib.aclosing(pages):
                async for page in pages:
                    if not await self._hand_out(connection, page, on_catalog, pause):
                        break
                    changes += page.changes
                    # The next page may be long in coming; others have their turn between two pages.
                    await asyncio.sleep(0)
                else:
                    self._handed = None
                    self._end_transaction()
        finally:
            if self._handed is not None:
                page, order = self._handed
                self.reader.handed_out(page, order)
                self._handed = None
        return changes

    async def _hand_out(
        self,
        connection: asyncpg.Connection,
        page: Page,
        on_catalog: Callable[[], None],
        pause: Callable[[], Awaitable[bool]] | None,
    ) -> bool:
        versions = await self._versions(connection, page)
        place = self.reader.place
        assert place is not None
        batch = encode_batch(place.epoch, page.start, page.end)
        await self.readiness.prepare(connection, versions)
        self._before = place.encode()
        loop = asyncio.get_running_loop()
        began, size = loop.time(), 0
        for row in page.rows:
            if row.maxseq != self._open:
                self._end_transaction()
                self._open = row.maxseq
            if row.op == _CATALOG_CHANGED:
                on_catalog()
                await self.readiness.prepare(connection, versions)
            elif row.op in KINDS:
                self._send(row, batch)
            else:
                self._publish(row, batch)
            self._handed = (page, row.order)
            if pause is None:
                continue
            size += len(row.record or "") + len(row.old_record or "")
            if size > _SLICE_BYTES or loop.time() - began > _SLICE_SECONDS:
                if not await pause():
                    return False
                await self.readiness.prepare(connection, versions)
                began, size = loop.time(), 0
        self._handed = (page, page.upto)
        return pause is None or await pause()

    async def _versions(self, connection: asyncpg.Connection, page: Page) -> list[Relation]:
        """The versions that the changes of a page refer to."""
        ids = {row.relation for row in page.rows if row.relation}
        relations = self._means.relations
        await relations.load(connection, ids)
        try:
            return [relations[id_] for id_ in ids]
        except KeyError:
            raise HistoryLost("the version of a table that a change refers to is gone", "retention") from None

    async def _ready_asking(self, connection: asyncpg.Connection, relation: Relation) -> None:
        """The same for changes that waited. Who is not among the asking is the reader's business: it alone
        moves those who have to ask."""
        await self.audiences.make_asking_ready(connection, self._means.filters, relation)

    def _end_transaction(self) -> None:
        """All rows of a transaction were handed out: no other has rows between them."""
        self.audiences.plain.end_transaction()
        self.questions.end_transaction()

    def _publish(self, row: Row, batch: str) -> None:
        relation, op = self._means.relations[row.relation], _OPS[row.op]
        plain, asking = self.audiences.plain, self.audiences.asking
        if self._heard_as_of != self.audiences.version:
            self._heard_as_of = self.audiences.version
            self._heard.clear()
        key = (row.relation, op)
        if (known := self._heard.get(key)) is None:
            known = self._heard[key] = plain.heard(relation, op), asking.heard(relation, op)
        heard, asked = known
        if not heard and not asked:
            if len(self._silent) < _MAX_SILENT and not self.audiences.known(relation):
                self._silent[row.relation] = relation
            return
        change = Change(
            relation=relation,
            op=op,
            record=None if row.record is None else row.record.encode(),
            old_record=None if row.old_record is None else row.old_record.encode(),
            seq=row.seq,
            position=encode_event(batch, row.order),
            commit_timestamp=f"{row.committed.isoformat(timespec='milliseconds')[:_TO_MILLISECONDS]}Z",
            # Between the two nothing is for anybody here.
            before=self._before,
        )
        if heard:
            with self._isolated(plain, relation):
                plain.publish(change, self._means.rights.may_read)
        if asked:
            self.questions.put(change, self._before)
        self._before = change.position

    def _send(self, row: Row, batch: str) -> None:
        """A message waits for nobody, but where a channel hears it in one order with its changes."""
        try:
            message = message_of(row)
            if self._tell is not None:
                self._tell(message)
        except Exception as error:
            # A name and no arguments, as below.
            log.error("message_not_sent", error=type(error).__name__)
            return
        position = encode_event(batch, row.order)
        if len(message.payload) <= self._means.message_limit:
            asking = self.audiences.asking
            hearers = self.audiences.hearers.of(message)
            hand_on([one for one in hearers if one not in asking], message, position)
            if late := [one for one in hearers if one in asking]:
                self.questions.tell(late, message, position)
        self._before = position

    @contextlib.contextmanager
    def _isolated(self, subscriptions: Subscriptions, relation: Relation) -> Iterator[None]:
        """A change that cannot be sent is missed by those who hear its table, and they are told."""
        try:
            yield
        except Exception as error:
            # A name and no arguments: an error's text may hold rows.
            table = f"{relation.schema}.{relation.table}"
            log.error("change_not_sent", table=table, error=type(error).__name__)
            for subscriber in subscriptions.hearers(relation):
                self._means.detach(subscriber)
                subscriber.lost()

    def unheard(self) -> Collection[int]:
        """Relations whose rows came lately and that nobody subscribes to, as of now.

        Whoever subscribes is told so after a read that begins later, and that read asks for its rows.
        """
        if self._silent_as_of != self.audiences.version:
            self._silent_as_of = self.audiences.version
            known = self.audiences.known
            self._silent = {id_: relation for id_, relation in self._silent.items() if not known(relation)}
        return self._silent

    def forget(self) -> None:
        """Another history of the database: nothing that was known of tables or is waiting means anything."""
        self._handed = None
        self._silent.clear()
        self.questions.clear()
