"""A migrated database that captures, and what was read of it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from rowcast.capture.reader import Reader, Row


@pytest.fixture
async def capturing(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection to a database whose triggers capture."""
    connection = await asyncpg.connect(migrated)
    await connection.execute("select rowcast.renew_lease(3600)")
    yield connection
    await connection.close()


@pytest.fixture
async def reader(capturing: asyncpg.Connection, migrated: str) -> AsyncIterator["Reading"]:
    """A reader that stands at this moment, on a connection of its own."""
    connection = await asyncpg.connect(migrated)
    reading = Reading(connection)
    await reading.reader.open(connection)
    yield reading
    await connection.close()


class Reading:
    """A reader with its connection."""

    def __init__(self, connection: asyncpg.Connection, size: int = 1000) -> None:
        self.connection = connection
        self.reader = Reader(size)

    async def rows(self) -> list[Row]:
        """Everything that is new, without what only says that the catalog changed."""
        found: list[Row] = []
        async for page in self.reader.read(self.connection):
            found += [row for row in page.rows if row.op != "C"]
        return found

    async def changes(self) -> list[tuple[str, str | None, str | None]]:
        """The same, as (op, old image, new image)."""
        return [(row.op, row.old_record, row.record) for row in await self.rows()]
