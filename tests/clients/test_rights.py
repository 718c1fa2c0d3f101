"""Rights with the official clients: what each key and each user hears of a table with policies."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from support.official import OFFICIAL, Driven, Official, binding, drive, rows
from support.server import Server
from support.tokens import make_token

ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
TABLES = """
create table notes (id int primary key, owner uuid, body text);
alter table notes enable row level security;
create policy own on notes for select to authenticated using (owner = auth.uid());
grant select on notes to anon, authenticated, service_role;
create table people (id int primary key, name text, salary int);
grant select (id, name) on people to authenticated;
grant select on people to service_role;
alter publication supabase_realtime add table notes, people;
"""
NOTES, PEOPLE = binding(table="notes"), binding(table="people")


@pytest.fixture(params=OFFICIAL, ids=lambda official: official.name)
def official(request: pytest.FixtureRequest) -> Official:
    """Each official client in turn."""
    return request.param  # type: ignore[no-any-return]


@contextlib.asynccontextmanager
async def connected(official: Official, server: Server, token: str | None = None) -> AsyncIterator[Driven]:
    """A client with the key of anon; with a token, signed in."""
    async with drive(official) as driven:
        await driven.connect(server.url, server.token())
        if token is not None:
            await driven.use(token)
        yield driven


def note(id_: int, owner: str, body: str) -> dict[str, Any]:
    return {"id": id_, "owner": owner, "body": body}


async def test_each_key_and_user_hears_its_rows_and_no_others(
    official: Official, server: Server, db: asyncpg.Connection
) -> None:
    await db.execute(TABLES)
    user = {sub: make_token("authenticated", sub=sub) for sub in (ONE, TWO)}
    async with (
        connected(official, server) as anon,
        connected(official, server, user[ONE]) as one,
        connected(official, server, user[TWO]) as two,
        connected(official, server, make_token("service_role")) as service,
    ):
        for client in (anon, one, two, service):
            await client.subscribe("room", NOTES)
        await anon.subscribe("todos", binding())
        await db.execute(f"insert into notes values (1, '{ONE}', 'a'), (2, '{TWO}', 'b')")
        await db.execute("update notes set body = 'c'")
        await db.execute(f"update notes set owner = '{TWO}' where id = 1")
        await db.execute("delete from notes")
        await db.execute(f"insert into notes values (3, '{ONE}', 'last'), (4, '{TWO}', 'last')")
        await db.execute("insert into todos values (1, 'last')")
        assert rows(await one.changes("room", 3)) == [
            ("INSERT", note(1, ONE, "a"), {}),
            ("UPDATE", note(1, ONE, "c"), {"id": 1}),
            ("INSERT", note(3, ONE, "last"), {}),
        ]
        assert rows(await two.changes("room", 6)) == [
            ("INSERT", note(2, TWO, "b"), {}),
            ("UPDATE", note(2, TWO, "c"), {"id": 2}),
            # It could not see this row before.
            ("UPDATE", note(1, TWO, "c"), {}),
            ("DELETE", {}, {"id": 2}),
            ("DELETE", {}, {"id": 1}),
            ("INSERT", note(4, TWO, "last"), {}),
        ]
        assert len(await service.changes("room", 9)) == 9
        await anon.changes("todos", 1)
        for client in (anon, one, two, service):
            assert not [event for event in client.seen if event["event"] == "change"]


async def test_columns_that_were_not_granted_are_not_there(
    official: Official, server: Server, db: asyncpg.Connection
) -> None:
    await db.execute(TABLES)
    await db.execute("alter table people replica identity full")
    token = make_token("authenticated", sub=ONE)
    async with (
        connected(official, server, token) as one,
        connected(official, server, token) as curious,
        connected(official, server) as anon,
    ):
        await one.subscribe("room", PEOPLE)
        await anon.tell("subscribe", channel="room", bindings=[PEOPLE])
        assert "GRANT SELECT ON public.people TO anon" in await anon.refused("room")
        salaries = binding(table="people", filter="salary=gt.1")
        await curious.tell("subscribe", channel="salaries", bindings=[salaries])
        assert "invalid column for filter salary" in await curious.refused("salaries")
        await db.execute("insert into people values (1, 'Ada', 1000)")
        await db.execute("update people set salary = 2000")
        await db.execute("delete from people")
        ada = {"id": 1, "name": "Ada"}
        assert rows(await one.changes("room", 3)) == [
            ("INSERT", ada, {}), ("UPDATE", ada, ada), ("DELETE", {}, ada),
        ]  # fmt: skip


async def test_another_token_changes_what_is_heard_on_the_same_channel(
    official: Official, server: Server, db: asyncpg.Connection
) -> None:
    await db.execute(TABLES)
    async with connected(official, server) as client:
        await client.subscribe("room", NOTES)
        for number, sub in enumerate((ONE, TWO)):
            await client.use(make_token("authenticated", sub=sub))
            await client.ready("room")
            first, second = 2 * number, 2 * number + 1
            await db.execute(f"insert into notes values ({first}, '{ONE}', 'a'), ({second}, '{TWO}', 'b')")
            (heard,) = rows(await client.changes("room", 1))
            assert heard[1]["owner"] == sub
        assert not [event for event in client.seen if event["event"] == "change"]
