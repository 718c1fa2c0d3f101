"""Row level security and rights by column in the stream: who is sent what, by the policies of the table."""

import json
from typing import Any

import asyncpg
import pytest

from rowcast.model.claims import Claims
from support.streams import SERVICE, Kept, streaming, subscribed

pytestmark = pytest.mark.anyio

ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def user(sub: str, role: str = "authenticated", **more: Any) -> Claims:
    return Claims(role, 2e9, {"role": role, "sub": sub, **more})


@pytest.fixture
def tables() -> str:
    """Notes that each belong to somebody."""
    return """
        create table notes (id int primary key, owner uuid, body text);
        alter table notes enable row level security;
        create policy own on notes for select to authenticated using (owner = auth.uid());
        grant select on notes to anon, authenticated, service_role;
        alter publication supabase_realtime add table notes;
    """


async def heard(kept: Kept, count: int) -> None:
    await kept.until(lambda: len(kept.changes) >= count)


def seen(kept: Kept) -> list[tuple[Any, ...]]:
    return [(one["type"], (one.get("record") or {}).get("id"), one.get("old_record")) for one in kept.changes]


async def test_each_subscriber_is_sent_the_rows_that_its_policies_let_it_see(
    migrated: str, notes: asyncpg.Connection
) -> None:
    async with streaming(migrated) as stream:
        one, two = [await subscribed(stream, "notes", claims=user(sub)) for sub in (ONE, TWO)]
        nobody = await subscribed(stream, "notes", claims=user(ONE, "anon"))
        service = await subscribed(stream, "notes")
        await notes.execute(f"insert into notes values (1, '{ONE}', 'a'), (2, '{TWO}', 'b'), (3, null, 'c')")
        await notes.execute("update notes set body = 'd'")
        await notes.execute("delete from notes")
        await notes.execute(f"insert into notes values (9, '{ONE}', 'last'), (10, '{TWO}', 'last')")
        for kept in (one, two, service):
            await heard(kept, (11 if kept is service else 4))
        mine = [
            ("INSERT", 1, None),
            ("UPDATE", 1, {"id": 1}),
            ("DELETE", None, {"id": 1}),
            ("INSERT", 9, None),
        ]
        assert seen(one) == mine
        assert seen(two) == [
            ("INSERT", 2, None), ("UPDATE", 2, {"id": 2}), ("DELETE", None, {"id": 2}), ("INSERT", 10, None),
        ]  # fmt: skip
        assert [id_ for _, id_, _ in seen(service)] == [1, 2, 3, 1, 2, 3, None, None, None, 9, 10]
        assert nobody.changes == []


async def test_a_row_is_judged_by_what_it_said_and_its_old_image_apart(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("alter table notes replica identity full")
    async with streaming(migrated) as stream:
        one, two = [await subscribed(stream, "notes", claims=user(sub)) for sub in (ONE, TWO)]
        # Written, given away and deleted before anything is handed out.
        async with notes.transaction():
            await notes.execute(f"insert into notes values (1, '{ONE}', 'mine')")
            await notes.execute(f"update notes set owner = '{TWO}', body = 'yours'")
            await notes.execute("update notes set body = 'still'")
            await notes.execute("delete from notes")
        await two.until(lambda: len(two.changes) >= 3)
        await notes.execute(f"insert into notes values (2, '{ONE}', 'last')")
        await one.until(lambda: len(one.changes) >= 2)
        assert seen(one) == [("INSERT", 1, None), ("INSERT", 2, None)]
        yours = {"id": 1, "owner": TWO, "body": "yours"}
        # Of the row that it could not see before, nothing.
        assert seen(two) == [
            ("UPDATE", 1, {}), ("UPDATE", 1, yours), ("DELETE", None, yours | {"body": "still"}),
        ]  # fmt: skip


@pytest.mark.parametrize("keyed", [True, False])
async def test_deletes_may_be_open_to_all_as_with_supabase(
    migrated: str, notes: asyncpg.Connection, keyed: bool
) -> None:
    if not keyed:
        await notes.execute("alter table notes drop constraint notes_pkey")
    await notes.execute("alter table notes replica identity full")
    async with streaming(migrated, open_deletes=True) as stream:
        two = await subscribed(stream, "notes", claims=user(TWO))
        await notes.execute(f"insert into notes values (1, '{ONE}', 'a')")
        await notes.execute("delete from notes")
        await two.until(lambda: len(two.changes) >= 1)
        (change,) = two.changes
        assert change["type"] == "DELETE"
        assert "record" not in change
        assert change["old_record"] == ({"id": 1} if keyed else {})
        assert change["errors"] == (None if keyed else ["Error 400: Bad Request, no primary key"])
        assert [one["name"] for one in change["columns"]] == (["id", "owner", "body"] if keyed else [])


async def test_filters_and_policies_both_count(migrated: str, notes: asyncpg.Connection) -> None:
    async with streaming(migrated) as stream:
        filters = ("body=eq.x", "body=like.x%")
        kept = [await subscribed(stream, "notes", text, claims=user(ONE)) for text in filters]
        await notes.execute(
            f"insert into notes values (1, '{ONE}', 'x'), (2, '{TWO}', 'x'), (3, '{ONE}', 'y')"
        )
        await notes.execute(f"insert into notes values (4, '{ONE}', 'x')")
        for one in kept:
            await heard(one, 2)
            assert [change["record"]["id"] for change in one.changes] == [1, 4]


async def test_row_level_security_that_comes_later_counts_from_its_place_in_the_stream(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("alter table notes disable row level security")
    async with streaming(migrated) as stream:
        one, two = [await subscribed(stream, "notes", claims=user(sub)) for sub in (ONE, TWO)]
        await notes.execute(f"insert into notes values (1, '{ONE}', 'before')")
        await two.until(lambda: len(two.changes) >= 1)
        await notes.execute("alter table notes enable row level security")
        await notes.execute(f"insert into notes values (2, '{ONE}', 'after'), (3, '{TWO}', 'after')")
        await notes.execute("alter policy own on notes using (owner <> auth.uid())")
        await notes.execute(f"insert into notes values (4, '{ONE}', 'turned'), (5, '{TWO}', 'turned')")
        for kept in (one, two):
            await heard(kept, 3)
        ids = [[change["record"]["id"] for change in kept.changes] for kept in (one, two)]
        # Rows 2 and 3 are judged by rights no older than they are; these may be younger.
        assert ids[0] in ([1, 2, 5], [1, 3, 5])
        assert ids[1] in ([1, 3, 4], [1, 2, 4])
        assert [kept.losses for kept in (one, two)] == [0, 0]


async def test_a_policy_that_fails_or_is_slow_hides_rows_from_its_subject_alone(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("""
        alter policy own on notes using (case auth.jwt() ->> 'kind'
          when 'fails' then 1 / (id - id) = 0 when 'slow' then pg_sleep(30) is not null else true end)
    """)
    async with streaming(migrated) as stream:
        fails, slow, good = [
            await subscribed(stream, "notes", claims=user(ONE, kind=kind))
            for kind in ("fails", "slow", "good")
        ]
        for number in range(3):
            await notes.execute(f"insert into notes values ({number}, null, 'a')")
        await good.until(lambda: len(good.changes) >= 3)
        assert [change["record"]["id"] for change in good.changes] == [0, 1, 2]
        assert (fails.changes, slow.changes) == ([], [])
        assert (good.told, fails.told) == ([], [])


async def test_whom_a_change_may_have_been_for_is_told_when_its_policy_is_too_slow(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("""
        alter table notes replica identity full;
        alter policy own on notes using (case when body = 'slow' then pg_sleep(30) is not null else true end)
    """)
    async with streaming(migrated) as stream:
        old, new = user(ONE, number=1), user(ONE, number=2)
        first = await subscribed(stream, "notes", claims=old)
        await notes.execute("insert into notes values (0, null, 'a')")
        await first.until(lambda: len(first.changes) == 1)
        asked = await subscribed(stream, "notes", claims=new, gap=True)
        other = await subscribed(stream, "notes", "id=lt.0", claims=new, gap=True)
        await notes.execute("insert into notes values (1, null, 'slow'), (2, null, 'a')")
        # It may have been shown before, so that an update matters as much.
        await notes.execute("update notes set body = 'a' where id = 1")
        resumed = await subscribed(stream, "notes", claims=old, resume=first.changes[0]["position"], gap=True)
        for kept in (first, asked, resumed):
            await kept.until(lambda kept=kept: bool(kept.told or kept.gaps))  # type: ignore[misc]
        await stream._present.settle()
        (told,) = first.told
        assert told == (
            "error",
            "Changes of public.notes may be missing: its policies took Postgres too long.",
        )
        assert {gap.reason for gap in (*asked.gaps, *resumed.gaps)} == {"behind"}
        # Not those that it was not for, whatever their policies say.
        assert (other.gaps, other.told, first.losses, first.gaps) == ([], [], 0, [])
        # From a gap's position on nothing is passed over.
        await notes.execute("alter policy own on notes using (true)")
        await stream._present.settle()
        again = await subscribed(stream, "notes", claims=new, resume=asked.gaps[0].position)
        await again.until(lambda: len(again.changes) == 3)
        assert [one["record"]["id"] for one in again.changes] == [1, 2, 1]


async def test_a_new_token_changes_what_is_seen_with_nothing_lost_or_repeated(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("alter policy own on notes using (id % 2 = (auth.jwt() ->> 'odd')::int)")
    async with streaming(migrated) as stream:
        kept = await subscribed(stream, "notes", claims=user(ONE, odd=0))
        (subscriber,) = stream._live.audiences.subscribers()
        bindings, _, _ = stream._live.audiences.hears(subscriber) or ((), None, None)
        heard_: list[int] = []
        for turn in range(1, 11):
            assert (await stream.subscribe(subscriber, bindings, user(ONE, odd=turn % 2))).ok
            rows = range(turn * 4, turn * 4 + 4)
            for number in rows:
                await notes.execute(f"insert into notes values ({number}, null, 'a')")
            heard_ += [number for number in rows if number % 2 == turn % 2]
            # A row may be judged by a token that came after it: so each is awaited, and the hidden last one.
            await heard(kept, len(heard_))
            await stream._present.settle()
        assert [change["record"]["id"] for change in kept.changes] == heard_


async def test_columns_that_may_not_be_read_are_cut_out(migrated: str, notes: asyncpg.Connection) -> None:
    await notes.execute("""
        create table secrets (id int primary key, a text, b text);
        alter table secrets replica identity full;
        grant select (id, a) on secrets to anon;
        grant select (a) on secrets to authenticated;
        grant select on secrets to service_role;
        alter publication supabase_realtime add table secrets;
    """)
    async with streaming(migrated) as stream:
        anon = await subscribed(stream, "secrets", claims=user(ONE, "anon"))
        keyless = await subscribed(stream, "secrets", claims=user(ONE))
        selecting = await subscribed(stream, "secrets", claims=user(ONE, "anon"), select=["a"])
        await notes.execute("insert into secrets values (1, 'x', 'y')")
        await notes.execute("update secrets set b = 'z'")
        await notes.execute("delete from secrets")
        for kept in (anon, keyless, selecting):
            await heard(kept, 3)
        for kept, row in (
            (anon, {"id": 1, "a": "x"}),
            (keyless, {"a": "x"}),
            (selecting, {"id": 1, "a": "x"}),
        ):
            assert [one.get("record") for one in kept.changes] == [row, row, None]
            assert [one.get("old_record") for one in kept.changes] == [None, row, row]
            assert [[column["name"] for column in one["columns"]] for one in kept.changes] == [list(row)] * 3
            assert all("'y'" not in json.dumps(one) and '"y"' not in json.dumps(one) for one in kept.changes)


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"filter": "b=eq.y"}, "invalid column for filter b"),
        ({"select": ["b"]}, "invalid column for select b"),
    ],
)
async def test_what_asks_for_a_column_that_may_not_be_read_is_refused(
    migrated: str, notes: asyncpg.Connection, entry: dict[str, Any], fault: str
) -> None:
    await notes.execute("""
        create table secrets (id int primary key, a text, b text);
        grant select (id, a) on secrets to anon;
        alter publication supabase_realtime add table secrets;
    """)
    async with streaming(migrated) as stream:
        with pytest.raises(AssertionError, match=fault):
            await subscribed(stream, "secrets", claims=user(ONE, "anon"), **entry)


async def test_a_right_to_a_column_that_is_taken_away_silences_filters_on_it(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("""
        create table secrets (id int primary key, a text, b text);
        grant select on secrets to anon;
        alter publication supabase_realtime add table secrets;
    """)
    async with streaming(migrated) as stream:
        both = await subscribed(stream, "secrets", "b=eq.y", "a=eq.x", claims=user(ONE, "anon"))
        await notes.execute("insert into secrets values (1, 'no', 'y')")
        await both.until(lambda: len(both.changes) >= 1)
        await notes.execute("revoke select on secrets from anon; grant select (id, a) on secrets to anon")
        await notes.execute("insert into secrets values (2, 'no', 'y'), (3, 'x', 'y')")
        await both.until(lambda: len(both.changes) >= 2 and bool(both.told))
        assert [one["record"] for one in both.changes] == [
            {"id": 1, "a": "no", "b": "y"},
            {"id": 3, "a": "x"},
        ]
        (status, text), *_ = both.told
        assert status == "error"
        assert "invalid column for filter b" in text


async def test_who_reads_without_policies_is_not_kept_waiting(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("alter policy own on notes using (pg_sleep(30) is not null)")
    async with streaming(migrated) as stream:
        slow = await subscribed(stream, "notes", claims=user(ONE))
        service = await subscribed(stream, "notes", claims=SERVICE)
        await notes.execute(f"insert into notes values (1, '{ONE}', 'a')")
        await service.until(lambda: len(service.changes) == 1)
        assert slow.changes == []


async def test_rows_of_a_table_that_is_gone_are_hidden_from_who_would_be_judged(
    migrated: str, notes: asyncpg.Connection
) -> None:
    async with streaming(migrated) as stream:
        one = await subscribed(stream, "notes", claims=user(ONE))
        service = await subscribed(stream, "notes")
        async with notes.transaction():
            await notes.execute(f"insert into notes values (1, '{ONE}', 'a')")
            await notes.execute("drop table notes")
        await service.until(lambda: len(service.changes) >= 1)
        await one.until(lambda: bool(one.told))
        assert one.changes == []
