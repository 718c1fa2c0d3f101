"""Channels that resume: from any position, in order, with nothing lost and nothing twice."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from rowcast.capture import replays
from rowcast.capture.stream import Stream
from rowcast.model.claims import Claims
from rowcast.model.position import Position, Snapshot
from support.streams import SERVICE, Kept, streaming, subscribed
from support.waiting import until

pytestmark = pytest.mark.anyio

TABLES = """
create table notes (id int primary key, owner text, body text);
grant select on notes to anon, authenticated, service_role;
create table others (id int primary key);
grant select on others to service_role;
alter publication supabase_realtime add table notes, others;
"""


@pytest.fixture
async def notes(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """A writer to a database with two captured tables."""
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLES)
    yield connection
    await connection.close()


def seqs(changes: list[dict[str, Any]]) -> list[int]:
    return [change["seq"] for change in changes]


def ids(kept: Kept) -> list[int]:
    return [(change["record"] or change["old_record"])["id"] for change in kept.changes]


async def written(notes: asyncpg.Connection, first: int, last: int) -> None:
    """One row for each transaction, and between them some that nobody hears."""
    for number in range(first, last + 1):
        await notes.execute("insert into notes values ($1, 'ada', 'x')", number)
        if number % 5 == 0:
            await notes.execute("insert into others values ($1)", number)


async def arrived(stream: Stream) -> None:
    """Wait until nobody resumes any more."""

    async def none_left() -> bool:
        return not len(stream._replays)

    await until(none_left)


async def test_a_channel_resumes_from_every_position_that_it_was_given(
    migrated: str, notes: asyncpg.Connection
) -> None:
    async with streaming(migrated, page_size=7) as stream:
        whole = await subscribed(stream, "notes")
        await written(notes, 1, 10)
        # Larger than a page: read by parts.
        await notes.execute("insert into notes select n, 'ada', 'x' from generate_series(11, 40) as n")
        await written(notes, 41, 45)
        await whole.until(lambda: len(whole.changes) == 45)
        resumed = []
        for change in whole.changes:
            resumed.append(await subscribed(stream, "notes", resume=change["position"]))
        await written(notes, 46, 50)
        for after, kept in enumerate(resumed, start=1):
            await kept.until(lambda kept=kept, after=after: len(kept.changes) >= 50 - after)  # type: ignore[misc]
        await whole.until(lambda: len(whole.changes) == 50)
        await arrived(stream)
        for after, kept in enumerate(resumed, start=1):
            assert kept.changes == whole.changes[after:]
            assert kept.gaps == []
