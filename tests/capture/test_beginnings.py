"""Subscriptions that begin with a snapshot: its rows, and then every change after exactly that moment."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from rowcast.hub.feed import Gap, Subscriber
from rowcast.hub.lanes import Lane
from rowcast.model.binding import parse_binding
from rowcast.model.claims import Claims
from rowcast.protocol.frames import payload_of
from rowcast.protocol.messages import Version
from support.streams import SERVICE, Kept, streaming
from support.waiting import until, until_so

pytestmark = pytest.mark.anyio


@pytest.fixture
def tables() -> str:
    return """
        create table notes (id int primary key, owner text, n int not null default 0);
        grant select on notes to authenticated, service_role;
        alter publication supabase_realtime add table notes;
    """


class Copy(Kept):
    """A client that keeps a copy of the table, by what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, Any]] = {}
        self.events: list[str] = []
        self.complete = 0
        self.position: str | None = None

    def write(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            _, _, _, event, payload = json.loads(payload_of(frame)[1])
            data = payload["data"]
            self.events.append(event)
            if event == "snapshot":
                for record in data["records"]:
                    assert record["id"] not in self.rows
                    self.rows[record["id"]] = record
                self.complete += data["last"]
                self.position = data["position"]
            elif data["type"] == "DELETE":
                del self.rows[data["old_record"]["id"]]
            else:
                # What is not newer than what is known comes after another moment than the snapshot's.
                known = self.rows.get(data["record"]["id"])
                assert (
                    (known is None)
                    if data["type"] == "INSERT"
                    else (known and data["record"]["n"] == known["n"] + 1)
                )
                self.rows[data["record"]["id"]] = data["record"]
        self._more.set()


async def begun(
    stream: Any, copy: Copy, resume: str | None = None, claims: Claims = SERVICE, **more: Any
) -> Any:
    copy.subscriber = Subscriber(
        "realtime:notes",
        Version.V2,
        Lane(copy, 1 << 30),
        copy.lost,
        told=copy.tell,
        missed=copy.missed,
        gap=True,
    )
    entry = {"event": "*", "schema": "public", "table": "notes", "snapshot": {"batch": 7}, **more}
    return await stream.subscribe(copy.subscriber, [parse_binding(entry)], claims, resume)


async def selected(notes: asyncpg.Connection, where: str = "true") -> dict[int, dict[str, Any]]:
    return {record["id"]: dict(record) for record in await notes.fetch(f"select * from notes where {where}")}


async def test_a_copy_by_snapshot_and_changes_is_the_table_whenever_it_was_begun(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("insert into notes select g, 'a' from generate_series(1, 200) as g")
    async with streaming(migrated, page_size=20) as stream:
        done = asyncio.Event()

        async def churn() -> None:
            connection = await asyncpg.connect(migrated)
            for number in range(201, 301):
                async with connection.transaction():
                    await connection.execute("insert into notes values ($1, 'a')", number)
                    await connection.execute("update notes set n = n + 1 where id % 10 = $1", number % 10)
                    await connection.execute("delete from notes where id = $1", number - 150)
            await connection.close()
            done.set()

        writing = asyncio.create_task(churn())
        copies = [Copy() for _ in range(8)]
        for copy in copies:
            assert (await begun(stream, copy)).ok
            await asyncio.sleep(0)
        await writing
        expected = await selected(notes)
        for copy in copies:
            await copy.until(lambda copy=copy: copy.rows == expected)  # type: ignore[misc]
            assert copy.complete == 1
            assert copy.events[0] == "snapshot"
            assert copy.events == sorted(copy.events, reverse=True)


async def test_rows_are_those_that_role_and_filter_let_through(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("""
        insert into notes
          select g, case when g % 2 = 0 then 'a' else 'b' end, g from generate_series(1, 40) as g;
        alter table notes enable row level security;
        create policy own on notes to authenticated using (owner = auth.jwt() ->> 'sub');
    """)
    async with streaming(migrated) as stream:
        copy = Copy()
        claims = Claims("authenticated", 2e9, {"role": "authenticated", "sub": "a"})
        subscribed = await begun(stream, copy, claims=claims, filter="n=gt.10", leave=True)
        assert subscribed.ok
        await copy.until(lambda: copy.complete == 1)
        assert copy.rows == await selected(notes, "owner = 'a' and n > 10")
        await notes.execute("update notes set n = n + 1 where id in (12, 13)")
        await copy.until(lambda: copy.rows.get(12, {}).get("n") == 13)
        assert 13 not in copy.rows


async def test_a_resume_that_is_honoured_sends_no_snapshot_and_a_gap_takes_a_new_one(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("insert into notes values (1, 'a'), (2, 'a')")
    async with streaming(migrated) as stream:
        first = Copy()
        await begun(stream, first)
        await first.until(lambda: first.complete == 1)
        stream.unsubscribe(first.subscriber)
        await notes.execute("insert into notes values (3, 'a')")
        second = Copy()
        second.rows = dict(first.rows)
        await begun(stream, second, resume=first.position)
        await second.until(lambda: 3 in second.rows)
        assert second.events == ["postgres_changes"]
        stream.unsubscribe(second.subscriber)
        third = Copy()
        subscribed = await begun(stream, third, resume="none-of-these")
        await third.until(lambda: third.complete == 1)
        assert third.gaps == [Gap("unreadable", "none-of-these", subscribed.position)]
        assert third.rows == await selected(notes)


async def test_what_cannot_be_read_is_told_and_the_rest_of_the_channel_is_heard(
    migrated: str, notes: asyncpg.Connection
) -> None:
    async with streaming(migrated) as stream:
        copy = Copy()
        copy.subscriber = Subscriber(
            "realtime:notes", Version.V2, Lane(copy, 1 << 30), copy.lost, told=copy.tell
        )
        entry = {"event": "*", "schema": "public", "table": "notes"}
        bindings = [
            parse_binding({**entry, "snapshot": {"order": "nothing.desc"}}),
            parse_binding({**entry, "event": "INSERT"}),
        ]
        subscribed = await stream.subscribe(copy.subscriber, bindings, SERVICE)
        assert subscribed.ok
        (refused,) = subscribed.refused
        assert "Unable to take a snapshot of public.notes" in refused
        assert "nothing" in refused
        await notes.execute("insert into notes values (1, 'a')")
        await copy.until(lambda: 1 in copy.rows)


async def test_who_leaves_during_its_snapshot_gives_its_place_to_others(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("insert into notes select g, 'a' from generate_series(1, 2000) as g")
    async with streaming(migrated) as stream:
        for number in range(10):
            copy = Copy()
            # More than there are places for: each has to be given back.
            assert (await begun(stream, copy)).ok
            if number % 2:
                await copy.until(lambda copy=copy: bool(copy.rows))  # type: ignore[misc]
            stream.unsubscribe(copy.subscriber)
        rows = len(copy.rows)
        last = Copy()
        assert (await begun(stream, last)).ok
        await last.until(lambda: last.complete == 1)
        assert len(copy.rows) == rows < 2000
        assert len(last.rows) == 2000


async def test_a_snapshot_whose_connection_is_lost_is_taken_on_another(
    migrated: str, notes: asyncpg.Connection
) -> None:
    # It is in the middle of it as long as this is held.
    locker = await asyncpg.connect(migrated)
    async with streaming(migrated) as stream:
        for _ in range(5):
            copy = Copy()
            async with locker.transaction():
                await locker.execute("lock table notes in access exclusive mode")
                beginning = asyncio.create_task(begun(stream, copy))
                await until_so(
                    notes,
                    "select count(*) > 0 from pg_stat_activity where application_name ~ 'snapshots'"
                    " and datname = current_database()"
                    " and wait_event_type = 'Lock'",
                )
                await notes.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name ~ 'snapshots' and datname = current_database()"
                )
            assert (await beginning).ok
            await copy.until(lambda copy=copy: copy.complete == 1)  # type: ignore[misc]
            stream.unsubscribe(copy.subscriber)
    await locker.close()


async def test_a_token_that_comes_while_a_channel_begins_anew_begins_no_other_snapshot(
    migrated: str, notes: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await notes.execute("insert into notes values (1, 'a')")
    async with streaming(migrated) as stream:
        copy = Copy()
        with monkeypatch.context() as held:
            held.setattr(stream._replays, "release", lambda member: None)
            await begun(stream, copy)
            await copy.until(lambda: copy.complete == 1)
        member = stream._replays.get(copy.subscriber)
        assert member is not None
        copy.rows.clear()
        stream._replays.forget(copy.subscriber)
        stream._joining.miss(member, "history")
        refreshed = await stream.subscribe(copy.subscriber, member.bindings, SERVICE)
        assert (refreshed.ok, [gap.position for gap in copy.gaps]) == (True, [refreshed.position])
        await notes.execute("insert into notes values (2, 'a')")
        await copy.until(lambda: 2 in copy.rows)
        assert (copy.complete, copy.events) == (2, ["snapshot", "snapshot", "postgres_changes"])


async def test_a_live_gap_ends_a_channel_with_a_snapshot_so_that_it_takes_another(
    migrated: str, notes: asyncpg.Connection
) -> None:
    async with streaming(migrated) as stream:
        copy = Copy()
        subscribed = await begun(stream, copy)

        async def is_live() -> bool:
            return not copy.subscriber.behind

        await until(is_live)
        await notes.execute("update rowcast.epoch set value = gen_random_uuid()")
        await copy.until(lambda: copy.losses == 1)
        again = Copy()
        await begun(stream, again, resume=subscribed.position)
        await again.until(lambda: again.complete == 1)
        assert [gap.reason for gap in again.gaps] == ["history"]
