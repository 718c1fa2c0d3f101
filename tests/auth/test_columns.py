"""Which columns a role may read."""

import asyncpg
import pytest

from rowcast.auth.columns import readable_columns

pytestmark = pytest.mark.anyio


async def test_columns_are_those_that_were_granted_or_all_of_a_table(migrated: str) -> None:
    connection = await asyncpg.connect(migrated)
    try:
        await connection.execute("""
            create table notes (id int primary key, "the body" text, secret text, gone int);
            grant select (id, "the body", gone) on notes to anon;
            grant select on notes to authenticated;
            alter table notes drop gone;
        """)
        oid = await connection.fetchval("select 'notes'::regclass::oid")
        roles = ["anon", "authenticated", "service_role", "nobody"]
        assert await readable_columns(connection, roles, [oid, 1]) == {
            ("anon", oid): frozenset({"id", "the body"}),
            ("authenticated", oid): None,
            ("service_role", oid): frozenset[str](),
        }
    finally:
        await connection.close()


async def test_a_column_under_another_name_is_not_granted_under_the_old_one(migrated: str) -> None:
    connection = await asyncpg.connect(migrated)
    try:
        await connection.execute("""
            create table notes (id int, secret text);
            grant select (secret) on notes to anon;
            alter table notes rename secret to body;
        """)
        oid = await connection.fetchval("select 'notes'::regclass::oid")
        assert await readable_columns(connection, ["anon"], [oid]) == {("anon", oid): frozenset({"body"})}
    finally:
        await connection.close()
