"""Subscribers whose filters Postgres judges: in order, and in nobody's way."""

import asyncio

import asyncpg
import pytest

from rowcast.capture import questions, waiting
from rowcast.capture.stream import Stream
from rowcast.hub.feed import Subscribed, Subscriber
from rowcast.hub.lanes import Lane
from rowcast.model.binding import parse_binding
from rowcast.model.claims import Claims
from rowcast.protocol.messages import Version
from support.streams import SERVICE, Kept, streaming, subscribed

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


async def joined(stream: Stream, kept: Kept, lane: Lane, *filters: str) -> tuple[Subscriber, Subscribed]:
    """A channel of a connection, as a join makes it."""
    subscriber = Subscriber("realtime:notes", Version.V2, lane, kept.lost, told=kept.tell)
    entry = {"event": "*", "schema": "public", "table": "notes"}
    bindings = [parse_binding(entry | {"filter": text}) for text in filters]
    return subscriber, await stream.subscribe(subscriber, bindings, SERVICE)


async def test_a_filter_that_was_switched_off_is_refused_at_once_and_in_the_same_words(notes: str) -> None:
    async with streaming(notes, filter_timeout=0.2) as stream:
        kept = await subscribed(stream, "notes", EXPLODES)
        connection = await asyncpg.connect(notes)
        await connection.execute("insert into notes values (1, $1)", LONG)
        await kept.until(lambda: len(kept.told) == 1)
        again = Kept()
        _, result = await joined(stream, again, Lane(again, 1 << 30), EXPLODES, "id=eq.2")
        assert result.refused == (kept.told[0][1],)
        assert result.ok
        await connection.execute("insert into notes values (2, $1)", LONG)
        await again.until(lambda: len(again.changes) == 1)
        assert again.told == []
        await connection.close()


async def test_a_filter_that_is_slow_on_one_table_goes_on_on_another(notes: str) -> None:
    async with streaming(notes, filter_timeout=0.2) as stream:
        slow = await subscribed(stream, "notes", EXPLODES)
        other = await subscribed(stream, "others", EXPLODES)
        connection = await asyncpg.connect(notes)
        await connection.execute("insert into notes values (1, $1)", LONG)
        await slow.until(lambda: len(slow.told) == 1)
        await connection.execute("insert into others values (1, 'aaaa')")
        await other.until(lambda: len(other.changes) == 1)
        assert other.told == []
        await connection.close()


async def test_one_client_that_joins_again_and_again_with_slow_filters_starves_nobody(notes: str) -> None:
    async with streaming(notes, filter_timeout=0.1) as stream:
        honest = await subscribed(stream, "notes", "body=like.a%")
        hostile = Kept()
        lane = Lane(hostile, 1 << 30)
        refused: list[str] = []
        stop = asyncio.Event()

        async def attack() -> None:
            turn = 0
            while not stop.is_set():
                turn += 1
                texts = [f"{EXPLODES}|x{turn}y{number}" for number in range(20)]
                subscriber, result = await joined(stream, hostile, lane, *texts)
                refused.extend(result.refused)
                stream.unsubscribe(subscriber)

        attacking = asyncio.create_task(attack())
        connection = await asyncpg.connect(notes)
        for number in range(1, 201):
            await connection.execute("insert into notes values ($1, $2)", number, LONG)
            if number % 50 == 0:
                await honest.until(lambda number=number: len(honest.changes) == number)  # type: ignore[misc]
        stop.set()
        await attacking
        assert [change["record"]["id"] for change in honest.changes] == list(range(1, 201))
        assert (honest.told, honest.losses) == ([], 0)
        await connection.close()


async def test_a_connection_whose_filters_took_their_time_is_refused_others_until_a_minute_forgives_it(
    notes: str,
) -> None:
    async with streaming(notes, filter_timeout=0.3) as stream:
        honest = await subscribed(stream, "notes", "body=like.a%")
        hostile = Kept()
        lane = Lane(hostile, 1 << 30)
        texts = [f"{EXPLODES}|x{number}" for number in range(30)]
        await joined(stream, hostile, lane, *texts)
        connection = await asyncpg.connect(notes)
        await connection.execute("insert into notes values (1, $1), (2, $1)", LONG)
        await hostile.until(lambda: len(hostile.told) == 30)
        await honest.until(lambda: len(honest.changes) == 2)
        too_slow = [text for _, text in hostile.told if "took longer than 0.3 s" in text]
        too_much = [text for _, text in hostile.told if "longer than 3 s within a minute" in text]
        assert len(too_slow) + len(too_much) == 30
        # Ten questions may go over time, and the one that noticed; not thirty.
        assert 1 <= len(too_slow) <= 11
        _, result = await joined(stream, hostile, lane, "body=like.b%", "body=like.a%")
        assert "within a minute" in result.refused[0]
        # What others ask, too, and what was never slow, costs nothing more.
        assert len(result.refused) == 1
        assert result.ok
        await connection.close()


async def test_where_very_many_connections_are_slow_at_once_those_without_a_turn_are_told_to_join_again(
    notes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "SHARE", 2)
    async with streaming(notes, filter_timeout=0.3) as stream:
        honest = await subscribed(stream, "notes", "body=like.a%")
        crowd = [await subscribed(stream, "notes", f"{EXPLODES}|x{number}") for number in range(12)]
        connection = await asyncpg.connect(notes)
        await connection.execute("insert into notes values (1, $1)", LONG)
        for kept in crowd:
            await kept.until(lambda kept=kept: kept.losses + len(kept.told) == 1)  # type: ignore[misc]
        await honest.until(lambda: len(honest.changes) == 1)
        assert (honest.told, honest.losses) == ([], 0)
        assert 1 <= sum(len(kept.told) for kept in crowd) < 12
        assert not any(kept.changes for kept in crowd)
        await connection.close()


async def test_a_filter_that_is_slow_on_the_last_of_many_rows_is_found_out(notes: str) -> None:
    async with streaming(notes, filter_timeout=0.3) as stream:
        kept = await subscribed(stream, "notes", f"{EXPLODES}|^z", "id=eq.60")
        connection = await asyncpg.connect(notes)
        await connection.execute(
            "insert into notes select g, case g when 60 then $1 else 'z' end from generate_series(1, 60) g",
            LONG,
        )
        await kept.until(lambda: bool(kept.told and kept.changes and kept.changes[-1]["record"]["id"] == 60))
        assert len(kept.told) == 1
        await connection.close()


async def test_a_row_that_a_condition_fails_on_hides_nothing_else(notes: str) -> None:
    connection = await asyncpg.connect(notes)
    await connection.execute("alter table notes add column doc json")
    async with streaming(notes) as stream:
        # A NUL is JSON that no text of Postgres can be.
        failing = await subscribed(stream, "notes", "doc->>a=eq.x")
        healthy = await subscribed(stream, "notes", "body=like.a%")
        await connection.execute(
            r"""insert into notes values (1, 'a', '{"a":"\u0000"}'), (2, 'a', '{"a":"x"}'), (3, 'a', null)"""
        )
        await healthy.until(lambda: len(healthy.changes) == 3)
        await failing.until(lambda: len(failing.changes) == 1)
        assert failing.changes[0]["record"]["id"] == 2
        assert "filters" not in stream.faults()
    await connection.close()


async def test_who_falls_too_far_behind_is_told_that_changes_are_missing(
    notes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING", 2_000)
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
        assert stream._live.questions.position is None
        plain = await subscribed(stream, "notes")
        asks, hears = kept.subscriber, plain.subscriber
        here = stream.position_of([asks, hears])
        assert here is not None
        # What waits holds back those who wait for it, and says nothing of a socket with others beside them.
        stream._live.questions.position = "waits"
        told = [stream.position_of(some) for some in ([asks], [hears], [], [asks, hears])]
        assert told == ["waits", here, here, None]
        stream._live.questions.position = None
        await connection.close()


async def test_a_role_that_is_gone_ends_its_subscribers_and_no_others(notes: str) -> None:
    connection = await asyncpg.connect(notes)
    await connection.execute("create role rowcast_guest; grant select on notes to rowcast_guest")
    guest = Claims(role="rowcast_guest", expires_at=2e9, raw={})
    try:
        async with streaming(notes, roles=("rowcast_guest",)) as stream:
            gone = await subscribed(stream, "notes", "body=like.a%", claims=guest)
            stays = await subscribed(stream, "notes", "body=like.a%")
            await connection.execute("revoke all on notes from rowcast_guest; drop role rowcast_guest")
            for number in range(1, 4):
                await connection.execute("insert into notes values ($1, 'a')", number)
                await stays.until(lambda number=number: len(stays.changes) == number)  # type: ignore[misc]
            await gone.until(lambda: gone.losses == 1 or len(gone.told) == 1)
            assert gone.changes == []
            assert stays.losses == 0
    finally:
        await connection.execute("drop role if exists rowcast_guest")
        await connection.close()


async def test_rows_under_other_settings_are_judged_as_they_were_captured(notes: str) -> None:
    connection = await asyncpg.connect(notes)
    name = await connection.fetchval("select current_database()")
    await connection.execute(
        f"alter database \"{name}\" set timezone = 'Asia/Kolkata';"
        f"alter database \"{name}\" set datestyle = 'German';"
        "alter table notes add column at timestamptz, add column d date"
    )
    writer = await asyncpg.connect(notes)
    async with streaming(notes) as stream:
        plain = await subscribed(stream, "notes", "at=eq.2024-06-01T12:00:00Z,d=gt.2024-01-31")
        asking = await subscribed(stream, "notes", "at=eq.2024-06-01T12:00:00Z,body=like.a%")
        await writer.execute("insert into notes values (1, 'a', '2024-06-01 17:30:00+05:30', '01.02.2024')")
        for kept in (plain, asking):
            await kept.until(lambda kept=kept: len(kept.changes) == 1)  # type: ignore[misc]
    await writer.close()
    await connection.close()


async def test_an_innocent_filter_is_not_switched_off_for_the_size_of_a_batch(notes: str) -> None:
    async with streaming(notes, filter_timeout=0.3) as stream:
        innocent = await subscribed(stream, "notes", "body=like.a%")
        # Each row takes a while; together they take longer than any question may.
        connection = await asyncpg.connect(notes)
        await connection.execute(
            "insert into notes select g, 'a' || repeat('xyz', 30000) from generate_series(1, 120) as g"
        )
        await innocent.until(lambda: len(innocent.changes) == 120)
        assert innocent.told == []
        await connection.close()


async def test_more_conditions_than_a_query_has_columns_are_judged(notes: str) -> None:
    connection = await asyncpg.connect(notes)
    await connection.execute("alter table notes add column doc jsonb")
    async with streaming(notes) as stream:
        many = [f"or({','.join(f'doc->>k{n}.eq.x' for n in range(m, m + 90))})" for m in range(0, 1800, 90)]
        kept = await subscribed(stream, "notes", *many)
        await connection.execute("insert into notes values (1, 'a', '{\"k1799\": \"x\"}'), (2, 'b', '{}')")
        await connection.execute("insert into notes values (3, 'a', '{\"k0\": \"x\"}')")
        await kept.until(lambda: len(kept.changes) == 2)
        assert [change["record"]["id"] for change in kept.changes] == [1, 3]
    await connection.close()


async def subscribe_again(stream: Stream, kept: Kept, claims: Claims, *filters: str) -> None:
    """As a refreshed token does: the same channel, perhaps with another role."""
    (subscriber,) = [one for one in stream._live.audiences.subscribers() if one.lost == kept.lost]
    entry = {"event": "*", "schema": "public", "table": "notes"}
    bindings = [parse_binding(entry | ({"filter": text} if text else {})) for text in filters]
    result = await stream.subscribe(subscriber, bindings, claims)
    assert result.ok


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("body=like.a%",), ("body=like.a%",)),
        (("body=like.a%",), ("id=gte.0",)),
        (("id=gte.0",), ("body=like.a%",)),
        (("",), ("body=like.a%", "id=gte.0")),
        (("body=like.a%",), ("",)),
    ],
)
async def test_subscribing_again_in_the_middle_of_a_storm_loses_and_repeats_nothing(
    notes: str, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    other = Claims(role="anon", expires_at=2e9, raw={"role": "anon"})
    setup = await asyncpg.connect(notes)
    await setup.execute("grant select on notes to anon")
    async with streaming(notes, page_size=20) as stream:
        kept = await subscribed(stream, "notes", *before)
        writer = await asyncpg.connect(notes)

        turn = 0

        async def write() -> int:
            number = 0
            while turn < 8 or number < 300:
                await writer.execute("insert into notes values ($1, 'a')", number)
                number += 1
            return number

        writing = asyncio.create_task(write())
        while not writing.done():
            turn += 1
            await subscribe_again(stream, kept, (SERVICE, other)[turn % 2], *(before, after)[turn % 2])
        written = await writing
        await kept.until(lambda: len(kept.changes) >= written)
        assert [change["record"]["id"] for change in kept.changes] == list(range(written))
        assert (kept.losses, kept.told) == (0, [])
        await writer.close()
    await setup.close()
