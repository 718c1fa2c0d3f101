"""Channels that resume: from any position, in order, with nothing lost and nothing twice."""

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rowcast.capture import precedence, replays
from rowcast.capture.delivery import Delivery
from rowcast.capture.groups import Group
from rowcast.capture.reader import Page
from rowcast.capture.stream import Stream
from rowcast.model.claims import Claims
from rowcast.model.position import Snapshot
from support import databases
from support.resuming import arrived, ids, told, written
from support.streams import Kept, streaming, subscribed
from support.workload import SETUP, Seen, faults, write

pytestmark = pytest.mark.anyio


async def test_a_channel_resumes_from_every_position_that_it_was_given(
    migrated: str, notes: asyncpg.Connection
) -> None:
    async with streaming(migrated, page_size=7) as stream:
        whole = await subscribed(stream, "notes")
        await written(notes, 1, 10)
        # Larger than a page: read by parts.
        await notes.execute("insert into notes select n, 'a', 'x' from generate_series(11, 40) as n")
        await written(notes, 41, 45)
        await whole.until(lambda: len(whole.changes) == 45)
        resumed = [await subscribed(stream, "notes", resume=one["position"]) for one in whole.changes]
        await written(notes, 46, 50)
        for after, kept in enumerate(resumed, start=1):
            await kept.until(lambda kept=kept, after=after: len(kept.changes) >= 50 - after)  # type: ignore[misc]
        await whole.until(lambda: len(whole.changes) == 50)
        await arrived(stream)
        for after, kept in enumerate(resumed, start=1):
            assert told(kept.changes) == told(whole.changes[after:])
            assert (kept.gaps, kept.losses) == ([], 0)


@settings(max_examples=2, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 100_000), size=st.sampled_from([3, 40, 1000]))
async def test_clients_that_break_off_anywhere_and_go_on_anywhere_hear_all_once_and_in_order(
    postgres: str, migrated_template: str, database_names: Iterator[str], seed: int, size: int
) -> None:
    name = next(database_names)
    dsn = databases.create(postgres, name, template=migrated_template)
    rnd = random.Random(seed)
    admin = await asyncpg.connect(dsn)
    await admin.execute("grant select on all tables in schema public to service_role")
    await admin.execute("alter default privileges grant select on tables to service_role")
    await admin.execute(SETUP)
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(streaming(dsn, page_size=size)) for _ in range(2)]
        await nodes[0]._present.catch_up()
        begin = nodes[0].position
        clients = [asyncio.create_task(_wander(nodes, random.Random(rnd.random()), begin)) for _ in range(4)]
        await write(dsn, seed, writers=5, transactions=15)
        await admin.execute("insert into entries (writer, note) values (-1, 'last')")
        heard = [await client for client in clients]
        of = {
            record["seq"]: record["xid"]
            for record in await admin.fetch(
                " union all ".join(
                    f"select seq, xid::text::bigint as xid from rowcast.outbox_{n}" for n in range(3)
                )
            )
        }
        for changes in heard:
            seen = [
                Seen(of[one["seq"]], one["seq"], one["table"], json.dumps(one["record"])) for one in changes
            ]
            assert await faults(admin, seen) == {}
    await admin.close()
    databases.drop(postgres, name)


async def _wander(nodes: Sequence[Stream], rnd: random.Random, position: str | None) -> list[dict[str, Any]]:
    """Hear everything, going from node to node in the middle of anything, until the last row came."""
    heard: list[dict[str, Any]] = []
    while True:
        node = rnd.choice(nodes)
        kept = await subscribed(node, "*", resume=position)
        some = rnd.choice([0, 1, 5, 50])
        with contextlib.suppress(TimeoutError):
            await kept.until(lambda kept=kept, some=some: len(kept.changes) >= some, rnd.random())  # type: ignore[misc]
        node.unsubscribe(kept.subscriber)
        assert (kept.gaps, kept.losses) == ([], 0)
        # Not all that came was looked at.
        taken = kept.changes[: rnd.randrange(len(kept.changes) + 1)]
        heard += taken
        position = heard[-1]["position"] if heard else position
        if heard and heard[-1]["record"].get("note") == "last":
            return heard


def user(name: str) -> Claims:
    return Claims("authenticated", 2e9, {"role": "authenticated", "sub": name})


async def test_what_is_replayed_is_filtered_and_judged_for_each_as_what_is_live(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("""
        alter table notes enable row level security;
        create policy own on notes to authenticated using (owner = auth.jwt() ->> 'sub');
    """)
    async with streaming(migrated, page_size=20) as stream:
        asks = [
            ({"claims": user("a")}, ()),
            ({"claims": user("b")}, ()),
            ({}, ("id=gt.10",)),
            ({}, ("body=like.x%", "owner=eq.a")),
            ({"claims": user("a")}, ("body=match.^x",)),
        ]
        whole = [await subscribed(stream, "notes", *filters, **more) for more, filters in asks]  # type: ignore[arg-type]
        start = await subscribed(stream, "notes")
        await written(notes, 0, 60)
        await start.until(lambda: len(start.changes) == 61)
        first = start.changes[0]["position"]
        resumed = [
            await subscribed(stream, "notes", *filters, resume=first, **more)  # type: ignore[arg-type]
            for more, filters in asks
        ]
        await arrived(stream)
        await notes.execute("update notes set body = 'y' where id in (20, 21)")
        await notes.execute("delete from notes where id > 58")
        await stream._present.settle()
        for live, late in zip(whole, resumed, strict=True):
            missed = [one for one in live.changes if one["seq"] > start.changes[0]["seq"]]
            assert told(late.changes) == told(missed)
            assert len(late.changes) > 10


async def test_a_replay_goes_on_where_its_connection_was_lost(
    migrated: str, notes: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every small part waits, so that there is a middle to break off in.
    monkeypatch.setattr("rowcast.capture.delivery._SLICE_BYTES", 0)
    async with streaming(migrated, page_size=10) as stream:
        first = await subscribed(stream, "notes")
        await written(notes, 1, 100)
        await first.until(lambda: len(first.changes) == 100)
        late = await subscribed(
            stream, "notes", "id=gt.0", "body=like.x%", resume=first.changes[0]["position"]
        )
        for least in (5, 30, 60):
            await late.until(lambda least=least: len(late.changes) >= least)  # type: ignore[misc]
            await notes.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ 'replay'"
                " and datname = current_database()"
            )
        await arrived(stream)
        assert ids(late.changes) == list(range(2, 101))


async def test_the_end_of_a_batch_that_was_broken_off_is_no_read_that_catches_up(
    migrated: str, notes: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Snapshot] = []
    caught_up: list[asyncio.Future[None]] = []
    hand_out = Delivery._hand_out

    async def breaking(self: Delivery, connection: Any, page: Page, *more: Any) -> bool:
        if page.rows and page.rows[0].seq > 10 and not seen:
            await notes.execute("insert into others values (1)")
            seen.append(Snapshot.parse(await notes.fetchval("select pg_current_snapshot()::text")))
            caught_up.append(asyncio.ensure_future(stream._present.catch_up()))
            raise ConnectionResetError("in the middle of a batch")
        return await hand_out(self, connection, page, *more)

    async with streaming(migrated, page_size=10) as stream:
        kept = await subscribed(stream, "notes")
        monkeypatch.setattr(Delivery, "_hand_out", breaking)
        await notes.execute("insert into notes select n, 'a', 'x' from generate_series(1, 40) as n")
        await kept.until(lambda: len(kept.changes) == 40)
        await caught_up[0]
        place = stream._live.reader.place
        assert place is not None
        assert place.start.covers(seen[0])


async def test_a_token_that_comes_during_a_replay_counts_from_then_on(
    migrated: str, notes: asyncpg.Connection
) -> None:
    await notes.execute("""
        alter table notes enable row level security;
        create policy own on notes to authenticated using (owner = auth.jwt() ->> 'sub');
    """)
    async with streaming(migrated, page_size=10) as stream:
        first = await subscribed(stream, "notes")
        await written(notes, 1, 60)
        await first.until(lambda: len(first.changes) == 60)
        late = await subscribed(stream, "notes", claims=user("b"), resume=first.changes[0]["position"])
        bindings = [binding for binding in stream._replays._members[late.subscriber].bindings]
        assert (await stream.subscribe(late.subscriber, bindings, user("a"))).ok
        await arrived(stream)
        await written(notes, 61, 64)
        await stream._present.settle()
        heard = ids(late.changes)
        assert heard == sorted(set(heard))
        turn = next(place for place, number in enumerate(heard) if number % 2 == 0)
        assert [number % 2 for number in heard[:turn]] == [1] * turn
        assert heard[turn:] == list(range(heard[turn], 65, 2))


async def test_a_crowd_that_comes_back_at_once_is_read_for_together(
    migrated: str, notes: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    legs: list[int] = []
    leg = replays.Replays._leg
    everybody = asyncio.Event()

    async def counted(self: replays.Replays, connection: Any, delivery: Any, group: Any, end: Any) -> int:
        legs.append(len(group.members))
        if not everybody.is_set():
            await everybody.wait()
        return await leg(self, connection, delivery, group, end)

    monkeypatch.setattr(replays.Replays, "_leg", counted)
    async with streaming(migrated) as stream:
        first = await subscribed(stream, "notes")
        await written(notes, 1, 50)
        await first.until(lambda: len(first.changes) == 50)
        position = first.changes[0]["position"]
        crowd = await asyncio.gather(*(subscribed(stream, "notes", resume=position) for _ in range(30)))
        everybody.set()
        await arrived(stream)
        assert all(ids(one.changes) == list(range(2, 51)) for one in crowd)
        # Each of the two workers takes those who are there first, and the others wait together.
        assert max(legs) >= 10


async def test_a_read_of_the_present_comes_before_the_next_piece_of_a_replay(
    migrated: str, notes: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear: list[bool] = []
    hand_out = Delivery._hand_out

    async def noted(self: Delivery, *arguments: Any) -> bool:
        if self is stream._live:
            clear.append(stream._replays.precedence._clear.is_set())
        return await hand_out(self, *arguments)

    monkeypatch.setattr(Delivery, "_hand_out", noted)
    monkeypatch.setattr(precedence, "_SECONDS", 3600.0)
    async with streaming(migrated) as stream:
        kept = await subscribed(stream, "notes")
        await written(notes, 1, 3)
        await kept.until(lambda: len(kept.changes) == 3)
        assert not any(clear)
        assert clear
        # Apart from the one that the stream's own reads clear again.
        apart = replays.Replays(lambda _: None, lambda *_: None, stream._live, asyncio.Event())
        with apart.precedence.taken():
            pausing = asyncio.create_task(apart._pause(stream._live, Group()))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not pausing.done()
        await pausing
        # One that takes long, as for a network that is gone, holds nobody up.
        monkeypatch.setattr(precedence, "_SECONDS", 0.0)
        with apart.precedence.taken():
            await apart._pause(stream._live, Group())


class Slow(Kept):
    """A client that reads nothing for a while."""

    reads = False

    def waiting(self) -> int:
        return 0 if self.reads else 1 << 20


async def test_a_client_that_reads_slowly_goes_on_alone_and_holds_up_nobody(
    migrated: str, notes: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(replays, "_FULL", 2000)
    monkeypatch.setattr(replays, "_LOW", 500)
    monkeypatch.setattr("rowcast.capture.delivery._SLICE_BYTES", 0)
    async with streaming(migrated, page_size=10) as stream:
        first = await subscribed(stream, "notes")
        await written(notes, 1, 60)
        await first.until(lambda: len(first.changes) == 60)
        position = first.changes[0]["position"]
        slow = Slow()
        crowd = await asyncio.gather(
            *(subscribed(stream, "notes", resume=position, kept=kept) for kept in (slow, Kept(), Kept()))
        )
        for fast in crowd[1:]:
            await fast.until(lambda fast=fast: len(fast.changes) == 59)  # type: ignore[misc]
        assert slow.changes == []
        slow.reads = True
        slow.subscriber.lane.flush()
        await slow.until(lambda: len(slow.changes) == 59)
        assert ids(slow.changes) == list(range(2, 61))


async def test_a_client_that_reads_nothing_during_its_replay_is_cut(
    migrated: str, notes: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_WAIT_SECONDS": 0.01, "_STALL_SECONDS": 0.05, "_FULL": 2000, "_LOW": 500}.items():
        monkeypatch.setattr(replays, name, value)
    monkeypatch.setattr("rowcast.capture.delivery._SLICE_BYTES", 0)
    closed = asyncio.Event()
    slow = Slow()
    monkeypatch.setattr(slow, "abort", lambda: None)
    monkeypatch.setattr(slow, "close", lambda code, reason: closed.set() if code == 4008 else None)
    async with streaming(migrated, page_size=10) as stream:
        first = await subscribed(stream, "notes")
        await written(notes, 1, 60)
        await first.until(lambda: len(first.changes) == 60)
        await subscribed(stream, "notes", resume=first.changes[0]["position"], kept=slow)
        async with asyncio.timeout(30):
            await closed.wait()
        stream.unsubscribe(slow.subscriber)
        assert not len(stream._replays)
