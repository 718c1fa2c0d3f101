"""A stream of changes with a subscriber that keeps what it is sent."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from rowcast.auth.access import Access
from rowcast.auth.visibility import SEARCH_PATH, Visibility
from rowcast.capture.retention import Retention
from rowcast.capture.snapshots import Snapshots
from rowcast.capture.stream import Stream
from rowcast.db.pool import create_pool
from rowcast.hub.feed import Gap, Subscriber
from rowcast.hub.lanes import Lane
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.binding import parse_binding
from rowcast.model.claims import Claims
from rowcast.model.message import Message
from rowcast.protocol.frames import payload_of
from rowcast.protocol.messages import Version

SERVICE = Claims(role="service_role", expires_at=2e9, raw={"role": "service_role"})


class Kept:
    """A sink that keeps the changes written to it, and wakes who waits for them."""

    pipe = None

    def __init__(self) -> None:
        self.changes: list[dict[str, Any]] = []
        self.losses = 0
        self.gaps: list[Gap] = []
        self.subscriber: Subscriber
        #: The position that it was told when it subscribed.
        self.position: str | None = None
        #: What it was told of its bindings later: status and text.
        self.told: list[tuple[str, str]] = []
        self._more = asyncio.Event()

    def waiting(self) -> int:
        return 0

    def write(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            message = json.loads(payload_of(frame)[1])
            self.changes.append(message[4]["data"])
        self._more.set()

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(f"the lane was closed with {code} {reason}")

    def abort(self) -> None:
        raise AssertionError("the lane was aborted")

    def lost(self) -> None:
        self.losses += 1
        self._more.set()

    def missed(self, gap: Gap) -> None:
        self.gaps.append(gap)
        self._more.set()

    def tell(self, status: str, text: str) -> None:
        self.told.append((status, text))
        self._more.set()

    async def until(self, holds: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait until something holds of what was kept."""
        async with asyncio.timeout(seconds):
            while not holds():
                self._more.clear()
                await self._more.wait()


@contextlib.asynccontextmanager
async def streaming(
    dsn: str,
    *,
    age: float = 3600.0,
    size: int = 1 << 30,
    page_size: int = 1000,
    patience: float = 30.0,
    filter_timeout: float = 5.0,
    roles: tuple[str, ...] = (),
    pooled: bool = False,
    open_deletes: bool = False,
    tell: Callable[[Message], None] = lambda message: None,
) -> AsyncIterator[Stream]:
    """A running stream of the database at ``dsn``."""
    pool = await create_pool(dsn, 5)
    stream = Stream(
        direct_dsn=dsn,
        pool=pool,
        subscriptions=Subscriptions(limit=1 << 20),
        rights=Access(["anon", "authenticated", "service_role", *roles], open_deletes=open_deletes),
        visibility=Visibility(["anon", "authenticated", "service_role", *roles]),
        retention=Retention(age=age, size=size, lease=3600),
        page_size=page_size,
        patience=patience,
        filter_timeout=filter_timeout,
        snapshots=Snapshots(dsn, search_path=SEARCH_PATH),
        tell=tell,
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(stream.run(pooled=pooled))
        try:
            yield stream
        finally:
            running.cancel()
            pool.terminate()


async def subscribed(
    stream: Stream,
    table: str,
    *filters: str,
    claims: Claims = SERVICE,
    resume: str | None = None,
    gap: bool = False,
    kept: Kept | None = None,
    **more: object,
) -> Kept:
    """Subscribe to the changes of a table, once for each filter, and return once it is certain."""
    kept = kept or Kept()
    subscriber = Subscriber(
        f"realtime:{table}",
        Version.V2,
        Lane(kept, 1 << 30),
        kept.lost,
        told=kept.tell,
        missed=kept.missed,
        gap=gap,
    )
    kept.subscriber = subscriber
    entry = {"event": "*", "schema": "public", "table": table, **more}
    bindings = [parse_binding(entry | ({"filter": text} if text else {})) for text in filters or ("",)]
    result = await stream.subscribe(subscriber, bindings, claims, resume)
    assert result.ok, result.refused
    kept.position = result.position
    return kept
