"""The composition root: settings become parts. The only place that wires them together."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog
import uvloop
from starlette.applications import Starlette

from rowcast.auth.access import Access
from rowcast.auth.apikeys import parse_api_keys
from rowcast.auth.channels import Channels
from rowcast.auth.jwks import Jwks
from rowcast.auth.tokens import Verifier
from rowcast.auth.visibility import SEARCH_PATH, Visibility
from rowcast.capture.parts import end
from rowcast.capture.retention import Retention
from rowcast.capture.snapshots import Snapshots
from rowcast.capture.stored import Stored
from rowcast.capture.storing import Storing
from rowcast.capture.stream import Stream
from rowcast.db.opening import Opening
from rowcast.db.pool import create_pool
from rowcast.hub.messages import Messages
from rowcast.hub.rooms import Rooms
from rowcast.hub.subscriptions import Subscriptions
from rowcast.hub.topics import Topics
from rowcast.model.health import Health
from rowcast.model.rates import Rates, RateWindow
from rowcast.model.seats import Seats
from rowcast.model.stopping import Stopping
from rowcast.serving.server import listen, make_server
from rowcast.session.admission import Limits
from rowcast.session.channel import PREFIX
from rowcast.settings import Settings
from rowcast.web.app import create_app
from rowcast.web.services import Services

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: All questions about one batch to a table's policies may take so many times as long as one of them.
_CALL = 8
_LOOK_SECONDS = 1.0

log = structlog.get_logger("rowcast")


@dataclass(frozen=True, slots=True)
class Runtime:
    """A running server's parts."""

    app: Starlette
    stream: Stream
    subscriptions: Subscriptions
    stopping: Stopping


@contextlib.asynccontextmanager
async def running(settings: Settings, *, wait: bool = True) -> AsyncIterator[Runtime]:
    """Migrate, capture and read while the context is open; the app may be served by any ASGI server.

    It opens once the database is there, or at once without ``wait``: the app says then that it is not ready,
    and joins wait. A database that cannot be worked with ends the context with a DatabaseError in a group.
    """
    opening = Opening(settings.dsn, settings.direct_dsn, migrates=settings.migrate, say=_say)
    pool = await create_pool(settings.dsn, settings.pool_size)
    subscriptions = Subscriptions(limit=settings.max_change)
    topics = Topics()
    stream = Stream(
        direct_dsn=settings.direct_dsn,
        pool=pool,
        subscriptions=subscriptions,
        rights=Access(settings.roles, open_deletes=settings.open_deletes),
        visibility=Visibility(
            settings.roles, seconds=settings.policy_timeout, limit=_CALL * settings.policy_timeout
        ),
        retention=Retention(
            age=settings.retention,
            size=settings.retention_size,
            lease=settings.lease,
            unlogged=settings.unlogged_outbox,
        ),
        filter_timeout=settings.filter_timeout,
        snapshots=Snapshots(
            settings.direct_dsn,
            search_path=SEARCH_PATH,
            seconds=settings.snapshot_timeout,
            most=settings.max_snapshots,
            limit=settings.max_change,
        ),
        tell=Messages(topics, PREFIX, settings.max_payload).publish,
        message_limit=settings.max_payload,
    )
    storing = Storing(pool, stream.captures_messages)
    jwks = None if settings.jwks is None else Jwks(settings.jwks.get_secret_value())
    stopping = Stopping()
    health = Health(lambda: not opening.faults() and "reader" not in stream.faults())
    services = Services(
        feed=stream,
        channels=Channels(pool, settings.roles),
        stored=Stored(pool, settings.lane_limit // 2),
        storing=storing,
        rooms=Rooms(topics),
        verify=Verifier(
            *settings.jwt_secrets,
            find=None if jwks is None else jwks.find,
            required=settings.jwt_claim_validators,
            leeway=settings.jwt_leeway,
            api_keys=parse_api_keys(settings.api_keys.get_secret_value()),
        ),
        limits=Limits(
            channels=settings.max_channels,
            bindings=settings.max_bindings,
            entries_size=settings.max_entries,
            topic_size=settings.max_topic,
            message_size=settings.max_frame,
            refusals=settings.max_refusals,
            idle_timeout=settings.idle_timeout,
            no_channel_timeout=settings.no_channel_timeout,
            refusal_delay=settings.refusal_delay,
            private_only=settings.private_only,
            payload_size=settings.max_payload,
            events_per_second=settings.max_events_per_second,
            silent_denials=settings.silent_denials,
            store_public=settings.store_public,
            presence_calls=settings.max_presence_calls,
            presence_window=settings.presence_window,
            presence_enabled=settings.presence_enabled,
            presence_key_size=settings.max_presence_key,
        ),
        lane_limit=settings.lane_limit,
        handshake_delay=settings.handshake_delay,
        faults=lambda: {**(opening.faults() or stream.faults()), **({} if jwks is None else jwks.faults())},
        degraded=lambda: {**opening.degraded(), **stream.degraded()},
        requests=Rates(settings.max_events_per_second),
        body_limit=settings.max_body,
        joins=RateWindow(settings.max_joins_per_second),
        seats=Seats(settings.max_connections),
        stopping=stopping,
        health=health,
    )
    async with asyncio.TaskGroup() as tasks:
        opened = asyncio.Event()
        works = [
            tasks.create_task(_work(opening, opened, stream)),
            tasks.create_task(_watch(health)),
            tasks.create_task(storing.run()),
        ]
        try:
            if jwks is not None:
                works.append(tasks.create_task(jwks.run()))
                await jwks.tried.wait()
            if wait:
                await opened.wait()
            yield Runtime(create_app(services, settings.pages), stream, subscriptions, stopping)
        finally:
            for work in works:
                work.cancel()
            pool.terminate()
            await end(works)


def _say(text: str) -> None:
    log.warning("database_differs", told=text)


async def _work(opening: Opening, opened: asyncio.Event, stream: Stream) -> None:
    pooled = await opening.run()
    log.info("database_open", pooled=pooled)
    opened.set()
    await stream.run(pooled=pooled)


async def _watch(health: Health) -> None:
    """Look, and tell. What is mended before the second look is not worth a word."""
    before = True
    while True:
        now = health.look()
        health.found(well=now or before)
        before = now
        await asyncio.sleep(_LOOK_SECONDS)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; sockets are closed with 1012 then, and at once on a second one."""
    configure_logging(settings.log_level)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    """Until the server runs, a signal cancels the start; from then on it is the server's own.

    It runs before the database is there: whoever watches it learns that it lives, and what it waits for.
    """
    sockets = listen(settings.host, settings.port)
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()
    assert starting is not None
    for number in _SIGNALS:
        loop.add_signal_handler(number, starting.cancel)
    try:
        async with running(settings, wait=False) as runtime:
            server = make_server(
                runtime.app,
                host=settings.host,
                port=settings.port,
                max_frame=settings.max_frame,
                handshake_timeout=settings.handshake_timeout,
                log_level=settings.log_level,
                stopping=runtime.stopping,
                drain_delay=settings.drain_delay,
                drain_seconds=settings.drain_seconds,
            )
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
                loop.add_signal_handler(number, server.stop)
            serving = asyncio.create_task(server.serve(sockets))
            try:
                await asyncio.shield(serving)
            except asyncio.CancelledError:
                # The database cannot be worked with: uvicorn leaves tasks behind where it is cancelled.
                server.should_exit = True
                await serving
                raise
    except asyncio.CancelledError:
        log.info("stopped before it served")
    finally:
        for one in sockets:
            one.close()


def configure_logging(level: str) -> None:
    """Lines for people on a terminal, JSON elsewhere; on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    # Their INFO lines tell of each connection, which nobody asked for, or show addresses whole.
    for name in ("uvicorn", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
