"""How roles may read tables."""

import asyncpg
import pytest

from rowcast.auth.access import Access

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
        access = Access(["anon", "authenticated", "service_role", "nobody"])
        await access.load(connection, [oid, 1])
        assert access.columns("anon", oid) == frozenset({"id", "the body"})
        assert access.columns("authenticated", oid) is None
        assert access.refusal("authenticated", oid) is None
        refusal = "the role service_role may not read it: GRANT SELECT ON public.notes TO service_role;"
        assert access.refusal("service_role", oid) == refusal
        assert access.refusal("nobody", oid) == 'the role "nobody" does not exist in the database'
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
        access = Access(["anon"])
        await access.load(connection, [oid])
        assert access.columns("anon", oid) == frozenset({"body"})
    finally:
        await connection.close()
