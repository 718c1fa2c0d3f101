"""What a channel may be sent anew: messages that the database sent, as ``realtime.messages`` keeps them."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import asyncpg
import structlog

from rowcast.db.connection import REFUSED
from rowcast.model.allowed import ChannelUnavailable
from rowcast.model.message import Message
from rowcast.protocol.join import Replay

#: Bounds getting a connection, and asking, in seconds.
_ACQUIRE_SECONDS: Final = 5.0
_SECONDS: Final = 5.0
_EPOCH: Final = datetime(1970, 1, 1)
_CODE: Final = "UnableToReplayMessages"

# Where no time of each message is kept, both columns have that of the transaction. Of a
# transaction the last message counts, as in the stream.
_NEWEST: Final = """
with newest as (
  select m.id, m.event, m.payload, m.binary_payload, m.inserted_at, m.updated_at, m.ctid as place
  from realtime.messages as m
  where m.topic = $1 and m.private = $4 and m.extension = 'broadcast' and m.event is not null
    and (m.payload is not null or m.binary_payload is not null)
    and m.inserted_at >= greatest($2::timestamp, now() at time zone 'utc' - interval '72 hours')
    and m.inserted_at < now() at time zone 'utc' + interval '1 minute'
  order by m.inserted_at desc, m.ctid desc limit $3
)
select id::text as id, event, payload::text as payload, binary_payload from newest
order by max(inserted_at) over (partition by updated_at), updated_at, inserted_at, place
"""

log = structlog.get_logger("rowcast.messages")


class Stored:
    """Reads them. No more than ``size`` bytes of payloads at once: the newest."""

    def __init__(self, pool: asyncpg.Pool, size: int) -> None:
        self._pool, self._size = pool, size

    async def newest(self, topic: str, replay: Replay, *, private: bool) -> Sequence[Message]:
        """The newest messages of a topic, oldest first, and none that is older than 72 hours.

        ``topic`` is without ``realtime:``. Raises ChannelUnavailable.
        """
        try:
            begin = _EPOCH + timedelta(milliseconds=replay.since or 0)
        except OverflowError:
            raise ChannelUnavailable(_CODE, "Replay params are not valid") from None
        try:
            async with asyncio.timeout(_ACQUIRE_SECONDS + 2 * _SECONDS):
                rows = await self._ask(topic, begin, replay.limit, private)
        except (*REFUSED, asyncpg.PostgresError) as error:
            # A name and no text, which may tell of topics.
            log.warning("replay_failed", error=type(error).__name__)
            raise ChannelUnavailable(_CODE, "Realtime was unable to replay messages") from None
        return self._within(
            Message(
                row["id"],
                topic,
                private,
                row["event"],
                row["binary_payload"] if row["payload"] is None else row["payload"].encode(),
                row["payload"] is None,
            )
            for row in rows
        )

    async def _ask(self, topic: str, begin: datetime, limit: int, private: bool) -> list[asyncpg.Record]:
        async with (
            self._pool.acquire(timeout=_ACQUIRE_SECONDS) as connection,
            connection.transaction(readonly=True),
        ):
            # Off: who may not see all is told so, instead of being shown less.
            await connection.execute(
                f"set local row_security = off; set local statement_timeout = '{_SECONDS * 1000:.0f}'"
            )
            rows: list[asyncpg.Record] = await connection.fetch(_NEWEST, topic, begin, limit, private)
            return rows

    def _within(self, messages: Iterable[Message]) -> Sequence[Message]:
        found: list[Message] = []
        size = 0
        for message in reversed(list(messages)):
            size += len(message.payload)
            if size > self._size:
                break
            found.append(message)
        return found[::-1]
