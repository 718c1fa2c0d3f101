"""Presence on a node: one diff for each turn of the event loop, to all who may see it."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.hub.lanes import Lane
from rowcast.hub.rooms import Rooms
from rowcast.hub.topics import Member, Topics
from rowcast.protocol.broadcasts import event_broadcast
from rowcast.protocol.frames import payload_of, text_frame
from rowcast.protocol.messages import Version
from support.synced import Client

pytestmark = pytest.mark.anyio


class Socket:
    """Where a lane writes: keeps what was written."""

    pipe = None

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def waiting(self) -> int:
        return 0

    def write(self, frames: Sequence[bytes]) -> None:
        self.frames += frames

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(reason)

    def abort(self) -> None:
        raise AssertionError

    def heard(self) -> list[tuple[str, Any]]:
        """Event and payload of what came since it was asked last."""
        messages = [json.loads(payload_of(frame)[1]) for frame in self.frames]
        self.frames.clear()
        return [(m["event"], m["payload"]) if isinstance(m, dict) else (m[3], m[4]) for m in messages]


class Place:
    """A node with its topics."""

    def __init__(self) -> None:
        self.topics = Topics()
        self.rooms = Rooms(self.topics)

    def join(self, key: str, version: Version = Version.V2, **more: Any) -> tuple[Member, Socket]:
        socket = Socket()
        private = more.pop("private", False)
        lane = Lane(socket, 1 << 30)
        member = Member("realtime:room", private, version, lane, key=key, **more)
        self.topics.enter(member)
        return member, socket

    def part(self, member: Member) -> None:
        self.topics.leave(member)
        self.rooms.untrack(member)


async def turn() -> None:
    """Let what is told be told, and written."""
    for _ in range(3):
        await asyncio.sleep(0)


def names(diff: Any) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """The `n` of what joined and of what left, by key."""
    joins, leaves = (
        {key: [meta.get("n") for meta in one["metas"]] for key, one in diff[part].items()}
        for part in ("joins", "leaves")
    )
    return joins, leaves


async def test_what_happens_within_a_turn_is_told_in_one_diff() -> None:
    place = Place()
    (ann, socket), (bob, other) = place.join("ann"), place.join("bob", Version.V1)
    place.rooms.track(ann, b'{"n":1}')
    place.rooms.track(bob, b'{"n":2}')
    await turn()
    ((event, diff),) = socket.heard()
    assert event == "presence_diff"
    assert names(diff) == ({"ann": [1], "bob": [2]}, {})
    assert other.heard() == [(event, diff)]


async def test_a_meta_that_changes_takes_the_place_of_what_others_know() -> None:
    place = Place()
    ann, socket = place.join("ann")
    place.rooms.track(ann, b'{"n":1}')
    place.rooms.track(ann, b'{"n":2}')
    await turn()
    ((_, first),) = socket.heard()
    (meta,) = first["joins"]["ann"]["metas"]
    assert (meta["n"], "phx_ref_prev" in meta, first["leaves"]) == (2, False, {})
    for n in (3, 4):
        place.rooms.track(ann, b'{"n":%d}' % n)
    await turn()
    ((_, second),) = socket.heard()
    assert names(second) == ({"ann": [4]}, {"ann": [2]})
    assert second["joins"]["ann"]["metas"][0]["phx_ref_prev"] == meta["phx_ref"]


async def test_who_comes_and_goes_within_a_turn_is_not_spoken_of() -> None:
    place = Place()
    (ann, socket), (bob, _) = place.join("ann"), place.join("bob")
    place.rooms.track(bob, b"{}")
    place.rooms.untrack(bob)
    place.rooms.untrack(ann)
    await turn()
    assert socket.heard() == []


async def test_who_joins_in_the_midst_of_changes_is_told_each_of_them_once() -> None:
    place = Place()
    ann, _ = place.join("ann")
    place.rooms.track(ann, b'{"n":1}')
    await turn()
    place.rooms.track(ann, b'{"n":2}')
    late, socket = place.join("late")
    place.rooms.tell(late, "1")
    await turn()
    (state, known), (_, diff) = socket.heard()
    assert (state, known["ann"]["metas"][0]["n"]) == ("presence_state", 1)
    assert names(diff) == ({"ann": [2]}, {"ann": [1]})


async def test_a_state_larger_than_a_lane_follows_the_reply_and_is_followed() -> None:
    place = Place()
    ann, _ = place.join("ann")
    place.rooms.track(ann, b'{"n":"%s"}' % (b"x" * 1000))
    await turn()
    socket = Socket()
    lane = Lane(socket, 500)
    late = Member("realtime:room", False, Version.V2, lane, key="late")
    place.topics.enter(late)
    lane.push(text_frame(b"{}"))
    place.rooms.tell(late, "1")
    lane.push(text_frame(b"{}"))
    await turn()
    assert [len(frame) > 500 for frame in socket.frames] == [False, True, False]


async def test_public_and_private_rooms_and_those_who_may_not_see_are_apart() -> None:
    place = Place()
    (public, one), (private, two) = place.join("a"), place.join("b", private=True)
    _, blind = place.join("c", private=True, sees=False)
    deaf, three = place.join("d", private=True, hears=False)
    place.rooms.track(public, b'{"n":1}')
    place.rooms.track(private, b'{"n":2}')
    place.topics.publish("realtime:room", event_broadcast("e", {}), private=True, sender=deaf)
    await turn()
    assert [names(diff) for _, diff in one.heard()] == [({"a": [1]}, {})]
    assert [event for event, _ in two.heard()] == ["broadcast", "presence_diff"]
    assert [event for event, _ in blind.heard()] == ["broadcast"]
    assert [names(diff) for _, diff in three.heard()] == [({"b": [2]}, {})]


async def test_a_room_is_forgotten_with_the_last_who_is_present() -> None:
    place = Place()
    (ann, _), (bob, socket) = place.join("ann"), place.join("bob")
    for _ in range(2):
        place.rooms.track(ann, b"{}")
        await turn()
        place.part(ann)
        await turn()
        assert [names(diff) for _, diff in socket.heard()] == [({"ann": [None]}, {}), ({}, {"ann": [None]})]
        place.topics.enter(ann)
    assert place.rooms._rooms == {}
    place.rooms.tell(bob, "1")
    await turn()
    assert socket.heard() == [("presence_state", {})]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["join", "track", "untrack", "leave", "turn"]),
            st.integers(0, 3),
            st.integers(1, 3),
        ),
        max_size=40,
    )
)
def test_whatever_happens_every_member_knows_who_is_present_and_is_told_each_thing_once(
    steps: list[tuple[str, int, int]],
) -> None:
    asyncio.run(_whatever_happens([*steps, ("turn", 0, 0)]))


async def _whatever_happens(steps: list[tuple[str, int, int]]) -> None:
    place = Place()
    there: dict[int, tuple[Member, Socket, Client]] = {}
    shown: dict[int, int] = {}
    for do, who, n in steps:
        if do == "turn":
            await turn()
            expected: dict[str, list[int]] = {}
            for other in sorted(shown, key=lambda one: shown[one]):
                expected.setdefault(f"k{other % 2}", []).append(shown[other])
            for _, socket, client in there.values():
                for frame in socket.frames:
                    client.hear(frame)
                socket.frames.clear()
                metas = {key: [meta["n"] for meta in one["metas"]] for key, one in client.state.items()}
                assert {key: sorted(numbers) for key, numbers in metas.items()} == expected
        elif do == "join" and who not in there:
            member, socket = place.join(f"k{who % 2}")
            place.rooms.tell(member, "1")
            there[who] = (member, socket, Client())
        elif do == "track" and who in there:
            place.rooms.track(there[who][0], b'{"n":%d}' % n)
            shown[who] = n
        elif do == "untrack" and who in there:
            place.rooms.untrack(there[who][0])
            shown.pop(who, None)
        elif do == "leave" and who in there:
            place.part(there.pop(who)[0])
            shown.pop(who, None)


async def test_a_thousand_who_come_and_go_at_once_are_one_diff_each_way() -> None:
    place = Place()
    members = [place.join(f"k{n}", list(Version)[n % 2]) for n in range(1000)]
    for n, (member, _) in enumerate(members):
        place.rooms.tell(member, "1")
        place.rooms.track(member, b'{"n":%d}' % n)
    await turn()
    everybody = {f"k{n}": [n] for n in range(1000)}
    for _, first in members[:2]:
        others = [socket for _, socket in members if socket.frames == first.frames]
        assert len(others) == 500
        (_, state), (_, diff) = first.heard()
        assert (state, names(diff)) == ({}, (everybody, {}))
        for socket in others:
            socket.frames.clear()
    (watching, socket), *leaving = members
    for member, _ in leaving:
        place.part(member)
    place.rooms.tell(watching, "1")
    await turn()
    (_, state), (_, diff) = socket.heard()
    assert state.keys() == everybody.keys()
    assert names(diff) == ({}, {key: n for key, n in everybody.items() if key != "k0"})
    assert not any(other.frames for _, other in leaving)
