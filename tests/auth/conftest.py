"""A table whose policy lets everybody see their own rows, and a connection to judge on."""

from collections.abc import AsyncIterator

import asyncpg
import pytest


@pytest.fixture
async def admin(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection, for making tables."""
    connection = await asyncpg.connect(migrated)
    yield connection
    await connection.close()


@pytest.fixture
async def judging(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to judge on."""
    connection = await asyncpg.connect(migrated, statement_cache_size=0)
    yield connection
    connection.terminate()


@pytest.fixture
async def notes(admin: asyncpg.Connection) -> asyncpg.Connection:
    """A table ``notes`` with four rows, whose owner alone may read them."""
    await admin.execute("""
        create table notes (id int primary key, owner text, body text, team int);
        insert into notes values (1, 'ada', 'a', 1), (2, 'bob', 'b', 1),
          (3, null, 'c', 2), (4, 'ada', 'd', 2);
        alter table notes enable row level security;
        grant select on notes to anon, authenticated, service_role;
        create policy own on notes for select using (owner = auth.jwt() ->> 'sub');
    """)
    return admin
