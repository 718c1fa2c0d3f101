"""A lane: whole frames in order, joined within a turn, bounded, and nothing after a close frame."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rowcast.hub import lanes
from rowcast.hub.lanes import LOW_MARK, SLOW_CONSUMER, Lane, send_to_all

pytestmark = pytest.mark.anyio

LIMIT = 10_000


class Pipe:
    """A sink that takes everything and lets it leave when it is told to."""

    pipe: lanes.Pipe | None = None

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.stuck = 0
        self.closes: list[int] = []
        self.aborts = 0

    @property
    def written(self) -> list[bytes]:
        return [frame for frames in self.writes for frame in frames]

    def waiting(self) -> int:
        return self.stuck

    def write(self, frames: Sequence[bytes]) -> None:
        assert not self.closes, "written after the close frame"
        assert self.stuck <= LOW_MARK, "written while much is waiting"
        self.writes.append(list(frames))
        self.stuck += sum(map(len, frames))

    def close(self, code: int, reason: str) -> None:
        self.closes.append(code)

    def abort(self) -> None:
        self.aborts += 1

    def drain(self) -> None:
        self.stuck = 0


class At(NamedTuple):
    """Takes single frames for a sink."""

    sink: Pipe

    def write(self, frame: bytes) -> None:
        self.sink.write([frame])


class Joining(Pipe):
    """The same, which takes single frames besides, and says when it is full."""

    lane: Lane | None = None

    def __init__(self) -> None:
        super().__init__()
        self.pipe = At(self)

    def write(self, frames: Sequence[bytes]) -> None:
        super().write(frames)
        if self.stuck > LOW_MARK and self.lane is not None:
            self.lane.filled()


async def turn() -> None:
    """Let the event loop call what is due."""
    await asyncio.sleep(0)


async def test_frames_of_one_turn_leave_in_one_write() -> None:
    pipe = Pipe()
    lane = Lane(pipe, LIMIT)
    for frame in (b"a", b"b", b"c"):
        lane.push(frame)
    assert (pipe.writes, lane.queued) == ([], 3)
    await turn()
    assert (pipe.writes, lane.queued) == ([[b"a", b"b", b"c"]], 0)


async def test_a_frame_that_is_alone_in_its_turn_is_sent_at_once_where_nothing_waits() -> None:
    pipe = Joining()
    pipe.lane = lane = Lane(pipe, 1 << 20)
    send_to_all([lane], b"a")
    assert (pipe.writes, lane.queued) == ([[b"a"]], 0)
    # What waits goes first, and together.
    lane.push(b"b")
    send_to_all([lane], b"c")
    assert (pipe.writes, lane.queued) == ([[b"a"]], 2)
    await turn()
    send_to_all([lane], b"d")
    assert pipe.writes == [[b"a"], [b"b", b"c"], [b"d"]]
    lane.close(4000)
    send_to_all([lane], b"too late")
    await turn()
    assert (pipe.written[-1], pipe.closes) == (b"d", [4000])
    lane.end()


@given(
    states=st.lists(st.sampled_from(["free", "waits", "closing", "gone", "broken", "plain"]), max_size=8),
    but=st.none() | st.integers(0, 7),
)
async def test_of_many_each_is_sent_it_once_whatever_the_others_are(
    states: list[str], but: int | None
) -> None:
    class Broken(Joining):
        def write(self, frames: Sequence[bytes]) -> None:
            raise OSError("broken")

    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    kinds = {"broken": Broken, "plain": Pipe}
    pipes = [kinds.get(state, Joining)() for state in states]
    some = [Lane(pipe, LIMIT) for pipe in pipes]
    for state, lane in zip(states, some, strict=True):
        match state:
            case "waits":
                lane.push(b"before")
            case "closing":
                lane.close(4000)
            case "gone":
                lane.end()
    silent = some[but] if but is not None and but < len(some) else None
    assert send_to_all(some, b"a", silent) == len(some) - (silent is not None)
    await turn()
    for state, lane, pipe in zip(states, some, pipes, strict=True):
        heard = state in ("free", "waits", "plain") and lane is not silent
        assert pipe.written == [b"before"] * (state == "waits") + [b"a"] * heard
        assert pipe.aborts == (state == "broken" and lane is not silent)
        lane.end()
    assert len(told) == sum(pipe.aborts for pipe in pipes)


async def test_a_sink_that_is_full_is_sent_nothing_at_once_until_it_is_empty() -> None:
    pipe = Joining()
    pipe.lane = lane = Lane(pipe, 1 << 20)
    large = b"x" * (LOW_MARK + 1)
    send_to_all([lane], large)
    send_to_all([lane], b"a")
    await turn()
    assert (pipe.writes, lane.queued) == ([[large]], 1)
    pipe.drain()
    lane.emptied()
    assert (pipe.writes, lane.queued) == ([[large], [b"a"]], 0)
    send_to_all([lane], b"b")
    assert pipe.writes[2:] == [[b"b"]]
    lane.end()
    send_to_all([lane], b"gone")
    assert len(pipe.writes) == 3


async def test_a_full_sink_is_left_alone_until_it_has_room() -> None:
    pipe = Pipe()
    lane = Lane(pipe, LIMIT)
    pipe.stuck = LOW_MARK + 1
    lane.push(b"a")
    await turn()
    assert pipe.writes == []
    pipe.drain()
    lane.flush()
    assert pipe.written == [b"a"]


async def test_a_frame_larger_than_the_limit_goes_alone() -> None:
    pipe = Pipe()
    lane = Lane(pipe, LIMIT)
    lane.push(b"x" * (LIMIT + 1))
    await turn()
    assert (len(pipe.written), lane.closing) == (1, False)


async def test_a_slow_consumer_loses_what_waits_and_is_closed_with_its_own_code() -> None:
    pipe = Pipe()
    lane = Lane(pipe, LIMIT)
    pipe.stuck = LOW_MARK + 1
    lane.push(b"x" * LIMIT)
    lane.push(b"y")
    assert (lane.queued, lane.closing) == (0, True)
    await turn()
    assert (pipe.writes, pipe.closes) == ([], [SLOW_CONSUMER])
    lane.end()


async def test_a_close_waits_for_what_is_queued_and_is_the_last() -> None:
    pipe = Pipe()
    lane = Lane(pipe, LIMIT)
    pipe.stuck = LOW_MARK + 1
    lane.push(b"a")
    lane.close(4000)
    lane.close(4001)
    lane.push(b"too late")
    await turn()
    assert pipe.closes == []
    pipe.drain()
    lane.flush()
    lane.flush()
    assert (pipe.written, pipe.closes, lane.closed) == ([b"a"], [4000], True)
    lane.end()


async def test_a_connection_that_does_not_close_is_aborted_and_one_that_does_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "_ABORT_SECONDS", 0.0)
    closing, gone = Pipe(), Pipe()
    for pipe in (closing, gone):
        lane = Lane(pipe, LIMIT)
        lane.close(4000)
        if pipe is gone:
            lane.end()
    async with asyncio.timeout(5):
        while not closing.aborts:
            await turn()
    assert (closing.aborts, gone.aborts, gone.closes) == (1, 0, [])


@pytest.mark.parametrize("kind", [Pipe, Joining])
async def test_a_sink_that_fails_is_told_of_and_dropped_and_no_matter_of_the_others(kind: type[Pipe]) -> None:
    class Broken(kind):  # type: ignore[misc, valid-type]
        def write(self, frames: Sequence[bytes]) -> None:
            raise OSError("broken")

    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    broken, whole = Broken(), Pipe()
    both = [Lane(pipe, LIMIT) for pipe in (broken, whole)]
    for lane in both:
        send_to_all([lane], b"a")
    await turn()
    assert whole.written == [b"a"]
    # It would go on with a hole.
    assert (broken.aborts, [lane.closed for lane in both]) == (1, [True, False])
    assert [str(error) for error in told] == ["broken"]


async def test_nothing_is_written_once_the_connection_is_gone() -> None:
    pipe = Pipe()
    lane = Lane(pipe, LIMIT)
    lane.push(b"a")
    lane.end()
    lane.push(b"b")
    lane.close(4000)
    await turn()
    assert (pipe.writes, pipe.closes, lane.queued) == ([], [], 0)


@given(sizes=st.lists(st.integers(min_value=1, max_value=300_000), max_size=20))
async def test_frames_of_any_size_leave_whole_and_in_order(sizes: list[int]) -> None:
    pipe = Pipe()
    lane = Lane(pipe, limit=1 << 30)
    frames = [bytes([number]) * size for number, size in enumerate(sizes)]
    for frame in frames:
        lane.push(frame)
    while lane.queued:
        await turn()
        pipe.drain()
        lane.flush()
    assert pipe.written == frames


class Turns(asyncio.SelectorEventLoop):
    """A loop that runs when it is told to."""

    def run_once(self) -> None:
        self.call_soon(self.stop)
        self.run_forever()


class AnyLane(RuleBasedStateMachine):
    """Pushes, drains, turns and closes in any order, against the list of what was accepted."""

    pipes: type[Pipe] = Pipe

    def __init__(self) -> None:
        super().__init__()
        self.loop = Turns()
        self.pipe = self.pipes()
        self.lane = Lane(self.pipe, LIMIT, self.loop)
        if isinstance(self.pipe, Joining):
            self.pipe.lane = self.lane
        self.accepted: list[bytes] = []

    @rule(size=st.integers(min_value=1, max_value=LIMIT * 2))
    def pushes(self, size: int) -> None:
        frame = bytes([len(self.accepted) % 256]) * size
        if size % 2:
            send_to_all([self.lane], frame)
        else:
            self.lane.push(frame)
        if not self.lane.closing:
            self.accepted.append(frame)

    @rule()
    def drains(self) -> None:
        self.pipe.drain()
        self.lane.emptied()

    @rule()
    def turns(self) -> None:
        self.loop.run_once()

    @rule(seldom=st.integers(min_value=0, max_value=9))
    def closes(self, seldom: int) -> None:
        if not seldom:
            self.lane.close(4000)

    @rule(seldom=st.integers(min_value=0, max_value=9))
    def ends(self, seldom: int) -> None:
        if not seldom:
            self.lane.end()

    @invariant()
    def what_left_is_how_what_was_accepted_begins(self) -> None:
        count = len(self.pipe.written)
        assert self.accepted[:count] == self.pipe.written
        if not self.lane.closing:
            assert sum(map(len, self.accepted[count:])) == self.lane.queued

    @invariant()
    def it_is_bounded_and_closed_once(self) -> None:
        largest = max(map(len, self.accepted), default=0)
        assert self.lane.queued <= max(LIMIT, largest)
        assert len(self.pipe.closes) <= 1

    def teardown(self) -> None:
        self.lane.end()
        self.loop.close()


class AnyJoiningLane(AnyLane):
    """The same over a sink that takes a frame at once."""

    pipes = Joining


TestAnyLane = AnyLane.TestCase
TestAnyJoiningLane = AnyJoiningLane.TestCase
