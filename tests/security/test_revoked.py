"""Rights that are taken away while somebody listens: from when on nothing more arrives."""

from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from rowcast.model.claims import Claims
from support.streams import Kept, streaming, subscribed

pytestmark = pytest.mark.anyio


class Roles:
    """A connection that writes to a table ``notes``, and two roles: a group that may read it and its
    member."""

    def __init__(self, database: str, connection: asyncpg.Connection, name: str) -> None:
        self.database, self.connection = database, connection
        self.member, self.group = f"{name}_member", f"{name}_group"
        self._number = 0

    @property
    def claims(self) -> Claims:
        return Claims(self.member, 2e9, {"role": self.member, "sub": "ada"})

    async def insert(self, service: Kept) -> int:
        """Insert a row, and return its id when it was heard by whoever may read everything."""
        self._number += 1
        await self.connection.execute("insert into notes values ($1, 'ada')", self._number)
        await service.until(lambda: ids(service)[-1:] == [self._number])
        return self._number


def ids(kept: Kept) -> list[int]:
    return [change["record"]["id"] for change in kept.changes]


@pytest.fixture
async def roles(migrated: str, database_names: Iterator[str]) -> AsyncIterator[Roles]:
    connection = await asyncpg.connect(migrated)
    made = Roles(migrated, connection, next(database_names))
    await connection.execute(f"""
        create role {made.group}; create role {made.member} in role {made.group};
        create table notes (id int primary key, who text);
        alter table notes enable row level security;
        create policy own on notes using (who = auth.jwt() ->> 'sub');
        grant select on notes to {made.group}, service_role;
        grant usage on schema auth to {made.group};
        alter publication supabase_realtime add table notes;
    """)
    yield made
    for role in (made.member, made.group):
        if await connection.fetchval("select exists (select from pg_roles where rolname = $1)", role):
            await connection.execute(f"drop owned by {role}; drop role {role}")
    await connection.close()


@pytest.mark.parametrize(
    "taken",
    [
        "revoke select on notes from <group>",
        "revoke select on notes from <group>; grant select (who) on notes to anon",
        "revoke usage on schema public from public",
        "drop policy own on notes",
        "alter policy own on notes using (false)",
        "create policy closed on notes as restrictive using (false)",
    ],
)
async def test_rows_written_after_rights_were_taken_away_are_not_sent(roles: Roles, taken: str) -> None:
    """An event trigger tells of it, in its place among the changes."""
    async with streaming(roles.database, roles=(roles.member,)) as stream:
        service = await subscribed(stream, "notes")
        member = await subscribed(stream, "notes", claims=roles.claims)
        last = await roles.insert(service)
        await member.until(lambda: ids(member) == [last])
        await roles.connection.execute(taken.replace("<group>", roles.group))
        if "schema" in taken:
            await roles.connection.execute("grant usage on schema public to service_role")
        for _ in range(5):
            await roles.insert(service)
        await stream._present.settle()
        assert ids(member) == [last]


@pytest.mark.parametrize(
    "taken", ["revoke <group> from <member>", "drop owned by <member>; drop role <member>"]
)
async def test_a_membership_or_a_role_that_is_gone_counts_when_the_keeper_looks_again(
    roles: Roles, taken: str
) -> None:
    """No event trigger tells of these: the keeper's timer bounds it, ten seconds."""
    async with streaming(roles.database, roles=(roles.member,)) as stream:
        service = await subscribed(stream, "notes")
        member = await subscribed(stream, "notes", claims=roles.claims)
        last = await roles.insert(service)
        await member.until(lambda: ids(member) == [last])
        statement = taken.replace("<group>", roles.group).replace("<member>", roles.member)
        await roles.connection.execute(statement)
        await member.until(lambda: bool(member.told))
        heard = ids(member)
        assert member.told[0][0] == "error"
        for _ in range(5):
            await roles.insert(service)
        await stream._present.settle()
        assert ids(member) == heard
