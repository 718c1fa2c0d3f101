"""The official clients, unmodified, against the real server: filters, columns, refusals.

What a row must pass is said twice, as a filter and in SQL: a client must hear what Postgres finds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from support.databases import execute
from support.official import OFFICIAL, Driven, binding, rows
from support.server import Server

#: What the server judges by itself, in a channel without the others.
JUDGED = {
    "score=eq.5": "score = 5",
    "score=neq.5": "score <> 5",
    "score=lt.7": "score < 7",
    "score=lte.7": "score <= 7",
    "score=gt.5": "score > 5",
    "score=gte.5": "score >= 5",
    "score=in.(5,6)": "score in (5, 6)",
    "score=isdistinct.5": "score is distinct from 5",
    "name=isdistinct.null": "name is distinct from 'null'",
    "name=eq.abc": "name = 'abc'",
    "name=is.null": "name is null",
    "done=is.true": "done is true",
    "done=is.false": "done is false",
    "done=is.unknown": "done is unknown",
    "mood=eq.happy": "mood = 'happy'",
    "uid=eq.A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11": "uid = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
    "at=gt.2024-06-01": "at > '2024-06-01Z'",
    "score=not.eq.5": "not score = 5",
    "score=not.in.(5,6)": "not score in (5, 6)",
    "score=not.isdistinct.5": "score is not distinct from 5",
    "name=not.is.null": "name is not null",
    "done=not.is.true": "done is not true",
    "score=gt.4,score=lt.6": "score > 4 and score < 6",
    "score=gt.4,done=is.false,name=not.is.null": "score > 4 and done is false and name is not null",
    'name=eq."x,y"': "name = 'x,y'",
    'name=eq."quo\\"ted",score=eq.8': "name = 'quo\"ted' and score = 8",
    'name=in.(abc,"x,y")': "name in ('abc', 'x,y')",
    'name=in.("quo\\"ted","(",",")': "name in ('quo\"ted', '(', ',')",
    "or(score.eq.5,done.is.false)": "score = 5 or done is false",
    "not.or(score.eq.5,name.eq.abc)": "not (score = 5 or name = 'abc')",
    "or(and(score.gt.5,score.lt.8),name.is.null)": "score > 5 and score < 8 or name is null",
    'score=gt.6,or=(name.eq."x,y",name.eq.abc)': "score > 6 and (name = 'x,y' or name = 'abc')",
}

#: What it has to ask Postgres.
ASKED = {
    "name=like.a%": "name like 'a%'",
    "name=not.like.a%": "name not like 'a%'",
    "name=ilike.A%": "name ilike 'A%'",
    "name=match.^[az]": "name ~ '^[az]'",
    "name=imatch.^A": "name ~* '^A'",
    'name=match."^(x|q).*[,\\"]"': "name ~ '^(x|q).*[,\"]'",
    "name=gt.quo": "name > 'quo'",
    "price=gte.10.50": "price >= 10.50",
    "price=in.(10.5,20.00)": "price in (10.5, 20.00)",
    "mood=gt.sad": "mood > 'sad'",
    'tags=eq."{a,b}"': "tags = '{a,b}'",
    'tags=eq."{\\"c,d\\",NULL}"': "tags = '{\"c,d\",NULL}'",
    'tags=neq."{a,b}"': "tags <> '{a,b}'",
    "meta->>kind=eq.x": "meta ->> 'kind' = 'x'",
    "meta->n->>deep=is.null": "meta -> 'n' ->> 'deep' is null",
    'meta->n->deep=eq."[1, 2]"': "meta -> 'n' -> 'deep' = '[1,2]'",
    "meta->n->deep->1=eq.2": "meta -> 'n' -> 'deep' -> 1 = '2'",
    "or(meta->>kind.eq.y,name.like.q%)": "meta ->> 'kind' = 'y' or name like 'q%'",
    "meta->>kind=in.(x,z),score=gt.1": "meta ->> 'kind' in ('x', 'z') and score > 1",
}

_THINGS = """
    create type mood as enum ('sad', 'ok', 'happy');
    create table things (
        id int primary key, name text, score int, price numeric, done bool, mood mood, tags text[],
        meta jsonb, at timestamptz, uid uuid
    );
    grant select on things to anon;
    alter publication supabase_realtime add table things;
"""
_ROWS = """
    insert into things values
        (1, 'abc', 5, 10.5, true, 'happy', '{a,b}', '{"kind": "x", "n": {"deep": [1, 2]}}',
         '2024-06-01 12:00Z', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
        (2, 'x,y', 7, 20, false, 'sad', '{"c,d",null}', '{"kind": "y"}',
         '2024-05-31Z', 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
        (3, null, null, null, null, null, null, null, null, null),
        (4, 'quo"ted', 8, 10.50, false, 'ok', '{}', '[]', 'infinity', null)
"""


@pytest.fixture
async def server(todos: str, serve: Callable[..., Awaitable[Server]]) -> Server:
    """A running server, for a database of ``todos`` and ``things``."""
    execute(todos, _THINGS)
    return await serve(todos)


async def found(db: asyncpg.Connection, where: str) -> list[int]:
    """The ids of things that Postgres finds."""
    return [record["id"] for record in await db.fetch(f"select id from things where {where} order by id")]


def told(changes: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """The events, and the ids of their rows."""
    return [(event, (new or old)["id"]) for event, new, old in rows(changes)]


async def test_each_filter_lets_through_what_postgres_finds(client: Driven, db: asyncpg.Connection) -> None:
    channels = {"judged": JUDGED, "asked": ASKED}
    for channel, filters in channels.items():
        asked = [binding(table="things", filter=filter_) for filter_ in filters]
        await client.subscribe(channel, *asked, binding(table="things"))
    expected: dict[str, list[tuple[str, int]]] = {filter_: [] for filter_ in {**JUDGED, **ASKED}}

    async def expect(event: str, among: str = "true") -> None:
        for filter_, sql in {**JUDGED, **ASKED}.items():
            expected[filter_] += [(event, id_) for id_ in await found(db, f"({sql}) and {among}")]

    await db.execute(_ROWS)
    await expect("INSERT")
    await db.execute("update things set name = 'zzz', meta = '{\"kind\": \"z\"}', tags = '{b}' where id = 1")
    await expect("UPDATE", "id = 1")
    for id_ in (1, 2, 3, 4):
        # Of a DELETE, the whole old row is looked at, though its key is all that is shown.
        await expect("DELETE", f"id = {id_}")
        await db.execute("delete from things where id = $1", id_)
    for channel, filters in channels.items():
        heard = await client.heard(channel, len(filters), 9)
        given = {filter_: told(heard[number]) for number, filter_ in enumerate(filters)}
        assert given == {filter_: expected[filter_] for filter_ in filters}
    assert all(expected.values())


@pytest.mark.parametrize(
    "client",
    [official for official in OFFICIAL if official.package == "supabase-js"],
    ids=lambda official: official.name,
    indirect=True,
)
async def test_filters_of_the_clients_own_builder_mean_what_was_given_to_it(
    client: Driven, db: asyncpg.Connection
) -> None:
    names = [
        "x,y",
        'quo"ted',
        "back\\slash",
        "(in",
        "out)",
        " spaced ",
        "two\nlines",
        "null",
        "a.b=eq.c",
        "🌱",
    ]
    built: list[list[Any]] = [[["eq", "name", name]] for name in names]
    built += [[["not", "name", "in", names[:6]]], [["in", "name", names], ["isDistinct", "name", names[0]]]]
    built += [
        [["like", "name", "%\\\\%"]],
        [["is", "name", None]],
        [["gte", "score", 3], ["neq", "name", "🌱"]],
    ]
    await client.subscribe(
        "room", *(binding(table="things", filter=calls) for calls in built), binding(table="things")
    )
    await db.executemany(
        "insert into things (id, name, score) values ($1, $2, $1)", list(enumerate([*names, None]))
    )
    heard = await client.heard("room", len(built), len(names) + 1)
    given = [[id_ for _, id_ in told(heard[number])] for number in range(len(built))]
    assert given[: len(names)] == [[number] for number in range(len(names))]
    # It writes the text null in a list without quotes, which Postgres takes for NULL.
    assert given[len(names) :] == [[6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 8, 9], [2], [10], [3, 4, 5, 6, 7, 8]]


async def test_each_callback_of_a_channel_is_given_its_own_rows(
    client: Driven, db: asyncpg.Connection
) -> None:
    await client.subscribe(
        "room",
        binding("INSERT", filter="id=gt.1"),
        binding("UPDATE", filter="done=is.true"),
        binding("DELETE", filter="task=eq.b"),
        binding("INSERT", filter="id=gt.2"),
        binding("INSERT", filter="id=gt.100"),
        binding(table="things", filter="id=gt.1"),
        binding(),
    )
    await db.execute("insert into todos values (1, 'a'), (2, 'b'), (3, 'c')")
    await db.execute("update todos set done = true where id in (1, 3)")
    await db.execute("delete from todos")
    heard = await client.heard("room", 6, 8)
    assert told(heard[0]) == [("INSERT", 2), ("INSERT", 3)]
    assert told(heard[3]) == [("INSERT", 3)]
    assert told(heard[1]) == [("UPDATE", 1), ("UPDATE", 3)]
    assert told(heard[2]) == [("DELETE", 2)]
    assert heard[4] == heard[5] == []


async def test_each_callback_sees_the_columns_it_asked_for(client: Driven, db: asyncpg.Connection) -> None:
    await db.execute("alter table todos replica identity full")
    await client.subscribe(
        "room",
        binding(select=["task"]),
        binding(select=["done", "id"], filter="done=is.true"),
        binding(),
    )
    await db.execute("insert into todos values (1, 'a')")
    await db.execute("update todos set done = true")
    await db.execute("delete from todos")
    # Each list of columns has a message of its own, and their order is not promised.
    given: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for _ in range(3 + 2 + 3):
        event = await client.event("change", channel="room")
        given[event["binding"]] += rows([event["payload"]])
    assert given[0] == [
        ("INSERT", {"id": 1, "task": "a"}, {}),
        ("UPDATE", {"id": 1, "task": "a"}, {"id": 1, "task": "a"}),
        ("DELETE", {}, {"id": 1, "task": "a"}),
    ]
    assert given[1] == [
        ("UPDATE", {"id": 1, "done": True}, {"id": 1, "done": False}),
        ("DELETE", {}, {"id": 1, "done": True}),
    ]
    assert given[2][0] == ("INSERT", {"id": 1, "task": "a", "done": False}, {})
    assert len(given[2]) == 3


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"filter": "colour=eq.red"}, "invalid column for filter colour"),
        ({"filter": "id=eq.x"}, 'invalid input syntax for type integer: "x"'),
        ({"filter": "id=frobs.1"}, 'Error parsing `filter` params: ["frobs", "1"]'),
        ({"filter": "id=in.1"}, "`in` filter value must be wrapped by parentheses"),
        ({"select": ["colour"]}, "invalid column for select colour"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_refusal_names_what_is_wrong(client: Driven, wrong: dict[str, Any], reason: str) -> None:
    await client.tell("subscribe", channel="room", bindings=[binding(**wrong)])
    assert reason in await client.refused("room")


async def test_a_refused_filter_takes_no_other_with_it(client: Driven, db: asyncpg.Connection) -> None:
    asked = [binding(filter="colour=eq.red"), binding(filter="id=gt.1")]
    await client.tell("subscribe", channel="room", bindings=asked)
    assert "invalid column for filter colour" in await client.refused("room")
    await client.ready("room")
    if client.official.package is None:
        # Its channel has failed for the Python client, which joins again a second later, is refused again,
        # and so on; what is written between two of its joins it does not hear.
        await client.ready("room")
        assert "invalid column for filter colour" in await client.refused("room")
    async with asyncio.timeout(30):
        number = 1
        reading = asyncio.ensure_future(client.changes("room", 1))
        while not reading.done():
            number += 1
            await db.execute("insert into todos values (1), ($1) on conflict do nothing", number)
            await asyncio.wait([reading], timeout=0.1)
    assert told(await reading)[0][1] > 1
