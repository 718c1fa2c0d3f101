"""When the reader sleeps: the rules, and the flag against writers that commit around the switch."""

import asyncio

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.capture.waker import (
    AWAKE_POLLS,
    BELT,
    CALM_SECONDS,
    IDLE_POLL,
    WINDOW,
    Mode,
    Waker,
    thresholds,
)
from support.streams import streaming, subscribed


def quiet(waker: Waker, now: float, seconds: float) -> Mode | None:
    """Let time pass with nothing to read; the mode that is wanted then."""
    wanted = None
    for step in range(int(seconds / 0.1)):
        waker.read(0, 10, now + step * 0.1)
        wanted = wanted or waker.wants(now + step * 0.1)
    return wanted


@given(commit=st.floats(1e-6, 1.0))
def test_thresholds_follow_the_disk_within_limits(commit: float) -> None:
    high, low = thresholds(commit)
    assert 10 <= high <= 300
    assert low == pytest.approx(high / 3)


def test_a_slow_disk_lowers_the_threshold_that_notify_would_hold_the_rate_below() -> None:
    assert thresholds(0.0007)[0] > 280
    assert thresholds(0.011)[0] < 20


def test_an_owner_falls_asleep_after_a_calm_time_and_only_once_older_writers_have_ended() -> None:
    waker = Waker()
    waker.own(0.0)
    assert waker.pause(0.0) == AWAKE_POLLS[0][1]
    assert quiet(waker, 0.0, CALM_SECONDS - 0.3) is None
    assert quiet(waker, CALM_SECONDS, 1.0) is Mode.FALLING
    waker.raised(drawn=100)
    modes = []
    # At 100 a transaction with a lower xid than the drawn one may still run.
    for xmin in (100, 101):
        waker.read(0, xmin, 3.0)
        modes.append(waker.mode)
    assert modes == [Mode.FALLING, Mode.ASLEEP]
    assert waker.pause(3.1) == BELT


def test_a_burst_wakes_the_owner_without_waiting_for_its_window() -> None:
    waker = Waker()
    waker.own(0.0)
    waker.raised(drawn=1)
    waker.read(0, 2, 0.01)
    waker.read(1000, 3, 0.02)
    assert waker.wants(0.02) is Mode.AWAKE


def test_the_busier_an_owner_is_the_more_it_reads_at_once() -> None:
    waker = Waker()
    waker.own(0.0)
    paces = []
    for turn, changes in enumerate((0, 200, 5_000, 0), start=1):
        waker.read(changes, 1, turn * WINDOW)
        waker.wants(turn * WINDOW)
        paces.append(waker.pause(turn * WINDOW))
    quick, middle, slow = (poll for _, poll in AWAKE_POLLS)
    assert paces == [quick, middle, slow, quick]


def test_where_transactions_can_be_prepared_the_flag_is_never_raised() -> None:
    waker = Waker(sleeps=False)
    waker.own(0.0)
    assert quiet(waker, 0.0, 30.0) is None
    assert waker.pause(30.0) == IDLE_POLL


def test_a_follower_polls_faster_while_the_owner_is_awake() -> None:
    waker = Waker()
    awake = waker.pause(0.0)
    waker.leader_sleeps = True
    assert awake < waker.pause(0.0)


@pytest.mark.anyio
async def test_no_write_around_the_switch_waits_for_the_belt(migrated: str) -> None:
    """Writers whose trigger looks at the flag around the moment it is raised, and that commit after it."""
    setup = await asyncpg.connect(migrated)
    await setup.execute(
        "create table things (id bigint primary key); grant select on things to service_role;"
        "alter publication supabase_realtime add table things"
    )
    writers = [await asyncpg.connect(migrated) for _ in range(2)]
    async with streaming(migrated) as stream:
        kept = await subscribed(stream, "things")
        waker = stream._waker
        number = 0
        for turn in range(40):
            open_ = []
            for n, writer in enumerate(writers):
                transaction = writer.transaction(isolation="repeatable_read" if n else "read_committed")
                await transaction.start()
                await writer.fetch("select 1 from things limit 1")
                number += 1
                await writer.execute("insert into things values ($1)", number)
                open_.append(transaction)
                if n == turn % 2 and waker.mode is Mode.AWAKE:
                    # Fall asleep now, between the two triggers, whatever the rate.
                    waker._calm_since = -CALM_SECONDS * 2
                    waker._window_began = -1.0
                    stream._listener._changed.set()
                    await setup.execute("select pg_sleep(0.01)")
            for transaction in open_:
                await transaction.commit()
            # The belt would bring it within a second; the flag must bring it at once.
            await kept.until(lambda number=number: len(kept.changes) >= number, seconds=0.9)  # type: ignore[misc]
            if waker.mode is Mode.ASLEEP:
                await setup.execute("select setval('rowcast.asleep_until', 0)")
                waker.lowered(asyncio.get_running_loop().time())
        assert [change["record"]["id"] for change in kept.changes] == sorted(range(1, number + 1))
    for connection in (setup, *writers):
        await connection.close()
