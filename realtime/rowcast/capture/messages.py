"""Messages that the database sends: rows of ``realtime.messages``, as its trigger writes them down."""

import asyncio
import binascii
from typing import Final

import asyncpg
import msgspec
import structlog

from rowcast.capture.reader import Row
from rowcast.db.connection import ADVISORY_TABLES
from rowcast.model.message import Message

#: What the outbox calls a message of JSON, and one of bytes.
JSON: Final = "M"
RAW: Final = "B"
KINDS: Final = frozenset((JSON, RAW))

log = structlog.get_logger("rowcast.messages")


class _Head(msgspec.Struct):
    id: str
    topic: str
    private: bool
    event: str


_read_head: Final = msgspec.json.Decoder(_Head).decode


def message_of(row: Row) -> Message:
    """The message of a row whose ``op`` is one of KINDS."""
    head = _read_head(row.record or "")
    text = row.old_record or ""
    raw = row.op == RAW
    payload = binascii.a2b_base64(text) if raw else text.encode()
    return Message(head.id, head.topic, head.private, head.event, payload, raw)


class Sentry:
    """Sees to it that the trigger stands. ``standing`` is set while it did when that was last looked at."""

    def __init__(self) -> None:
        self.standing = asyncio.Event()
        #: Why messages are not captured; None where they are, or before the first look.
        self.fault: str | None = None

    async def look(self, connection: asyncpg.Connection) -> bool:
        """Make the trigger where it is missing and may be made. Whether there is no more to do for now."""
        try:
            async with connection.transaction():
                # One node at a time, and none while Rowcast is being taken out.
                if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", ADVISORY_TABLES):
                    return self.standing.is_set()
                fault = await connection.fetchval("select rowcast.follow_messages()")
        except asyncpg.LockNotAvailableError:
            return False
        except asyncpg.PostgresError as error:
            if connection.is_closed():
                raise
            fault = str(error)
        if fault is not None and fault != self.fault:
            log.warning("messages_not_captured", reason=fault)
        self.fault = fault
        if fault is None:
            self.standing.set()
        else:
            self.standing.clear()
        return True
