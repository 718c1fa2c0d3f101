"""Names of every kind, roles, and a publication that changes: the cases of the original's own tests that
need tables of their own. The others are in tests/web."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from rowcast.protocol.messages import Version
from support.server import Server
from transcripts.frames import DISABLED, OK, Change, Told
from transcripts.stage import Stage, both
from transcripts.steps import on

pytestmark = pytest.mark.anyio

TOPIC = "realtime:catalog"
Serve = Callable[..., Awaitable[Server]]


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


async def publish(stage: Stage, table: str, columns: str = "id int primary key") -> None:
    """Make a table anew that anon may read, in the publication."""
    await stage.run(
        f"drop table if exists {table}; create table {table} ({columns}); grant select on {table} to anon;"
        f"alter publication supabase_realtime add table {table}"
    )


@both
@pytest.mark.parametrize(
    "name",
    [
        "a table",
        "a,b",
        "a.b",
        'say "hi"',
        "it's",
        r"back\slash",
        "tab\there",
        "🎉 party",
        "Capital",
        "*x",
        "ü",
    ],
)
async def test_case_91_a_name_may_hold_anything(stage: Stage, name: str, version: Version) -> None:
    schema = f"s {name}"
    table = f"{quoted(schema)}.{quoted(name)}"
    await stage.run(f"create schema if not exists {quoted(schema)}")
    await stage.run(f"grant usage on schema {quoted(schema)} to anon")
    await publish(stage, table, f"id int primary key, {quoted(name)} text")
    columns = [{"name": "id", "type": "int4"}, {"name": name, "type": "text"}]
    async with stage.client(version) as client:
        # A comma ends a condition, so no filter can name a column that has one.
        filter_ = "id=eq.2" if "," in name else f"{name}=eq.here"
        entry = {"event": "*", "schema": schema, "table": name, "filter": filter_}
        await client.subscribe(TOPIC, entry)
        await stage.run(f"insert into {table} values (1, 'there'), (2, 'here')")
        said = await client.hear()
    data = (said["payload"] if version is Version.V1 else said[4])["data"]
    assert (data["schema"], data["table"], data["columns"]) == (schema, name, columns)
    assert data["record"] == {"id": 2, name: "here"}


async def test_case_91_percent_and_underscore_in_a_name_are_no_pattern(stage: Stage) -> None:
    for table in ('"a_b"', '"a%"', '"axb"'):
        await publish(stage, table)
    text = f"{DISABLED} [event: *, schema: public, table: a_%, filters: [], select: nil]"
    async with stage.client() as client:
        await client.join("realtime:none", on("a_%"))
        await client.hears_event("realtime:none", Told(text))
        await client.subscribe(TOPIC, on("a_b"), on("a%"))
        await stage.run('insert into "axb" values (1)', 'insert into "a_b" values (2)')
        await stage.run('insert into "a%" values (3)')
        await client.hears_event(TOPIC, Change("INSERT", "a_b", "id:int4", {"id": 2}))
        await client.hears_event(TOPIC, Change("INSERT", "a%", "id:int4", {"id": 3}, entries=(1,)))


async def test_case_92_types_in_quotes_are_filtered_and_shown_by_their_names(stage: Stage) -> None:
    await stage.run(
        "create schema other; grant usage on schema other to anon;"
        """create type other."Mood of day" as enum ('Good', 'so, so');"""
        """create domain other."short text" as text check (length(value) < 9)"""
    )
    await publish(stage, "other.t", 'id int primary key, m other."Mood of day", s other."short text", u uuid')
    one, two = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12"
    filters = 'm=eq."so, so"', "s=eq.short", f"u=in.({one},{one.upper()})", "m=in.(Good)"
    columns = [
        {"name": "id", "type": "int4"}, {"name": "m", "type": "Mood of day"},
        {"name": "s", "type": "short text"}, {"name": "u", "type": "uuid"},
    ]  # fmt: skip
    async with stage.client() as client:
        entries = [on("t", schema="other", filter=filter_) for filter_ in filters]
        ids = await client.subscribe(TOPIC, *entries)
        await stage.run(
            f"insert into other.t values (1, 'so, so', 'short', '{one}'), (2, 'Good', 'long', '{two}')"
        )
        first, second = [(await client.hear())[4] for _ in range(2)]
    assert (sorted(first["ids"]), second["ids"]) == (sorted(ids[:3]), [ids[3]])
    assert first["data"]["columns"] == columns
    assert first["data"]["record"] == {"m": "so, so", "s": "short", "u": one, "id": 1}


async def test_case_92_a_role_may_have_a_hyphen_in_its_name(
    migrated: str, serve: Serve, database_names: Iterator[str]
) -> None:
    role = f"role-{next(database_names)}"
    connection = await asyncpg.connect(migrated)
    await connection.execute(f"create role {quoted(role)}; create table t (id int primary key, txt text)")
    try:
        await connection.execute(
            f"grant select on t to {quoted(role)}; alter publication supabase_realtime add table t"
        )
        stage = Stage(await serve(migrated, ROWCAST_ROLES=f"anon,{role}"), connection)
        async with stage.client(role=role) as client:
            await client.subscribe(TOPIC, on("t"), on("t", filter="txt=like.a%"))
            await stage.run("insert into t values (1, 'abc')")
            record = {"id": 1, "txt": "abc"}
            await client.hears_event(TOPIC, Change("INSERT", "t", "id:int4 txt:text", record, entries=(0, 1)))
    finally:
        await connection.execute(f"drop owned by {quoted(role)}; drop role {quoted(role)}")
        await connection.close()


@both
@pytest.mark.parametrize("filter_", ["", "id=gt.0", "txt=like.%"])
async def test_case_93_a_table_that_leaves_the_publication_and_returns_is_told_at_once(
    stage: Stage, filter_: str, version: Version
) -> None:
    await publish(stage, "moving", "id int primary key, txt text default ''")

    def inserted(id_: int) -> Change:
        return Change("INSERT", "moving", "id:int4 txt:text", {"id": id_, "txt": ""})

    shown = {"": "[]", "id=gt.0": '[{"id", "gt", "0", false}]', "txt=like.%": '[{"txt", "like", "%", false}]'}
    gone = f"{DISABLED} [event: *, schema: public, table: moving, filters: {shown[filter_]}, select: nil]"
    async with stage.client(version) as client:
        await client.subscribe(TOPIC, on("moving", filter=filter_))
        await stage.run("insert into moving values (1)")
        await stage.run("alter publication supabase_realtime drop table moving")
        await client.hears_event(TOPIC, inserted(1))
        await client.hears_event(TOPIC, Told(gone))
        await stage.run("insert into moving values (2)")
        await stage.run("alter publication supabase_realtime add table moving")
        await client.hears_event(TOPIC, OK)
        await stage.run("insert into moving values (3)")
        await client.hears_event(TOPIC, inserted(3))


@both
async def test_case_93_a_new_table_is_heard_by_who_subscribed_to_everything(
    stage: Stage, version: Version
) -> None:
    await stage.run("drop table if exists brand_new")
    async with stage.client(version) as client:
        await client.subscribe(TOPIC, {"event": "*", "schema": "public"})
        await publish(stage, "brand_new")
        await client.hears_event(TOPIC, OK)
        await stage.run("insert into brand_new values (1)")
        await client.hears_event(TOPIC, Change("INSERT", "brand_new", "id:int4", {"id": 1}))


@both
async def test_case_95_who_left_hears_nothing_more(stage: Stage, version: Version) -> None:
    await publish(stage, "left_behind")
    async with stage.client(version) as client:
        for topic in (TOPIC, "realtime:stays"):
            await client.subscribe(topic, on("left_behind"))
        await client.say(TOPIC, "phx_leave", {}, "2")
        await client.hears(TOPIC, "phx_reply", {"status": "ok", "response": {}}, "2", "1")
        await client.hears(TOPIC, "phx_close", {}, "1", "1")
        await stage.run("insert into left_behind values (1)")
        await stage.settle()
        assert await client.rows("realtime:stays") == [("INSERT", 1)]


async def test_case_95_who_died_disturbs_nobody(stage: Stage) -> None:
    await publish(stage, "left_behind")
    async with stage.client() as stays, stage.client() as dies:
        for client in (stays, dies):
            await client.subscribe(TOPIC, on("left_behind"))
        dies.connection.transport.abort()
        await asyncio.wait_for(dies.connection.wait_closed(), 30)
        rows: list[tuple[str, Any]] = []
        for number in range(5):
            await stage.run(f"insert into left_behind values ({number})")
            await stage.settle()
            rows += await stays.rows(TOPIC)
        assert rows == [("INSERT", number) for number in range(5)]
