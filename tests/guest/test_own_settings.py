"""What an administrator set for the role or the database is no hindrance."""

import asyncio

import asyncpg
import pytest

from rowcast.db.connection import ADVISORY_MIGRATE, connect
from rowcast.db.migrations import migrate
from rowcast.db.uninstall import uninstall
from rowcast.errors import DatabaseError
from support import databases

pytestmark = pytest.mark.anyio


def administer(database: str, setting: str) -> None:
    """Have it hold for every session that begins from now on."""
    databases.execute(
        database,
        f"do $$ begin execute format('alter database %I set {setting}', current_database()); end $$",
    )


@pytest.mark.parametrize(
    "setting", ["idle_in_transaction_session_timeout = 50", "standard_conforming_strings = off"]
)
async def test_it_comes_and_goes_whatever_is_set_for_sessions(database: str, setting: str) -> None:
    administer(database, setting)
    assert await migrate(database)
    removal = await uninstall(database)
    assert removal is not None
    assert "the schema rowcast" in removal.removed


async def test_sessions_of_ours_are_not_ended_by_what_is_set_for_those_that_are_forgotten(
    database: str,
) -> None:
    for setting in ("statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"):
        administer(database, f"{setting} = 60000")
    connection = await connect(database, purpose="test")
    try:
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"):
            assert await connection.fetchval("select current_setting($1)", setting) == "0"
    finally:
        await connection.close()


@pytest.mark.parametrize("pooled", [False, True])
async def test_a_role_that_may_only_read_is_told_how_it_may_write(database: str, pooled: bool) -> None:
    administer(database, "default_transaction_read_only = on")
    with pytest.raises(DatabaseError) as refused:
        await connect(database, purpose="test", pooled=pooled)
    assert "SET default_transaction_read_only = off" in str(refused.value)


async def test_who_uninstalls_while_another_does_finds_nothing_left(migrated: str) -> None:
    first = await asyncpg.connect(migrated)
    try:
        # The other one, in the middle of it.
        await first.execute("begin")
        await first.execute("select pg_advisory_xact_lock($1::bigint)", ADVISORY_MIGRATE)
        second = asyncio.create_task(uninstall(migrated))
        async with asyncio.timeout(30):
            while not await first.fetchval(
                "select exists (select from pg_stat_activity where datname = current_database()"
                " and application_name = 'rowcast migrate')"
            ):
                # Within a transaction what was seen of others stays the same.
                await first.execute("select pg_stat_clear_snapshot()")
        await first.execute("drop schema rowcast cascade")
        await first.execute("commit")
        assert await second is None
    finally:
        await first.close()
