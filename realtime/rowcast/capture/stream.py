"""The stream of changes: reader, listener, retention and tables at work together, and what subscribers ask of
it.

Each part has a connection of its own and comes back by itself when that is lost; the reader's place is kept,
so nothing is lost with it. What is handed to subscribers is in order, and only this module hands it out.
"""

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Final

import asyncpg
import structlog

from rowcast.capture.acceptance import Acceptance, Accepted, Refused, Rights
from rowcast.capture.audiences import Audiences
from rowcast.capture.judging import Judging, Visibility
from rowcast.capture.listener import Listener
from rowcast.capture.moves import Moves
from rowcast.capture.parts import Parts
from rowcast.capture.questions import Questions
from rowcast.capture.reader import HistoryLost, Page, Reader, Row
from rowcast.capture.readiness import Readiness
from rowcast.capture.relations import Relations
from rowcast.capture.retention import Retention
from rowcast.capture.review import Review
from rowcast.capture.tables import reconcile
from rowcast.capture.waker import Mode, Waker
from rowcast.db.connection import connect
from rowcast.hub.feed import Subscribed, Subscriber
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.binding import Binding
from rowcast.model.change import Change, Op, Relation
from rowcast.model.claims import Claims
from rowcast.model.position import encode_batch, encode_event

_TEND_SECONDS: Final = 1.0
_RECONCILE_SECONDS: Final = 10.0
_RECONCILE_RETRY: Final = 0.25
_RECONCILE_SHARE: Final = 50
_OPS: Final = {"I": Op.INSERT, "U": Op.UPDATE, "D": Op.DELETE, "T": Op.TRUNCATE}
_CATALOG_CHANGED: Final = "C"
#: So many relations that nobody hears are left out of a read, at most: each read names them.
_MAX_SILENT: Final = 256

log = structlog.get_logger("rowcast.capture")


class Stream:
    """Changes of one database, to its subscribers. ``run`` it; everything else may be called meanwhile.

    ``page_size`` is in rows; ``patience`` bounds each statement, ``filter_timeout`` what Postgres may take
    to judge the filters of a batch, in seconds.
    """

    def __init__(
        self,
        *,
        direct_dsn: str,
        subscriptions: Subscriptions,
        rights: Rights,
        retention: Retention,
        pool: asyncpg.Pool,
        page_size: int = 1_000,
        patience: float = 30.0,
        filter_timeout: float = 0.25,
        visibility: Visibility,
    ) -> None:
        self._direct_dsn = direct_dsn
        self._rights, self._retention = rights, retention
        self._audiences = audiences = Audiences(subscriptions)
        self._questions = Questions(
            audiences.asking,
            rights.may_read,
            filter_timeout,
            self._lose_asking,
            self._isolated,
            self._ready_asking,
            Judging(visibility, self._connect_judge),
        )
        self._reader = Reader(page_size)
        self._relations = Relations()
        self._waker = Waker()
        self._wake = asyncio.Event()
        self._tables_changed = asyncio.Event()
        self._patience = patience
        self._listener = Listener(
            direct_dsn, self._waker, self._wake, self._catalog_news, self._listening, patience
        )
        self._moves = Moves(audiences, self._questions, self._wake, self._lose_asking)
        self._acceptance = Acceptance(pool, rights, self._relations, self._tables_changed)
        self._readiness = Readiness(rights, visibility, audiences, self._moves, self._acceptance.filters)
        self._review = Review(self._acceptance, audiences, self._settle, self._read_once, self._moves.attach)
        self._begun = self._completed = 0
        self._turn = asyncio.Event()
        self._handed: tuple[Page, str, Row] | None = None
        self._silent: dict[int, Relation] = {}
        self._silent_as_of = 0
        self._parts = Parts(direct_dsn, ("listener", "reader", "keeper", "filters"), self._lose)
        self._pooled = False
        self._started = asyncio.Event()

    # What subscribers ask

    @property
    def position(self) -> str | None:
        """From where to resume after the last change that everybody was sent; None before the first read."""
        return self._questions.position or self._read_to()

    def _read_to(self) -> str | None:
        """The same of those who wait for nothing."""
        if self._handed is not None:
            _, batch, row = self._handed
            return encode_event(batch, row.order)
        return None if self._reader.place is None else self._reader.place.encode()

    @property
    def mode(self) -> Mode:
        """Whether this node's reader sleeps, polls, or follows another node's."""
        return self._waker.mode

    def faults(self) -> dict[str, str]:
        """What keeps the stream from delivering, by part; empty when all is well."""
        return self._parts.faults()

    async def subscribe(
        self, subscriber: Subscriber, bindings: Sequence[Binding], claims: Claims
    ) -> Subscribed:
        """Attach a subscriber, and return when a write made from now on is certain to be delivered."""
        await self._started.wait()
        refused: list[str] = []
        accepted: dict[Binding, Accepted] = {}
        for binding in bindings:
            try:
                one = await self._acceptance.accept(binding, claims.role)
                if (fault := self._questions.refusal(subscriber.lane, one.predicates)) is not None:
                    raise Refused(fault)
                accepted[binding] = one
            except Refused as refusal:
                refused.append(str(refusal))
        # What fitted before may do so again: it sleeps until then.
        asleep = [one for one in self._review.fitted(subscriber) if one in bindings and one not in accepted]
        good = [binding for binding in bindings if binding in accepted]
        if subscriber.gone:
            return Subscribed(tuple(refused), ok=False, position=None)
        ready = {binding: one.predicates for binding, one in accepted.items()}
        judged = any(one.judged for one in accepted.values())
        await self._moves.attach(subscriber, good, claims.subject, ready, judged=judged)
        if subscriber.gone:
            return Subscribed(tuple(refused), ok=False, position=None)
        self._review.sleep(subscriber, claims.subject, asleep)
        if not good:
            return Subscribed(tuple(refused), ok=False, position=None)
        if not all([self._review.stands(subscriber, binding, one) for binding, one in accepted.items()]):
            self._tables_changed.set()
        position = self.position
        await self._read_once()
        return Subscribed(tuple(refused), ok=True, position=position)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Detach a subscriber. Nothing is sent to it from here on."""
        subscriber.gone = True
        self._detach(subscriber)

    def _detach(self, subscriber: Subscriber) -> None:
        self._review.forget(subscriber)
        self._audiences.detach(subscriber)

    async def _settle(self) -> None:
        """Wait until everything that was committed before this call has been sent."""
        await self._read_once()
        await self._questions.drain()

    async def _read_once(self) -> None:
        """Wait for a read that begins after this call."""
        wanted = self._begun + 1
        while self._completed < wanted:
            self._wake.set()
            await self._turn.wait()

    # What runs

    async def run(self, *, pooled: bool = False) -> None:
        """Read, listen, keep house, until cancelled. The database is migrated by then.

        ``pooled`` says that a pooler lends sessions by the transaction: nothing can be heard, and the reader
        polls.
        """
        self._pooled, self._rights.judges = pooled, not pooled
        listen = self._listener.poll if pooled else self._listener.run
        self._started.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._parts.forever("keeper", self._keep))
            tasks.create_task(self._parts.forever("reader", self._read))
            tasks.create_task(self._parts.forever("listener", listen))
            tasks.create_task(self._parts.forever("filters", self._judge))

    async def _connect(self, purpose: str) -> asyncpg.Connection:
        return await connect(self._direct_dsn, purpose=purpose, pooled=self._pooled, patience=self._patience)

    async def _connect_judge(self) -> asyncpg.Connection:
        # As behind a pooler: no statement may be kept that what a policy calls could replace.
        return await connect(self._direct_dsn, purpose="policies", pooled=True, patience=self._patience)

    def _listening(self) -> None:
        self._parts.up("listener")

    async def _judge(self) -> None:
        await self._questions.run(self._connect("filters"), self._judging)

    def _judging(self) -> None:
        self._parts.up("filters")

    def _catalog_news(self) -> None:
        self._tables_changed.set()

    async def _read(self) -> None:
        connection = await self._connect("reader")
        try:
            # Before the epoch is looked at: where the lease had run out, a new one begins.
            await self._retention.renew(connection)
            try:
                await self._reader.open(connection, pooled=self._pooled)
            except HistoryLost as lost:
                self._lose(str(lost))
            # What happened to the catalog meanwhile is not known.
            self._readiness.forget_rights()
            while True:
                self._wake.clear()
                self._begun += 1
                try:
                    changes = await self._hand_out(connection)
                except HistoryLost as lost:
                    await self._reader.restart(connection)
                    self._lose(str(lost))
                    changes = 0
                self._parts.up("reader")
                self._completed = self._begun
                turn, self._turn = self._turn, asyncio.Event()
                turn.set()
                assert self._reader.seen is not None
                self._listener.read(changes, self._reader.seen.xmin)
                if changes:
                    self._retention.changed()
                await self._rest()
        finally:
            connection.terminate()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._waker.pause(time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _hand_out(self, connection: asyncpg.Connection) -> int:
        changes = 0
        await self._moves.make()
        if self._audiences.stale and self._questions.position is None:
            self._audiences.forget_stale()
        place_ = self._reader.place
        assert place_ is not None
        try:
            async for page in self._reader.read(connection, self._unheard()):
                versions = await self._versions(connection, page)
                batch = encode_batch(place_.epoch, page.start, page.end)
                await self._readiness.prepare(connection, versions)
                for row in page.rows:
                    if row.op == _CATALOG_CHANGED:
                        self._readiness.forget_rights()
                        self._tables_changed.set()
                        await self._readiness.prepare(connection, versions)
                    else:
                        self._publish(row, batch)
                    self._handed = (page, batch, row)
                changes += page.changes
                # The next page may be long in coming; others have their turn between two pages.
                await asyncio.sleep(0)
        except BaseException:
            if self._handed is not None:
                page, _, row = self._handed
                self._reader.handed_out(page, row)
            raise
        finally:
            self._handed = None
        return changes

    async def _versions(self, connection: asyncpg.Connection, page: Page) -> list[Relation]:
        """The versions that the changes of a page refer to."""
        ids = {row.relation for row in page.rows if row.relation}
        await self._relations.load(connection, ids)
        try:
            return [self._relations[id_] for id_ in ids]
        except KeyError:
            raise HistoryLost("the version of a table that a change refers to is gone") from None

    async def _ready_asking(self, connection: asyncpg.Connection, relation: Relation) -> None:
        """The same for changes that waited. Who is not among the asking is the reader's business: it alone
        moves those who have to ask."""
        await self._audiences.make_asking_ready(connection, self._acceptance.filters, relation)

    def _publish(self, row: Row, batch: str) -> None:
        relation, op = self._relations[row.relation], _OPS[row.op]
        plain, asking = self._audiences.plain, self._audiences.asking
        heard, asked = plain.heard(relation, op), asking.heard(relation, op)
        if not heard and not asked:
            if len(self._silent) < _MAX_SILENT and not self._audiences.known(relation):
                self._silent[row.relation] = relation
            return
        change = Change(
            relation=relation,
            op=op,
            record=None if row.record is None else row.record.encode(),
            old_record=None if row.old_record is None else row.old_record.encode(),
            seq=row.seq,
            position=encode_event(batch, row.order),
            commit_timestamp=f"{row.committed:%Y-%m-%dT%H:%M:%S}.{row.committed.microsecond // 1000:03}Z",
        )
        if heard:
            with self._isolated(plain, relation):
                plain.publish(change, self._rights.may_read)
        if asked:
            self._questions.put(change, self._read_to())

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
                self._detach(subscriber)
                subscriber.lost()

    def _unheard(self) -> Collection[int]:
        """Relations whose rows came lately and that nobody subscribes to, as of now.

        Whoever subscribes is told so after a read that begins later, and that read asks for its rows.
        """
        if self._silent_as_of != self._audiences.version:
            self._silent_as_of = self._audiences.version
            known = self._audiences.known
            self._silent = {id_: relation for id_, relation in self._silent.items() if not known(relation)}
        return self._silent

    def _lose(self, reason: str) -> None:
        """Tell every subscriber that changes may be missing: their channels end, and they join again."""
        self._handed = None
        self._relations.forget()
        self._silent.clear()
        self._end(self._audiences.plain, reason)
        self._lose_asking(reason)

    def _lose_asking(self, reason: str) -> None:
        self._questions.clear()
        self._end(self._audiences.asking, reason)

    def _end(self, subscriptions: Subscriptions, reason: str) -> None:
        log.error("gap", reason=reason, subscribers=len(subscriptions))
        for subscriber in subscriptions.subscribers():
            self._detach(subscriber)
            subscriber.lost()

    async def _keep(self) -> None:
        connection = await self._connect("keeper")
        try:
            due = 0.0
            settled: dict[int, int] = {}
            faults: dict[int, str] = {}
            while True:
                if self._tables_changed.is_set() or time.monotonic() >= due:
                    self._tables_changed.clear()
                    self._readiness.forget_rights()
                    began = time.monotonic()
                    done = await reconcile(connection, settled, faults)
                    self._parts.up("keeper")
                    # What takes long in a database of very many tables is done less often.
                    seldom = max(_RECONCILE_SECONDS, _RECONCILE_SHARE * (time.monotonic() - began))
                    await self._review.hold(connection)
                    due = time.monotonic() + (seldom if done else _RECONCILE_RETRY)
                await self._parts.look(connection)
                if self._waker.mode is not Mode.FOLLOWING:
                    await self._retention.tend(connection)
                    if (commit := self._retention.commit_seconds) is not None:
                        self._waker.commit_seconds = commit
                try:
                    async with asyncio.timeout(min(_TEND_SECONDS, due - time.monotonic())):
                        await self._tables_changed.wait()
                except TimeoutError:
                    continue
        finally:
            connection.terminate()
