"""``postgres_changes`` over real sockets, from a real database: the cases of the original's own tests.

Each test is named after its case. Those that need a catalog of their own (91 to 93, 95) are in
tests/transcripts. Rows that only some subscribers may see (88) are not here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from rowcast.protocol.messages import Version
from support import databases
from support.server import Server
from transcripts.frames import DISABLED, FAILED, GIVEN, OK, Change, Told
from transcripts.stage import Stage, both, open_stage
from transcripts.steps import on

pytestmark = pytest.mark.anyio

TOPIC = "realtime:room:1"
COLUMNS = "id:int4 txt:text n:int4 raw:bytea u:uuid"
TABLES = """
create table things (id int primary key, txt text, n int, raw bytea, u uuid);
create table whole (id int primary key, txt text, n int, raw bytea, u uuid);
alter table whole replica identity full;
create table unread (id int primary key);
create table keyless (txt text);
create table unpublished (id int primary key);
grant select on things, whole, keyless, unpublished to anon;
alter publication supabase_realtime add table things, whole, unread, keyless;
"""
MISSING = "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to:"
PARSING = "Error parsing `filter` params:"
Serve = Callable[..., Awaitable[Server]]

identities = pytest.mark.parametrize("table", ["things", "whole"], ids=["key", "full"])


@pytest.fixture(scope="module")
async def _shared(
    postgres: str,
    migrated_template: str,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Stage]:
    name = next(database_names)
    database = databases.create(postgres, name, template=migrated_template)
    async with open_stage(database, tmp_path_factory.mktemp("stage") / "server.log", [TABLES]) as opened:
        yield opened
    databases.drop(postgres, name)


@pytest.fixture
async def stage(_shared: Stage) -> Stage:
    """A server whose tables are empty, and who has sent all that was written so far."""
    await _shared.run("truncate things, whole, unread, keyless")
    await _shared.settle()
    return _shared


def row(id_: int, txt: str | None = None, n: int | None = None, raw: str | None = None) -> dict[str, Any]:
    """A row of `things`, in the order of its record."""
    return {"n": n, "u": None, "id": id_, "raw": raw, "txt": txt}


async def heard(stage: Stage, filter_: str, *statements: str, table: str = "things") -> list[Any]:
    """What a subscriber with this filter hears of these statements: (operation, id) of each."""
    async with stage.client() as client:
        await client.subscribe(TOPIC, on(table, filter=filter_))
        await stage.run(*statements)
        await stage.settle()
        return await client.rows(TOPIC)


async def refused(stage: Stage, entry: Any, text: str) -> None:
    """Assert that an entry is refused with this text, and nothing else is said."""
    async with stage.client() as client:
        await client.join(TOPIC, entry)
        await client.hears_event(TOPIC, Told(text))
        await client.hears_nothing(listening=False)


def failed(table: str, filters: str, exception: str) -> str:
    """The text for a filter that does not fit its table."""
    given = f"[event: *, schema: public, table: {table}, filters: {filters}, select: nil]"
    return f"{FAILED} {given}. Exception: {exception}"


@both
async def test_case_76_a_join_is_echoed_and_its_subscription_told(stage: Stage, version: Version) -> None:
    async with stage.client(version) as client:
        (number,) = await client.join(TOPIC, {"table": "things", "schema": "public", "event": "INSERT"})
        assert 0 < number < 2**53
        await client.hears_event(TOPIC, OK)
        await client.hears_nothing(listening=True)


@both
@pytest.mark.parametrize("event", ["INSERT", "UPDATE", "DELETE", "*"])
async def test_case_77_each_event_has_its_shape(stage: Stage, event: str, version: Version) -> None:
    changes = [
        Change("INSERT", "things", COLUMNS, row(1, "a")),
        Change("UPDATE", "things", COLUMNS, row(1, "b"), {"id": 1}),
        Change("DELETE", "things", COLUMNS, old_record={"id": 1}),
    ]
    async with stage.client(version) as client:
        await client.subscribe(TOPIC, on("things", event))
        await stage.run("insert into things values (1, 'a')", "update things set txt = 'b'")
        await stage.run("delete from things")
        for change in changes:
            if event in ("*", change.type):
                await client.hears_event(TOPIC, change)
        await stage.settle()
        await client.hears_nothing(listening=True)


async def test_case_78_bytes_are_hexadecimal_digits(stage: Stage) -> None:
    async with stage.client() as client:
        await client.subscribe(TOPIC, on("things"))
        await stage.run(r"insert into things (id, raw) values (1, '\x0102030405')")
        await client.hears_event(TOPIC, Change("INSERT", "things", COLUMNS, row(1, raw="0102030405")))


@pytest.mark.parametrize("event", ["INSERT", "insert", "Insert"])
async def test_case_79_a_subscriber_to_inserts_hears_no_update(stage: Stage, event: str) -> None:
    async with stage.client() as client:
        await client.subscribe(TOPIC, on("things", event))
        await stage.run("insert into things values (1, 'a')", "update things set txt = 'b'")
        await stage.run("insert into things values (2, 'a')")
        await stage.settle()
        assert await client.rows(TOPIC) == [("INSERT", 1), ("INSERT", 2)]


@identities
@pytest.mark.parametrize(
    ("filter_", "matching", "other"),
    [
        ("n=eq.5", "5", "6"),
        ("n=neq.5", "6", "5"),
        ("n=lt.5", "4", "5"),
        ("n=lte.5", "5", "6"),
        ("n=gt.5", "6", "5"),
        ("n=gte.5", "5", "4"),
        ("n=in.(5,7)", "7", "6"),
        ("txt=like.a%", "'abc'", "'Abc'"),
        ("txt=ilike.A%", "'abc'", "'bca'"),
        ("txt=is.null", "null", "'null'"),
        ("txt=match.^a", "'abc'", "'Abc'"),
        ("txt=imatch.^A", "'abc'", "'bca'"),
        ("txt=isdistinct.a", "null", "'a'"),
    ],
)
async def test_case_80_an_operator_decides_on_insert_update_and_delete(
    stage: Stage, table: str, filter_: str, matching: str, other: str
) -> None:
    column = filter_.partition("=")[0]
    # The first row leaves the filter, the second comes into it. By its old row, only the second is deleted.
    assert await heard(
        stage,
        filter_,
        f"insert into {table} (id, {column}) values (1, {matching}), (2, {other})",
        f"update {table} set {column} = {other} where id = 1",
        f"update {table} set {column} = {matching} where id = 2",
        f"delete from {table}",
        table=table,
    ) == [("INSERT", 1), ("UPDATE", 2), ("DELETE", 2)]


@pytest.mark.parametrize(
    ("filter_", "ids"),
    [
        ("n=gte.2,n=lte.3", [2, 3]),
        ("txt=eq.a,n=eq.2", []),
        ("txt=eq.a,n=eq.1", [1]),
        ("txt=not.eq.a", [2, 3]),
        ("txt=not.in.(a,b)", [3]),
        ("n=not.gt.1", [1]),
        ("n=in.(1,2,4),txt=like.b%", [2]),
        ("txt=not.is.null", [1, 2, 3]),
        ("id=gt.1,id=lt.4,txt=not.eq.b,n=neq.9", [3]),
        (" n=eq.1 , txt=eq.a ", [1]),
    ],
)
async def test_case_81_all_conditions_must_hold(stage: Stage, filter_: str, ids: list[int]) -> None:
    sql = "insert into things values (1, 'a', 1), (2, 'b', 2), (3, 'c', 3), (4, null, 4)"
    assert await heard(stage, filter_, sql) == [("INSERT", number) for number in ids]


@pytest.mark.parametrize(
    ("filter_", "text"),
    [
        ("n=foo.100", f'{PARSING} ["foo", "100"]'),
        (",n=eq.1", f"{PARSING} filter must not contain empty segments (check for extra commas)"),
        ("n=eq.1,", f"{PARSING} filter must not contain empty segments (check for extra commas)"),
        ("n=eq.1,,n=eq.2", f"{PARSING} filter must not contain empty segments (check for extra commas)"),
        (
            5,
            f'{MISSING} %{{"event" => "*", "filter" => 5, "schema" => "public", "table" => "things"}}',
        ),
        (
            "gone=eq.1",
            failed(
                "things", '[{"gone", "eq", "1", false}]',
                "ERROR P0001 (raise_exception) invalid column for filter gone",
            ),
        ),
        (
            "n=eq.one",
            failed(
                "things", '[{"n", "eq", "one", false}]',
                'ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: "one"',
            ),
        ),
        (
            "n=is.true",
            failed(
                "things", '[{"n", "is", "true", false}]',
                "ERROR P0001 (raise_exception) is true filter requires a boolean column, got integer",
            ),
        ),
    ],
)  # fmt: skip
async def test_case_82_a_filter_that_cannot_be_is_refused(stage: Stage, filter_: Any, text: str) -> None:
    await refused(stage, on("things", filter=filter_), text)


async def test_case_82_only_so_many_values_are_taken(stage: Stage) -> None:
    numbers = ",".join(map(str, range(100)))
    assert await heard(stage, f"n=in.({numbers})", "insert into things (id, n) values (1, 99)") != []
    async with stage.client() as client:
        await client.join(TOPIC, on("things", filter=f"n=in.({numbers},100)"))
        message = (await client.hear())[4]["message"]
    assert message.endswith(
        "Exception: ERROR P0001 (raise_exception) too many values for `in` filter. Maximum 100"
    )


@pytest.mark.parametrize(
    ("filter_", "text"),
    [
        ('txt=eq."a,b"', "a,b"),
        (r'txt=eq."say \"hi\""', 'say "hi"'),
        (r'txt=eq."back\\slash"', r"back\slash"),
        ('txt=eq.""', ""),
        ('txt=eq."open', '"open'),
        ('txt=eq."closed"more', '"closed"more'),
        ('txt=eq." spaced "', " spaced "),
        ('txt=eq.mid"dle"', 'mid"dle"'),
        (r'txt=in.("a,b","c\"d")', 'c"d'),
        ("txt=eq.a.b=c", "a.b=c"),
    ],
)
async def test_case_83_what_a_quoted_value_holds(stage: Stage, filter_: str, text: str) -> None:
    literal = "'" + text + "'"
    sql = f"insert into things (id, txt) values (1, {literal}), (2, 'something else')"
    assert await heard(stage, filter_, sql) == [("INSERT", 1)]


async def test_case_83_quotes_within_a_value_protect_no_comma(stage: Stage) -> None:
    await refused(stage, on("things", filter='txt=eq.x"y,z"'), rf'{PARSING} ["z\""]')


@both
@identities
async def test_case_84_selected_columns_and_the_key_are_sent(
    stage: Stage, table: str, version: Version
) -> None:
    shown = "id:int4 txt:text"
    old = (lambda txt: {"id": 1, "txt": txt}) if table == "whole" else (lambda txt: {"id": 1})
    async with stage.client(version) as client:
        await client.subscribe(TOPIC, on(table, select=["txt", "txt", 5]))
        await stage.run(f"insert into {table} values (1, 'a', 7)", f"update {table} set txt = 'b'")
        await stage.run(f"delete from {table}")
        for change in (
            Change("INSERT", table, shown, {"id": 1, "txt": "a"}),
            Change("UPDATE", table, shown, {"id": 1, "txt": "b"}, old("a")),
            Change("DELETE", table, shown, old_record=old("b")),
        ):
            await client.hears_event(TOPIC, change)


async def test_case_84_each_selection_has_a_message_of_its_own(stage: Stage) -> None:
    number = Change("INSERT", "things", "id:int4 n:int4", {"n": 7, "id": 1})
    every = Change("INSERT", "things", COLUMNS, row(1, "a", 7), entries=(1, 2))
    async with stage.client() as one, stage.client() as other:
        await one.subscribe(TOPIC, on("things", select=["n"]))
        entries = on("things", select=["n"]), on("things"), on("things", select=[])
        await other.subscribe(TOPIC, *entries)
        await stage.run("insert into things values (1, 'a', 7)")
        await one.hears_event(TOPIC, number)
        for change in (number, every):
            await other.hears_event(TOPIC, change)
        await stage.settle()
        for client in (one, other):
            await client.hears_nothing(listening=True)


@both
async def test_case_85_a_channel_whose_table_is_not_published_can_be_used(
    stage: Stage, version: Version
) -> None:
    text = f"{DISABLED} [event: INSERT, schema: public, table: unpublished, filters: [], select: nil]"
    async with stage.client(version) as client:
        await client.join(TOPIC, on("unpublished", "INSERT"))
        await client.hears_event(TOPIC, Told(text))
        await client.say(TOPIC, "phx_leave", {}, "2")
        await client.hears(TOPIC, "phx_reply", {"status": "ok", "response": {}}, "2", "1")
        await client.hears(TOPIC, "phx_close", {}, "1", "1")
        await client.subscribe(TOPIC, on("things"), ref="3")


async def test_case_85_without_the_publication_a_channel_joins_and_is_told(
    migrated: str, serve: Serve
) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute("create table t (id int primary key); drop publication supabase_realtime")
    stage = Stage(await serve(migrated), connection)
    await refused(
        stage, on("t"), f"{DISABLED} [event: *, schema: public, table: t, filters: [], select: nil]"
    )
    await stage.run("create publication supabase_realtime for table t; grant select on t to anon")
    async with stage.client() as client:
        await client.subscribe(TOPIC, on("t"))
        await stage.run("insert into t values (1)")
        await client.hears_event(TOPIC, Change("INSERT", "t", "id:int4", {"id": 1}))
    await connection.close()


@both
async def test_case_86_where_no_entry_remains_nothing_is_told(stage: Stage, version: Version) -> None:
    async with stage.client(version) as client:
        assert await client.join(TOPIC, None, None) == []
        await client.hears_nothing(listening=False)
        assert len(await client.join("realtime:other", None, on("things"), None)) == 1
        await client.hears_event("realtime:other", OK)


@both
async def test_case_87_a_row_for_two_entries_comes_once_with_both_ids(stage: Stage, version: Version) -> None:
    entries = on("things", filter="id=eq.1"), on("things", "UPDATE"), on("things", "INSERT"), on("things")
    async with stage.client(version) as client:
        first, *others, last = await client.subscribe(TOPIC, *entries)
        assert len({first, *others, last}) == 4
        await stage.run("insert into things (id) values (1), (2)")
        await client.hears_event(TOPIC, Change("INSERT", "things", COLUMNS, row(1), entries=(0, 2, 3)))
        await client.hears_event(TOPIC, Change("INSERT", "things", COLUMNS, row(2), entries=(2, 3)))


async def test_case_89_a_role_without_the_privilege_is_refused_with_the_grant(stage: Stage) -> None:
    reason = "public.unread: the role anon may not read it: GRANT SELECT ON public.unread TO anon;"
    given = "[event: *, schema: public, table: unread, filters: [], select: nil]"
    await refused(stage, on("unread"), f"{GIVEN} {reason} {given}")


async def test_case_89_a_table_without_primary_key_is_delivered(stage: Stage) -> None:
    async with stage.client() as client:
        await client.subscribe(TOPIC, on("keyless"))
        await stage.run("insert into keyless values ('a')")
        await client.hears_event(TOPIC, Change("INSERT", "keyless", "txt:text", {"txt": "a"}))


@both
async def test_case_89_of_a_row_too_large_only_small_values_are_sent(stage: Stage, version: Version) -> None:
    large = ["Error 413: Payload Too Large"]
    async with stage.client(version) as client:
        await client.subscribe(TOPIC, on("whole"))
        await stage.run("insert into whole (id, n, txt) values (1, 7, repeat('x', 1100000))")
        await client.hears_event(TOPIC, Change("INSERT", "whole", COLUMNS, {"n": 7, "id": 1}, errors=large))
        await stage.run(f"update whole set txt = '{'y' * 62}'")
        new, old = {"n": 7, "id": 1, "txt": "y" * 62}, {"n": 7, "id": 1}
        await client.hears_event(TOPIC, Change("UPDATE", "whole", COLUMNS, new, old, errors=large))


@identities
async def test_case_90_an_unchanged_toast_value_is_in_the_record(stage: Stage, table: str) -> None:
    await stage.run(
        f"alter table {table} alter column txt set storage external;"
        f"insert into {table} (id, txt) values (1, repeat('x', 100000))"
    )
    await stage.settle()
    old = row(1, "x" * 100_000) if table == "whole" else {"id": 1}
    async with stage.client() as client:
        await client.subscribe(TOPIC, on(table))
        await stage.run(f"update {table} set n = 5")
        await client.hears_event(TOPIC, Change("UPDATE", table, COLUMNS, row(1, "x" * 100_000, 5), old))


async def test_case_94_no_change_is_dropped_however_many_come_in_a_second(stage: Stage) -> None:
    async with stage.client() as client:
        await client.subscribe(TOPIC, on("things", "INSERT"))
        # An average of 100 a second over a minute that has just begun is reached with 500 of these.
        for begin in range(1, 2001, 500):
            await stage.run(f"insert into things (id) select generate_series({begin}, {begin + 499})")
        await stage.settle()
        assert await client.rows(TOPIC) == [("INSERT", id_) for id_ in range(1, 2001)]
        await client.hears_nothing(listening=True)
