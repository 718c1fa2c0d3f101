"""A migrated database that captures, and what was read of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from rowcast.capture.reader import Reader, Row
from support import databases
from support.catalog import Catalog
from support.resuming import TABLES


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


@pytest.fixture
def tables() -> str:
    """What ``notes`` makes. A module whose tables are others has a fixture of its own."""
    return TABLES


@pytest.fixture
async def notes(migrated: str, tables: str) -> AsyncIterator[asyncpg.Connection]:
    """A writer to a database with captured tables."""
    connection = await asyncpg.connect(migrated)
    await connection.execute(tables)
    yield connection
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


@pytest.fixture(scope="module")
def catalog(postgres: str, migrated_template: str, database_names: Iterator[str]) -> Iterator[Catalog]:
    name = next(database_names)
    dsn = databases.create(postgres, name, template=migrated_template)
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(dsn, server_settings={"timezone": "UTC"}))
        yield Catalog(runner, connection, dsn)
        runner.run(connection.close())
    databases.drop(postgres, name)
