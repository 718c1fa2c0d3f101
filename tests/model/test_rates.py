"""The window of a rate: what it takes and refuses, and when it takes again."""

from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.rates import STEP_SECONDS, STEPS, Rates, RateWindow


def taken(window: RateWindow, times: int, now: float) -> int:
    """How many of so many at once are taken."""
    return sum(window.take(now) for _ in range(times))


def test_a_burst_at_the_start_counts_in_full() -> None:
    window = RateWindow(2)
    assert taken(window, 100, 1_000.0) == 10
    assert window.reached(1_004.9)
    assert taken(window, 100, 1_005.0) == 10


def test_a_long_quiet_time_makes_room_for_a_minutes_worth() -> None:
    window = RateWindow(2)
    window.take(0.0)
    assert taken(window, 1_000, 3_600.0) == 120
    assert taken(window, 1_000, 3_659.9) == 0
    assert taken(window, 1_000, 3_660.0) == 120


def test_what_is_refused_is_not_counted() -> None:
    window = RateWindow(1)
    assert taken(window, 1_000_000, 0.0) == 5
    assert taken(window, 1, STEP_SECONDS) == 1


def test_a_clock_that_is_set_back_neither_frees_nor_freezes() -> None:
    window = RateWindow(1)
    assert taken(window, 100, 10_000.0) == 5
    assert window.reached(5_000.0)
    assert taken(window, 100, 5_000.0 + STEP_SECONDS) == 5


@given(
    limit=st.integers(1, 5),
    events=st.lists(st.tuples(st.floats(0, 90, allow_nan=False), st.integers(1, 40)), max_size=20),
)
def test_it_agrees_with_a_list_of_all_that_was_taken(limit: int, events: list[tuple[float, int]]) -> None:
    window, steps, now = RateWindow(limit), list[int](), 0.0
    window.reached(now)
    for wait, times in events:
        now += wait
        step = int(now // STEP_SECONDS)
        for _ in range(times):
            within = [at for at in steps if at > step - STEPS]
            expected = len(within) / (min(step + 1, STEPS) * STEP_SECONDS) < limit
            assert window.take(now) is expected
            if expected:
                steps.append(step)


def test_many_at_once_are_counted_and_told_as_an_average() -> None:
    window = RateWindow(10)
    window.count(0.0, 100)
    assert window.average(0.0) == 20
    assert window.average(STEP_SECONDS) == 10
    assert window.reached(STEP_SECONDS)
    assert window.average(STEP_SECONDS * STEPS) == 0


def test_each_who_sends_has_a_window_which_is_forgotten_when_it_is_idle_and_there_are_many() -> None:
    rates = Rates(2)
    assert taken(rates.of("one", 0.0), 100, 0.0) == 10
    assert taken(rates.of("another", 0.0), 100, 0.0) == 10
    assert rates.of("one", 1.0).reached(1.0)
    for number in range(5000):
        rates.of(number, 1.0).take(1.0)
    assert len(rates._windows) == 5002
    later = STEP_SECONDS * STEPS + 1
    for number in range(5000, 15_000):
        rates.of(number, later)
    assert len(rates._windows) < 6000
