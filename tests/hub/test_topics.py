"""Topics: who is sent what, and that nobody else is."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.hub.topics import Member, Topics
from rowcast.protocol.broadcasts import Broadcast, TextBroadcast, UserBroadcast, encode_broadcast
from rowcast.protocol.messages import Version

pytestmark = pytest.mark.anyio

PING = TextBroadcast(b'{"event":"ping"}')


class Pipe:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def write(self, frame: bytes) -> None:
        self.frames.append(frame)


class Ear:
    """A lane that keeps what it is handed."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        #: What takes a frame at once.
        self.pipe: Pipe | None = None

    def push(self, frame: bytes) -> None:
        self.frames.append(frame)


def member(
    topic: str = "realtime:a", version: Version = Version.V2, *, private: bool = False, echo: bool = False
) -> tuple[Member, Ear]:
    ear = Ear()
    return Member(topic, private, version, ear, echo), ear  # type: ignore[arg-type]


@given(
    members=st.lists(
        st.tuples(
            st.sampled_from(["realtime:a", "realtime:a:b"]), st.booleans(), st.sampled_from(Version),
            st.booleans(), st.booleans(), st.booleans(),
        ),
        max_size=8,
    ),
    topic=st.sampled_from(["realtime:a", "realtime:a:b"]),
    private=st.booleans(),
    broadcast=st.sampled_from(
        [PING, UserBroadcast("e", b"{}"), UserBroadcast("e", b"\xff", raw=True)]
    ),
    sender=st.none() | st.integers(0, 7),
)  # fmt: skip
async def test_it_agrees_with_a_list_of_all_members(
    members: list[tuple[str, bool, Version, bool, bool, bool]],
    topic: str,
    private: bool,
    broadcast: Broadcast,
    sender: int | None,
) -> None:
    topics, ears = Topics(), []
    for place, secret, version, echo, hears, leaves in members:
        one, ear = member(place, version, private=secret, echo=echo)
        topics.enter(one)
        one.hears = hears
        topics.enter(one)
        if leaves:
            topics.leave(one)
        ears.append((one, ear, hears and not leaves))
    by = ears[sender][0] if sender is not None and sender < len(ears) else None
    topics.publish(topic, broadcast, private=private, sender=by)
    for one, ear, there in ears:
        frame = encode_broadcast(topic, broadcast, one.version)
        wanted = there and (one.topic, one.private) == (topic, private) and (one is not by or one.echo)
        assert ear.frames == ([frame] if wanted and frame is not None else [])
    assert topics.sent == sum(len(ear.frames) for _, ear, _ in ears)


@pytest.mark.parametrize("version", list(Version))
async def test_all_of_one_version_are_handed_the_very_same_frame(version: Version) -> None:
    topics, ears = Topics(), []
    for _ in range(3):
        one, ear = member(version=version)
        topics.enter(one)
        ears.append(ear)
    topics.publish("realtime:a", PING, private=False)
    assert len({id(frame) for ear in ears for frame in ear.frames}) == 1


async def test_the_first_of_a_turn_is_sent_at_once_and_those_after_it_together() -> None:
    topics = Topics()
    here, ear = member()
    there, other = member("realtime:b")
    ear.pipe, other.pipe = pipe, away = Pipe(), Pipe()
    for one in (here, there):
        topics.enter(one)
    frame = encode_broadcast("realtime:a", PING, Version.V2)
    for turn in range(1, 3):
        for _ in range(3):
            topics.publish("realtime:a", PING, private=False)
        topics.publish("realtime:b", PING, private=False)
        assert (pipe.frames, ear.frames) == ([frame] * turn, [frame] * 2 * turn)
        assert (len(away.frames), other.frames) == (turn, [])
        await asyncio.sleep(0)
    assert topics.sent == 8


def test_a_topic_that_everybody_left_is_forgotten() -> None:
    topics = Topics()
    one, _ = member()
    topics.enter(one)
    topics.leave(one)
    topics.leave(one)
    assert topics._listeners == {}
