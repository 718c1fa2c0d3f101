"""What subscribers see and are told when the catalog changes under them."""

import asyncio

import asyncpg
import pytest

from rowcast.capture.tables import Table
from rowcast.db.connection import Session
from rowcast.model.binding import parse_binding
from support.streams import SERVICE, Kept, streaming, subscribed

pytestmark = pytest.mark.anyio

SETUP = """
create schema elsewhere;
create table notes (id int primary key, body text, n int);
grant select on notes to service_role;
alter publication supabase_realtime add table notes;
"""


@pytest.fixture
async def notes(migrated: str) -> str:
    """A database with a captured table."""
    connection = await asyncpg.connect(migrated)
    await connection.execute(SETUP)
    await connection.close()
    return migrated


async def told(kept: Kept, number: int) -> tuple[str, str]:
    """What was told as the so-manieth."""
    await kept.until(lambda: len(kept.told) >= number)
    return kept.told[number - 1]


async def test_a_column_that_is_added_or_dropped_shows_in_the_next_change(notes: str) -> None:
    async with streaming(notes) as stream:
        kept = await subscribed(stream, "notes")
        filtered = await subscribed(stream, "notes", "id=gt.0")
        connection = await asyncpg.connect(notes)
        await connection.execute("insert into notes values (1, 'a', 1)")
        await connection.execute("alter table notes add column more int default 5")
        await connection.execute("insert into notes values (2, 'b', 2)")
        await connection.execute("alter table notes drop column body")
        await connection.execute("insert into notes (id, n) values (3, 3)")
        for one in (kept, filtered):
            await one.until(lambda one=one: len(one.changes) == 3)  # type: ignore[misc]
            assert [change["record"] for change in one.changes] == [
                {"n": 1, "id": 1, "body": "a"},
                {"n": 2, "id": 2, "body": "b", "more": 5},
                {"n": 3, "id": 3, "more": 5},
            ]
            assert one.told == []
        await connection.close()


async def test_a_filter_whose_column_is_gone_sleeps_until_it_is_back(notes: str) -> None:
    async with streaming(notes) as stream:
        kept = await subscribed(stream, "notes", "n=eq.1")
        connection = await asyncpg.connect(notes)
        await connection.execute("alter table notes rename column n to m")
        status, text = await told(kept, 1)
        assert status == "error"
        assert text.endswith("Exception: ERROR P0001 (raise_exception) invalid column for filter n")
        await connection.execute("insert into notes values (1, 'a', 1)")
        await connection.execute("alter table notes rename column m to n")
        assert await told(kept, 2) == ("ok", "Subscribed to PostgreSQL")
        await connection.execute("insert into notes values (2, 'b', 1)")
        await kept.until(lambda: len(kept.changes) == 1)
        assert kept.changes[0]["record"]["id"] == 2
        await connection.close()


async def test_a_column_of_another_type_is_filtered_by_that_type(notes: str) -> None:
    async with streaming(notes) as stream:
        kept = await subscribed(stream, "notes", "n=lt.9")
        connection = await asyncpg.connect(notes)
        await connection.execute("insert into notes values (1, 'a', 8)")
        await connection.execute("alter table notes alter column n type numeric")
        await connection.execute("insert into notes values (2, 'b', 8.5), (3, 'c', 9.5)")
        # Text has an order of its own: 10 sorts before 9.
        await connection.execute("delete from notes; alter table notes alter column n type text")
        await connection.execute("insert into notes values (4, 'd', '10'), (5, 'e', '95')")
        await kept.until(lambda: any(change.get("record", {}).get("id") == 4 for change in kept.changes))
        inserts = [change["record"]["id"] for change in kept.changes if change["type"] == "INSERT"]
        assert inserts == [1, 2, 4]
        await connection.close()


@pytest.mark.parametrize(
    ("away", "back"),
    [
        ("drop table notes", SETUP.split(";", 1)[1]),
        ("alter table notes rename to letters", "alter table letters rename to notes"),
        ("alter table notes set schema elsewhere", "alter table elsewhere.notes set schema public"),
        ("alter publication supabase_realtime drop table notes",
         "alter publication supabase_realtime add table notes"),
        ("revoke select on notes from service_role", "grant select on notes to service_role"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("filter_", ["", "id=gt.0", "body=like.%"])
async def test_a_table_that_goes_and_comes_back(notes: str, away: str, back: str, filter_: str) -> None:
    async with streaming(notes) as stream:
        kept = await subscribed(stream, "notes", filter_)
        other = await subscribed(stream, "*")
        connection = await asyncpg.connect(notes)
        await connection.execute("insert into notes values (1, 'a', 1)")
        if away.startswith("revoke"):
            # A change is judged by rights no older than itself, but they may be younger.
            await kept.until(lambda: len(kept.changes) == 1)
        await connection.execute(away)
        status, text = await told(kept, 1)
        assert status == "error"
        assert text.startswith("Unable to subscribe to changes with given parameters. ")
        await connection.execute(back)
        assert await told(kept, 2) == ("ok", "Subscribed to PostgreSQL")
        await connection.execute("insert into notes values (2, 'b', 2)")
        await kept.until(lambda: len(kept.changes) >= 2)
        assert [change["record"]["id"] for change in kept.changes] == [1, 2]
        assert [status for status, _ in kept.told] == ["error", "ok"]
        # A change of the dropped table, written before, reaches whoever was subscribed then.
        assert other.changes[0]["record"]["id"] == 1
        await connection.close()


async def test_a_table_that_is_dropped_in_the_transaction_that_wrote_it_is_still_delivered(
    notes: str,
) -> None:
    async with streaming(notes) as stream:
        kept = await subscribed(stream, "notes", "body=like.a%")
        plain = await subscribed(stream, "notes", "id=eq.1")
        connection = await asyncpg.connect(notes)
        async with connection.transaction():
            await connection.execute("insert into notes values (1, 'a', 1)")
            await connection.execute("drop table notes")
        for one in (kept, plain):
            await one.until(lambda one=one: len(one.changes) == 1)  # type: ignore[misc]
            assert one.changes[0]["record"] == {"n": 1, "id": 1, "body": "a"}
        await connection.close()


async def test_what_was_made_ready_for_older_versions_is_forgotten(notes: str) -> None:
    async with streaming(notes) as stream:
        kept = await subscribed(stream, "notes", "id=gt.0")
        connection = await asyncpg.connect(notes)
        for number in range(1, 6):
            await connection.execute(f"alter table notes add column c{number} int")
            await connection.execute("insert into notes (id) values ($1)", number)
        await kept.until(lambda: len(kept.changes) == 5)
        current = set(await connection.fetchval("select array_agg(relation) from rowcast.captured"))
        async with asyncio.timeout(20):
            while stream._live.audiences.versions() != current:
                await stream._present.read_once()
        await connection.execute("insert into notes (id) values (6)")
        await kept.until(lambda: len(kept.changes) == 6)
        await connection.close()


async def test_what_sleeps_sleeps_on_when_the_channel_subscribes_again(notes: str) -> None:
    async with streaming(notes) as stream:
        kept = await subscribed(stream, "notes", "n=eq.1")
        connection = await asyncpg.connect(notes)
        await connection.execute("alter table notes rename column n to m")
        assert (await told(kept, 1))[0] == "error"
        (subscriber,) = stream._review._asleep
        entry = {"event": "*", "schema": "public", "table": "notes", "filter": "n=eq.1"}
        # As a refreshed token does.
        assert not (await stream.subscribe(subscriber, [parse_binding(entry)], SERVICE)).ok
        await connection.execute("alter table notes rename column m to n")
        assert await told(kept, 2) == ("ok", "Subscribed to PostgreSQL")
        await connection.execute("insert into notes values (1, 'a', 1)")
        await kept.until(lambda: len(kept.changes) == 1)
        await connection.close()


async def test_who_subscribes_while_the_catalog_is_held_against_the_others_is_told_once(
    notes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with streaming(notes) as stream:
        await subscribed(stream, "notes")
        stream.unsubscribe(stream._live.audiences.subscribers()[0])
        asked, go_on, held = asyncio.Event(), asyncio.Event(), asyncio.Event()
        catalog, hold = stream._acceptance.catalog, stream._review.hold

        async def slow_catalog(connection: Session) -> list[Table]:
            asked.set()
            await go_on.wait()
            return await catalog(connection)

        async def whole_hold(connection: Session) -> None:
            await hold(connection)
            if go_on.is_set():
                held.set()

        monkeypatch.setattr(stream._acceptance, "catalog", slow_catalog)
        monkeypatch.setattr(stream._review, "hold", whole_hold)
        connection = await asyncpg.connect(notes)
        # What its name stood for is another table by now.
        await connection.execute(
            "begin; drop table notes; create table notes (id int primary key);"
            "grant select on notes to service_role;"
            "alter publication supabase_realtime add table notes; commit"
        )
        await asyncio.wait_for(asked.wait(), 30)
        kept = await subscribed(stream, "notes")
        go_on.set()
        await asyncio.wait_for(held.wait(), 30)
        assert kept.told == []
        await connection.execute("insert into notes values (1)")
        await kept.until(lambda: len(kept.changes) == 1)
        await connection.close()
