"""What tests of resuming share: two tables, and what was heard of them."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from rowcast.capture.stream import Stream
from support.waiting import until

TABLES = """
create table notes (id int primary key, owner text, body text);
grant select on notes to anon, authenticated, service_role;
create table others (id int primary key);
grant select on others to service_role;
alter publication supabase_realtime add table notes, others;
"""


def ids(changes: Sequence[dict[str, Any]]) -> list[int]:
    return [(change.get("record") or change["old_record"])["id"] for change in changes]


def told(changes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The changes without their positions: which batches there are is each reader's own affair."""
    return [{**change, "position": None} for change in changes]


async def written(notes: asyncpg.Connection, first: int, last: int) -> None:
    """One row for each transaction, and between them some that nobody hears."""
    for number in range(first, last + 1):
        await notes.execute("insert into notes values ($1, $2, 'x')", number, "ab"[number % 2])
        if number % 5 == 0:
            await notes.execute("insert into others values ($1)", number)


async def arrived(stream: Stream) -> None:
    """Wait until nobody resumes any more."""

    async def none_left() -> bool:
        return not len(stream._replays)

    await until(none_left)
