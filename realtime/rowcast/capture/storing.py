"""Broadcasts that are to be kept: written into ``realtime.messages``, from where they come back as messages
of the database, to whoever is joined to their topic anywhere.

What waits is written together, by one writer, so that what one client says keeps its order.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import asyncpg
import structlog

from rowcast.db.connection import AWAY as BEYOND
from rowcast.db.connection import LOST, Session
from rowcast.model.message import Message

#: Written together at most: messages, and bytes of payloads.
_BATCH: Final = 500
_BATCH_BYTES: Final = 1024 * 1024
#: Bytes that may wait.
_MAX_WAITING: Final = 64 * 1024 * 1024
_OVERHEAD: Final = 500
_ACQUIRE_SECONDS: Final = 5.0
_SECONDS: Final = 10.0

#: The rows are inserted, and so numbered, in the order in which they were sent.
_INSERT: Final = """
insert into realtime.messages (id, topic, extension, event, private, {column})
select id, topic, 'broadcast', event, private, payload::{type}
from unnest($1::uuid[], $2::text[], $3::text[], $4::bool[], $5::{array}[]) with ordinality
  as m (id, topic, event, private, payload, place) order by place
"""
_JSON: Final = _INSERT.format(column="payload", type="jsonb", array="text")
_RAW: Final = _INSERT.format(column="binary_payload", type="bytea", array="bytea")

FULL: Final = "too many messages wait to be stored"
UNCAPTURED: Final = "messages of the database are not captured now, so that nobody would hear it"
AWAY: Final = "the database is not reachable"
UNKNOWN: Final = "the connection to the database was lost: it may have been stored, or not"
UNFIT: Final = "the database does not take this payload, as a \\u0000 in JSON"
REFUSED_BY: Final = "the database refused it. The server's log has the reason."
STOPPED: Final = "the database takes nothing now. The server's log has the reason."

#: What Postgres says of all that is written together, and of no single message.
_OF_ALL: Final = (
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InvalidTransactionStateError,
    asyncpg.SyntaxOrAccessError,
)
#: A NUL in JSON; the backslash before it is none that was escaped itself.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

log = structlog.get_logger("rowcast.messages")

#: Is told why a message was not stored; None once it is.
Done = Callable[[str | None], None]


class Storing:
    """Writes messages. ``captured`` says whether what is written comes back. ``run`` it."""

    def __init__(self, pool: asyncpg.Pool, captured: Callable[[], bool]) -> None:
        self._pool, self._captured = pool, captured
        self._waiting: deque[tuple[Message, Done]] = deque()
        self._size = 0
        self._more = asyncio.Event()

    def put(self, message: Message, done: Done) -> None:
        """Have a message stored, after those that were put before. Its ``id`` is a UUID."""
        if not self._captured():
            done(UNCAPTURED)
        elif _has_nul(message):
            # To find it among others would take many statements.
            done(UNFIT)
        elif self._size + message.size > _MAX_WAITING:
            done(FULL)
        else:
            self._waiting.append((message, done))
            self._size += _size(message)
            self._more.set()

    async def store(self, messages: Sequence[Message]) -> str | None:
        """The same for several; returns why one of them was not stored, or None."""
        told: list[str | None] = []
        over = asyncio.Event()

        def done(reason: str | None) -> None:
            told.append(reason)
            if len(told) == len(messages):
                over.set()

        for message in messages:
            self.put(message, done)
        if messages:
            await over.wait()
        return next((reason for reason in told if reason is not None), None)

    async def run(self) -> None:
        """Write what is put, until cancelled: what waits then is not stored."""
        try:
            while True:
                while not self._waiting:
                    self._more.clear()
                    await self._more.wait()
                batch = self._batch()
                try:
                    await self._write(batch)
                except BaseException:
                    _tell(batch, UNKNOWN)
                    raise
        finally:
            _tell(self._waiting, AWAY)

    def _batch(self) -> list[tuple[Message, Done]]:
        """The first of what waits, all of one kind."""
        batch: list[tuple[Message, Done]] = []
        size = 0
        while self._waiting:
            message, _ = self._waiting[0]
            size += _size(message)
            full = len(batch) == _BATCH or size > _BATCH_BYTES
            if batch and (full or message.raw is not batch[0][0].raw):
                break
            batch.append(self._waiting.popleft())
            self._size -= _size(message)
        return batch

    async def _write(self, batch: Sequence[tuple[Message, Done]]) -> None:
        """Write a batch, and tell. One that is refused is divided: the others must not suffer from one."""
        reason: str | None = AWAY
        try:
            async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
                reason = await _written(connection, [message for message, _ in batch])
        except BEYOND as error:
            log.warning("messages_not_stored", error=type(error).__name__, messages=len(batch))
        if reason in (UNFIT, REFUSED_BY) and len(batch) > 1:
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
        else:
            _tell(batch, reason)


async def _written(connection: Session, messages: Sequence[Message]) -> str | None:
    """Why messages were not written, or None."""
    # Where nothing is answered, neither is what would end it.
    watch = asyncio.get_running_loop().call_later(_SECONDS, connection.terminate)
    try:
        # A pooler of transactions may lend another session for each statement outside of one.
        async with connection.transaction():
            await _insert(connection, messages)
    except LOST:
        return UNKNOWN
    except asyncpg.DataError:
        return UNFIT
    except asyncpg.PostgresError as error:
        whole = isinstance(error, _OF_ALL)
        if whole or len(messages) == 1:
            # A name and no text, which may hold the message.
            log.error("message_not_stored", error=type(error).__name__, messages=len(messages))
        return STOPPED if whole else REFUSED_BY
    finally:
        watch.cancel()
    return None


async def _insert(connection: Session, messages: Sequence[Message]) -> None:
    raw = messages[0].raw
    await connection.execute(
        _RAW if raw else _JSON,
        [message.id for message in messages],
        [message.topic for message in messages],
        [message.event for message in messages],
        [message.private for message in messages],
        [message.payload if raw else message.payload.decode() for message in messages],
    )


def _tell(batch: Sequence[tuple[Message, Done]] | deque[tuple[Message, Done]], reason: str | None) -> None:
    for _, done in batch:
        done(reason)


def _has_nul(message: Message) -> bool:
    if "\0" in message.topic or "\0" in message.event:
        return True
    # The search is for the few that may have one.
    return not message.raw and b"\\u0000" in message.payload and _NUL.search(message.payload) is not None


def _size(message: Message) -> int:
    return _OVERHEAD + message.size
