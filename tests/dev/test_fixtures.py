"""The databases that tests get: empty, their own, and gone afterwards."""

import asyncpg


async def test_a_database_is_empty_and_its_user_is_a_superuser(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        tables = await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'")
        assert tables == 0
        assert await connection.fetchval("select current_setting('is_superuser')") == "on"
        await connection.execute("create table public.mine ()")
    finally:
        await connection.close()


async def test_the_next_test_has_another_database(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetchval("select to_regclass('public.mine')") is None
    finally:
        await connection.close()


async def test_a_migrated_database_has_our_schemas(migrated: str) -> None:
    connection = await asyncpg.connect(migrated)
    try:
        found = await connection.fetchval(
            "select count(*) from pg_namespace where nspname in ('rowcast', 'realtime')"
        )
        assert found == 2
    finally:
        await connection.close()
