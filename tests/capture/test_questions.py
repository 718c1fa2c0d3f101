"""Subscribers whose filters Postgres judges: in order, and in nobody's way."""

import asyncpg
import pytest

from rowcast.capture import questions
from support.streams import streaming, subscribed

pytestmark = pytest.mark.anyio

TABLES = """
create table notes (id int primary key, body text);
create table others (id int primary key, body text);
grant select on notes, others to service_role;
alter publication supabase_realtime add table notes, others;
"""
#: Back references make Postgres try every way to divide the text.
EXPLODES = r"body=match.^((.*)(.*))(\2\3|\3\2)+b?\1\3\3\3$"
LONG = "ab" * 400


@pytest.fixture
async def notes(migrated: str) -> str:
    """A database with two captured tables."""
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLES)
    await connection.close()
    return migrated


async def test_only_what_passes_arrives_and_in_order(notes: str) -> None:
    async with streaming(notes, page_size=7) as stream:
        kept = await subscribed(stream, "notes", "body=like.a%")
        connection = await asyncpg.connect(notes)
        for number in range(60):
            await connection.execute(
                "insert into notes values ($1, $2)", number, ("a", "b", None)[number % 3]
            )
        await kept.until(lambda: len(kept.changes) == 20)
        assert [change["record"]["id"] for change in kept.changes] == list(range(0, 60, 3))
        await connection.close()


async def test_a_channel_keeps_the_order_over_tables_whichever_way_each_is_judged(notes: str) -> None:
    async with streaming(notes) as stream:
        kept = await subscribed(stream, "*", "body=like.a%", "id=gt.0")
        connection = await asyncpg.connect(notes)
        for number in range(1, 31):
            async with connection.transaction():
                await connection.execute("insert into notes values ($1, 'a')", number)
                await connection.execute("insert into others values ($1, 'b')", number)
        await kept.until(lambda: len(kept.changes) == 60)
        seen = [(change["record"]["id"], change["table"]) for change in kept.changes]
        assert seen == [(number, table) for number in range(1, 31) for table in ("notes", "others")]
        await connection.close()


async def test_a_pattern_that_explodes_is_switched_off_and_told_and_delays_nobody(notes: str) -> None:
    async with streaming(notes, filter_timeout=0.3) as stream:
        plain = await subscribed(stream, "notes")
        healthy = await subscribed(stream, "notes", "body=like.a%")
        exploding = await subscribed(stream, "notes", EXPLODES, "id=eq.2")
        connection = await asyncpg.connect(notes)
        await connection.execute("insert into notes values (1, $1)", LONG)
        await plain.until(lambda: len(plain.changes) == 1)
        # Whoever waits for no answer has it before the question was given up.
        assert exploding.told == []
        await healthy.until(lambda: len(healthy.changes) == 1)
        await exploding.until(lambda: len(exploding.told) == 1)
        status, text = exploding.told[0]
        assert status == "error"
        assert "body (match)" in text
        assert "switched off" in text
        # Its other binding goes on, and nothing is slow any more.
        await connection.execute("insert into notes values (2, $1)", LONG)
        await exploding.until(lambda: len(exploding.changes) == 1)
        assert exploding.changes[0]["record"]["id"] == 2
        assert len(exploding.told) == 1
        await connection.close()


async def test_a_row_that_a_condition_fails_on_hides_nothing_else(notes: str) -> None:
    async with streaming(notes) as stream:
        # Found only when a text gets as far as the escape character that ends the pattern.
        failing = await subscribed(stream, "notes", "body=like.a\\")
        healthy = await subscribed(stream, "notes", "body=like.a%")
        connection = await asyncpg.connect(notes)
        await connection.execute("insert into notes values (1, 'ab'), (2, 'a')")
        await healthy.until(lambda: len(healthy.changes) == 2)
        assert failing.changes == []
        assert stream.faults() == {}
        await connection.close()


async def test_who_falls_too_far_behind_is_told_that_changes_are_missing(
    notes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "MAX_WAITING", 2_000)
    async with streaming(notes) as stream:
        plain = await subscribed(stream, "notes")
        asking = await subscribed(stream, "notes", "body=like.a%")
        connection = await asyncpg.connect(notes)
        await connection.execute("insert into notes select g, 'a' from generate_series(1, 500) as g")
        await asking.until(lambda: asking.losses == 1)
        await plain.until(lambda: len(plain.changes) == 500)
        assert plain.losses == 0
        await connection.close()


async def test_the_position_waits_for_what_waits_for_an_answer(notes: str) -> None:
    async with streaming(notes) as stream:
        kept = await subscribed(stream, "notes", "body=like.a%")
        connection = await asyncpg.connect(notes)
        await connection.execute("insert into notes values (1, 'a')")
        await kept.until(lambda: len(kept.changes) == 1)
        assert stream.position is not None
        assert stream._questions.position is None
        await connection.close()
