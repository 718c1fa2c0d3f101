"""The stream of changes: its parts at work together, and what subscribers ask of it.

Each part has a connection of its own and comes back by itself when that is lost. Who subscribes hears the
present (``present``), at once or after what it missed (``replays``).
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final

import asyncpg
import structlog

from rowcast.capture.acceptance import Acceptance, Rights
from rowcast.capture.beginnings import Beginnings
from rowcast.capture.costs import Costs
from rowcast.capture.delivery import Delivery, Means
from rowcast.capture.groups import Member
from rowcast.capture.joining import Joining
from rowcast.capture.judging import Visibility
from rowcast.capture.listener import Listener
from rowcast.capture.messages import Sentry
from rowcast.capture.parts import Parts, together
from rowcast.capture.present import Present
from rowcast.capture.reader import Reader
from rowcast.capture.relations import Relations
from rowcast.capture.replays import Replays
from rowcast.capture.retention import Retention
from rowcast.capture.review import Review
from rowcast.capture.snapshots import Snapshots
from rowcast.capture.tables import reconcile
from rowcast.capture.waker import Mode, Waker
from rowcast.db.connection import connect
from rowcast.hub.feed import Gap, Subscribed, Subscriber
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.binding import Binding
from rowcast.model.change import Relation
from rowcast.model.claims import Claims
from rowcast.model.message import Message

_TEND_SECONDS: Final = 1.0
_RECONCILE_SECONDS: Final = 10.0
_RECONCILE_RETRY: Final = 0.25
_RECONCILE_SHARE: Final = 50
#: Why changes may be missing for somebody, and how often a channel is told that asked for no gaps.
_DOUBT: Final = "policies took Postgres too long"
_DOUBT_SECONDS: Final = 10.0
#: What is asked about policies is short, and those who ask wait for it.
_JUDGE_PATIENCE: Final = 10.0
#: Who brings on those who resume: first those who missed little, and those who missed most.
_REPLAYS: Final = {"replays": True, "long replays": False}

log = structlog.get_logger("rowcast.capture")


class Stream:
    """Changes of one database, to its subscribers. ``run`` it; everything else may be called meanwhile.

    ``page_size`` is in rows; ``patience`` bounds each statement, ``filter_timeout`` what Postgres may take
    to judge the filters of a batch, in seconds. ``tell`` is handed each message that the database sends, in
    the order of the changes; ``message_limit`` bounds the payload of one that is a part of the stream, in
    bytes.
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
        snapshots: Snapshots,
        tell: Callable[[Message], None] = lambda message: None,
        message_limit: int = 3_000_500,
    ) -> None:
        self._direct_dsn, self._patience, self._page_size = direct_dsn, patience, page_size
        self._rights, self._retention, self._subscriptions = rights, retention, subscriptions
        self._relations = Relations()
        self._waker = Waker()
        self._wake, self._tables_changed = asyncio.Event(), asyncio.Event()
        self._acceptance = Acceptance(pool, rights, self._relations, self._tables_changed)
        self._means = Means(
            rights,
            self._relations,
            self._acceptance.filters,
            Costs(filter_timeout),
            filter_timeout,
            self._connect_judge,
            self._detach,
            message_limit,
        )
        self._live = live = Delivery(
            self._means,
            Reader(page_size),
            subscriptions,
            visibility,
            self._wake,
            self._lose_asking,
            self._doubt,
            tell,
        )
        self._listener = Listener(
            direct_dsn, self._waker, self._wake, self._catalog_news, self._listening, patience
        )
        self._replays = Replays(
            lambda member: self._joining.arrive(member),
            lambda member, reason: self._joining.miss(member, reason),
            live,
            self._wake,
        )
        names = ("listener", "reader", "keeper", "filters", *_REPLAYS)
        self._parts = Parts(direct_dsn, names, self._lose)
        self._present = Present(
            live,
            self._replays,
            self._waker,
            self._wake,
            on_catalog=self._tables_changed.set,
            on_read=self._after_read,
            lose=self._lose,
        )
        self._review = Review(
            self._acceptance,
            live.audiences,
            self._present.settle,
            self._present.read_once,
            live.moves.attach,
        )
        self._snapshots = snapshots
        self._joining = Joining(
            self._acceptance,
            live,
            self._replays,
            self._review,
            Beginnings(snapshots, self._replays, self._present.catch_up, self._lose_one, subscriptions.limit),
            catch_up=self._present.catch_up,
            read_once=self._present.read_once,
            look=self._tables_changed.set,
        )
        self._judges = {name: visibility.apart() for name in _REPLAYS}
        self._pooled = False
        self._started = asyncio.Event()
        self._messages = Sentry()

    # What subscribers ask

    @property
    def position(self) -> str | None:
        """From where to resume after the last change that everybody was sent; None before the first read."""
        return self._live.position

    def position_of(self, subscribers: Collection[Subscriber]) -> str | None:
        """From where all of these could resume after what they were sent, and be sent nothing again. None
        where one is ahead of another, and before the first read."""
        return self._live.position_of(subscribers)

    @property
    def mode(self) -> Mode:
        """Whether this node's reader sleeps, polls, or follows another node's."""
        return self._waker.mode

    def faults(self) -> dict[str, str]:
        """What keeps the stream from delivering, by part; empty when all is well."""
        return self._parts.faults()

    def degraded(self) -> dict[str, str]:
        """What works worse than it might, and why."""
        fault = self._messages.fault
        return {} if fault is None else {"messages": fault}

    def captures_messages(self) -> bool:
        """Whether a message that is written now comes back: its trigger stood when it was looked at last."""
        return self._messages.standing.is_set()

    async def subscribe(
        self, subscriber: Subscriber, bindings: Sequence[Binding], claims: Claims, resume: str | None = None
    ) -> Subscribed:
        """Attach a subscriber, and return when a write made from now on is certain to be delivered.

        With ``resume``, so is what was committed after that position; where it cannot be, the subscriber is
        told of a gap. A subscriber that is attached already goes on, as another perhaps.
        """
        await self._started.wait()
        return await self._joining.subscribe(subscriber, bindings, claims, resume)

    async def ready(self) -> None:
        """Return when each message that the database sends from now on is certain to be handed out."""
        await self._started.wait()
        await self._messages.standing.wait()
        await self._present.read_once()

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Detach a subscriber. Nothing is sent to it from here on."""
        subscriber.gone = True
        self._detach(subscriber)

    def _detach(self, subscriber: Subscriber) -> None:
        self._review.forget(subscriber)
        self._live.audiences.detach(subscriber)
        self._replays.forget(subscriber)

    # What runs

    async def run(self, *, pooled: bool = False) -> None:
        """Read, listen, keep house, until cancelled. The database is migrated by then.

        ``pooled`` says that a pooler lends sessions by the transaction: nothing can be heard, and the reader
        polls.
        """
        self._pooled, self._rights.judges, self._snapshots.pooled = pooled, not pooled, pooled
        listen = self._listener.poll if pooled else self._listener.run
        self._started.set()
        forever = self._parts.forever
        try:
            await together(
                forever("keeper", self._keep),
                forever("reader", self._read),
                forever("listener", listen),
                forever("filters", self._judge),
                *(forever(name, partial(self._replay, name)) for name in _REPLAYS),
            )
        finally:
            self._joining.end()
            self._replays.end()

    async def _connect(self, purpose: str) -> asyncpg.Connection:
        return await connect(self._direct_dsn, purpose=purpose, pooled=self._pooled, patience=self._patience)

    async def _connect_judge(self) -> asyncpg.Connection:
        # As behind a pooler: no statement may be kept that what a policy calls could replace.
        patience = min(self._patience, _JUDGE_PATIENCE)
        return await connect(self._direct_dsn, purpose="policies", pooled=True, patience=patience)

    def _listening(self) -> None:
        self._parts.up("listener")

    def _catalog_news(self) -> None:
        self._tables_changed.set()

    async def _judge(self) -> None:
        await self._live.questions.run(self._connect("filters"), partial(self._parts.up, "filters"))

    async def _replay(self, name: str) -> None:
        # It connects when somebody resumes.
        self._parts.up(name)

        def deliver(reader: Reader) -> Delivery:
            subscriptions = Subscriptions(limit=self._subscriptions.limit, counts=self._subscriptions.counts)
            delivery = Delivery(
                self._means,
                reader,
                subscriptions,
                self._judges[name],
                asyncio.Event(),
                lambda text: self._replays.lose_asking(delivery, text),
                lambda subscribers, _: self._replays.lose(subscribers, _DOUBT),
            )
            return delivery

        await self._replays.work(
            deliver, self._connect, self._page_size, pooled=self._pooled, newest=_REPLAYS[name]
        )

    async def _read(self) -> None:
        connection = await self._connect("reader")
        try:
            # Before the epoch is looked at: where the lease had run out, a new one begins.
            await self._retention.renew(connection)
            await self._present.read(connection, pooled=self._pooled)
        finally:
            connection.terminate()

    def _after_read(self, changes: int, xmin: int) -> None:
        self._parts.up("reader")
        self._listener.read(changes, xmin)
        if changes:
            self._retention.changed()

    def _lose(self, reason: str, kind: str | None = None) -> None:
        """Tell every subscriber that changes may be missing. Who asked for it is told of a gap, which
        ``kind`` says, and goes on; the channels of others end, and they join again."""
        self._relations.forget()
        self._live.forget()
        self._end(self._live.audiences.subscribers(), reason, kind)

    def _lose_one(self, member: Member) -> None:
        self._detach(member.subscriber)
        member.subscriber.lost()

    def _lose_asking(self, reason: str) -> None:
        self._live.questions.clear()
        self._end(self._live.audiences.asking.subscribers(), reason, "behind")

    def _doubt(self, subscribers: Collection[Subscriber], relation: Relation) -> None:
        """Changes of a table may be missing for these, as its policies took too long. Who did not ask for
        gaps stays joined all the same: to join again would make it worse."""
        if asked := [one for one in subscribers if one.gap]:
            self._end(asked, _DOUBT, "behind")
        now = time.monotonic()
        for one in subscribers:
            if not one.gap and now >= one.doubted + _DOUBT_SECONDS:
                one.doubted = now
                table = f"{relation.schema}.{relation.table}"
                one.told("error", f"Changes of {table} may be missing: its policies took Postgres too long.")

    def _end(self, subscribers: Collection[Subscriber], reason: str, kind: str | None) -> None:
        log.error("gap", reason=reason, subscribers=len(subscribers))
        for subscriber in subscribers:
            heard = self._live.audiences.hears(subscriber)
            bindings = () if heard is None else heard[0]
            # Who has a snapshot needs another, and asks for it when it joins again.
            whole = any(binding.snapshot is not None for binding in bindings)
            if kind is not None and subscriber.gap and not whole:
                subscriber.missed(Gap(kind, None, self.position))
            else:
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
                    self._live.readiness.forget_rights()
                    began = time.monotonic()
                    done = await self._messages.look(connection)
                    done = await reconcile(connection, settled, faults) and done
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
