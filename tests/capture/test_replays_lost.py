"""Channels that cannot resume, or no longer: they are told, and others are none the wiser."""

import asyncpg
import pytest

from rowcast.capture import replays
from rowcast.model.position import Order, Position, Snapshot
from support.resuming import arrived, ids, written
from support.streams import streaming, subscribed
from support.waiting import until

pytestmark = pytest.mark.anyio


async def test_a_position_that_somebody_made_up_is_resumed_from_as_it_reads(
    migrated: str, notes: asyncpg.Connection
) -> None:
    async with streaming(migrated) as stream:
        first = await subscribed(stream, "notes")
        await written(notes, 1, 2)
        await first.until(lambda: len(first.changes) == 2)
        place = Position.decode(first.changes[0]["position"])
        assert place.end is not None
        top, xmax = 2**63 - 1, place.end.xmax
        for forged in (
            Position(place.epoch, place.start, place.end, Order(top, top, top)),
            Position(place.epoch, place.start, place.end, Order(top, 0, 0)),
            Position(place.epoch, Snapshot(xmax, tuple(range(xmax - 50, xmax)))),
        ):
            kept = await subscribed(stream, "notes", resume=forged.encode())
            await arrived(stream)
            assert (kept.gaps, kept.losses) == ([], 0)
            assert set(ids(kept.changes)) <= {1, 2}


async def test_a_replay_that_fails_ends_its_channels_and_no_others(
    migrated: str, notes: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with streaming(migrated) as stream:
        first = await subscribed(stream, "notes")
        await written(notes, 1, 2)
        await first.until(lambda: len(first.changes) == 2)
        position = first.changes[0]["position"]

        async def failing(*_: object) -> int:
            raise ValueError("what nobody foresaw")

        with monkeypatch.context() as broken:
            broken.setattr(replays.Replays, "_leg", failing)
            lost = await subscribed(stream, "notes", resume=position)
            await lost.until(lambda: lost.losses == 1)
        late = await subscribed(stream, "notes", resume=position)
        await late.until(lambda: len(late.changes) == 1)
        await arrived(stream)
        assert (ids(late.changes), first.losses) == ([2], 0)


async def test_a_channel_whose_only_filter_is_switched_off_resumes_no_longer(
    migrated: str, notes: asyncpg.Connection
) -> None:
    async with streaming(migrated, filter_timeout=0.3) as stream:
        first = await subscribed(stream, "notes")
        await notes.execute("insert into notes values (1, 'a', 'x'), (2, 'a', repeat('ab', 400))")
        await first.until(lambda: len(first.changes) == 2)
        explodes = r"body=match.^((.*)(.*))(\2\3|\3\2)+b?\1\3\3\3$"
        late = await subscribed(stream, "notes", explodes, resume=first.changes[0]["position"])
        await late.until(lambda: len(late.told) == 1)
        assert "body (match)" in late.told[0][1]
        await arrived(stream)
        assert not late.subscriber.behind


@pytest.mark.parametrize("kind", ["unreadable", "history", "future", "retention"])
async def test_a_position_that_cannot_be_resumed_from_is_a_gap_and_the_channel_hears_the_present(
    migrated: str, notes: asyncpg.Connection, kind: str
) -> None:
    async with streaming(migrated, age=0.0 if kind == "retention" else 3600.0) as stream:
        first = await subscribed(stream, "notes")
        await written(notes, 1, 2)
        await first.until(lambda: len(first.changes) == 2)
        position = first.changes[0]["position"]
        place = Position.decode(position)
        match kind:
            case "unreadable":
                position = "no-position"
            case "history":
                position = Position(bytes(6), place.start).encode()
            case "future":
                position = Position(place.epoch, Snapshot(place.start.xmax + 10**6, ())).encode()
            case "retention":
                trimmed = Snapshot(place.start.xmax + 1, ())

                async def is_trimmed() -> bool:
                    await notes.execute("insert into others select coalesce(max(id), 0) + 1 from others")
                    return int(await notes.fetchval("select xid::text from rowcast.trimmed")) > trimmed.xmax

                await until(is_trimmed)
        late = await subscribed(stream, "notes", resume=position)
        await late.until(lambda: len(late.gaps) == 1)
        assert (late.gaps[0].reason, late.gaps[0].since) == (kind, position)
        await written(notes, 3, 3)
        await late.until(lambda: len(late.changes) == 1)
        assert ids(late.changes) == [3]
        # Where it says that the stream goes on is a position as any other.
        again = await subscribed(stream, "notes", resume=late.gaps[0].position)
        await again.until(lambda: len(again.changes) == 1)
        assert ids(again.changes) == [3]


async def test_who_reads_for_those_who_resume_takes_a_new_history_as_the_live_reader_does(
    migrated: str, notes: asyncpg.Connection
) -> None:
    async with streaming(migrated) as stream:
        for number in (1, 3):
            kept = await subscribed(stream, "notes", gap=True)
            await written(notes, number, number + 1)
            await kept.until(lambda kept=kept: len(kept.changes) == 2)  # type: ignore[misc]
            # Its connection is kept for the next who come.
            late = await subscribed(stream, "notes", resume=kept.changes[0]["position"])
            await late.until(lambda late=late: len(late.changes) == 1)  # type: ignore[misc]
            await arrived(stream)
            assert (ids(late.changes), late.gaps) == ([number + 1], [])
            await notes.execute("update rowcast.epoch set value = gen_random_uuid()")
            await kept.until(lambda kept=kept: len(kept.gaps) == 1)  # type: ignore[misc]


async def test_who_asked_for_it_is_told_of_a_live_gap_and_goes_on_and_others_end(
    migrated: str, notes: asyncpg.Connection
) -> None:
    async with streaming(migrated) as stream:
        stays = await subscribed(stream, "notes", gap=True)
        asking = await subscribed(stream, "notes", "body=like.x%", gap=True)
        ends = await subscribed(stream, "notes")
        await notes.execute("update rowcast.epoch set value = gen_random_uuid()")
        for kept in (stays, asking):
            await kept.until(lambda kept=kept: len(kept.gaps) == 1)  # type: ignore[misc]
            assert kept.gaps[0].reason == "history"
        assert ends.losses == 1
        await written(notes, 1, 1)
        for kept in (stays, asking):
            await kept.until(lambda kept=kept: len(kept.changes) == 1)  # type: ignore[misc]
            late = await subscribed(stream, "notes", resume=kept.gaps[0].position)
            await late.until(lambda late=late: len(late.changes) == 1)  # type: ignore[misc]
        assert (stays.losses, asking.losses, ends.changes) == (0, 0, [])
