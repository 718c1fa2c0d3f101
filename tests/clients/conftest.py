"""Fixtures for the official clients' tests: each client in turn, and a connection that writes."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from support.official import OFFICIAL, Driven, Official, drive
from support.server import Server


@pytest.fixture(params=OFFICIAL, ids=lambda official: official.name)
async def client(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Driven]:
    """Each official client in turn, created for the server."""
    official: Official = request.param
    async with drive(official) as driven:
        await driven.connect(server.url, server.token())
        yield driven


@pytest.fixture
async def db(server: Server) -> AsyncIterator[asyncpg.Connection]:
    """A connection that writes, as the owner of the tables."""
    connection = await asyncpg.connect(server.database)
    yield connection
    await connection.close()
