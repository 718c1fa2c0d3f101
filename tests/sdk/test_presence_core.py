"""Presence in the core: states, differences, and what is shown again."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast_client import Presence, PresenceEvent
from rowcast_client._core.asking import How
from rowcast_client._core.connection import Connection
from rowcast_client._core.presence import Roster
from rowcast_client._core.wants import Present, Report, Settle
from rowcast_client.errors import ClientClosed, ConnectionLost, ProtocolError, SendError
from support.cores import A, frame, joined, rejoined, reply, sent

SEES = How(presence=True)
Model = dict[str, list[dict[str, Any]]]


def entries(there: Model) -> dict[str, Any]:
    return {key: {"metas": metas} for key, metas in there.items() if metas}


def state(there: Model, join_ref: str = "1") -> Present:
    return Present(A, join_ref, json.dumps(entries(there)).encode(), True)


def diff(joins: Model, leaves: Model, join_ref: str = "1") -> Present:
    said = {"joins": entries(joins), "leaves": entries(leaves)}
    return Present(A, join_ref, json.dumps(said).encode(), False)


def meta(ref: str, **payload: Any) -> dict[str, Any]:
    return {"phx_ref": ref, **payload}


def plain(events: list[PresenceEvent]) -> list[Any]:
    """Events with references for presences."""
    refs = [tuple([one.ref for one in part] for part in (e.joined, e.left, e.current)) for e in events]
    return [(event.event, event.key, *three) for event, three in zip(events, refs, strict=True)]


class Server:
    """The model: who is there, and what a client is told of it, in order."""

    def __init__(self) -> None:
        self.there: Model = {}
        self.joins = 0
        self.refs = 0

    def change(self, key: str, kind: str, size: int) -> tuple[Model, Model]:
        """Some come, go, or take another's place under a key."""
        self.refs += 1
        new = meta(f"r{self.refs}", n=size)
        metas = self.there.setdefault(key, [])
        if kind == "come" or not metas:
            metas.append(new)
            return {key: [new]}, {}
        old = metas.pop(size % len(metas))
        if kind == "go":
            return {}, {key: [old]}
        metas.append({**new, "phx_ref_prev": old["phx_ref"]})
        return {key: [metas[-1]]}, {key: [old]}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["come", "go", "change", "state", "rejoin"]),
        st.sampled_from(["ann", "bob", "cleo"]),
        st.integers(0, 5),
    ),
    max_size=30,
)


@given(STEPS, st.integers(0, 3))
def test_states_and_differences_come_to_what_the_server_has(steps: Any, late: int) -> None:
    server, roster, heard = Server(), Roster(), dict[str, Presence]()
    messages, until = [state({}, "0")], 0
    for kind, key, size in steps:
        if kind == "rejoin":
            server.joins += 1
            # So many changes are told before the state, which has them.
            until = late
        join_ref = str(server.joins)
        if kind == "state" or (kind == "rejoin" and not until):
            messages.append(state(server.there, join_ref))
        elif kind != "rejoin":
            messages.append(diff(*server.change(key, kind, size), join_ref))
            if until and not (until := until - 1):
                messages.append(state(server.there, join_ref))
    if until:
        messages.append(state(server.there, str(server.joins)))
    for message in messages:
        for event in roster.told(message):
            if event.event == "sync":
                assert sorted(one.ref for one in event.current) == sorted(heard)
                continue
            if event.event == "join":
                assert all(one.ref not in heard for one in event.joined)
                heard |= {one.ref: one for one in event.joined}
            else:
                assert all(heard.pop(one.ref) == one for one in event.left)
    there = {key: [one["phx_ref"] for one in metas] for key, metas in server.there.items() if metas}
    mine = {key: [one.ref for one in those] for key, those in roster.state().items()}
    assert {key: sorted(refs) for key, refs in mine.items()} == {k: sorted(v) for k, v in there.items()}


def test_one_that_takes_anothers_place_is_told_as_both_at_once() -> None:
    roster = Roster()
    roster.told(state({"ann": [meta("a1", n=1), meta("a2")]}))
    new = meta("a3", phx_ref_prev="a1", n=2)
    events = roster.told(diff({"ann": [new]}, {"ann": [meta("a1", n=1)]}))
    assert plain(events) == [
        ("join", "ann", ["a3"], ["a1"], ["a2", "a3"]),
        ("leave", "ann", ["a3"], ["a1"], ["a2", "a3"]),
        ("sync", None, ["a3"], ["a1"], ["a2", "a3"]),
    ]
    assert events[0].joined == (Presence("a3", "ann", {"n": 2}),)


def test_what_comes_before_the_state_is_kept_for_the_join_that_it_is_of() -> None:
    roster = Roster()
    roster.told(state({"ann": [meta("a1")]}, "1"))
    assert roster.told(diff({"old": [meta("x")]}, {}, "2")) == []
    assert roster.told(diff({"bob": [meta("b1")]}, {}, "3")) == []
    assert list(roster.state()) == ["ann"]
    assert plain(roster.told(state({"ann": [meta("a1")]}, "3"))) == [
        ("sync", None, [], [], ["a1"]),
        ("join", "bob", ["b1"], [], ["b1"]),
        ("sync", None, ["b1"], [], ["a1", "b1"]),
    ]


def test_a_state_after_a_reconnect_tells_who_came_and_who_went_meanwhile() -> None:
    roster = Roster()
    roster.told(state({"ann": [meta("a1")], "bob": [meta("b1")]}, "1"))
    assert plain(roster.told(state({"ann": [meta("a1")], "cleo": [meta("c1")]}, "2"))) == [
        ("join", "cleo", ["c1"], [], ["c1"]),
        ("leave", "bob", [], ["b1"], []),
        ("sync", None, ["c1"], ["b1"], ["a1", "c1"]),
    ]


@pytest.mark.parametrize("data", [b"[]", b'{"a": {}}', b'{"a": {"metas": [{}]}}', b'{"a": {"metas": [1]}}'])
def test_a_state_of_another_shape_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Roster().told(Present(A, "1", data, True))


def test_presence_is_for_those_who_asked_and_under_the_join_that_it_came_with() -> None:
    core, ref, _ = joined(SEES)
    assert core.received(1, frame(ref, None, "presence_state", {}), 0) == [Present(A, ref, b"{}", True)]
    assert core.received(1, frame(None, None, "presence_diff", {}), 0) == [Present(A, ref, b"{}", False)]
    core, ref, _ = joined(How())
    assert core.received(1, frame(None, None, "presence_diff", {}), 0) == []


def track(core: Connection, number: int, payload: bytes | None = b'{"n":1}') -> Any:
    (said,) = sent(core.show(A, payload, number))
    return said


def test_what_is_tracked_is_tracked_again_once_the_channel_is_subscribed_again() -> None:
    core, ref, _ = joined(SEES)
    call = track(core, 1)
    assert call[3:] == ["presence", {"type": "presence", "event": "track", "payload": {"n": 1}}]
    assert core.received(1, reply(ref, call[1]), 0) == [Settle(A, 1, None)]
    core.lost(1, ConnectionLost("gone"), 1)
    ref, wants = rejoined(core, 2, 9)
    (again,) = sent(wants)
    assert again[3:] == call[3:]
    # Nobody waits for it: a refusal is reported, and it is tried again with the next join.
    (report,) = core.received(2, reply(ref, again[1], "error", {"reason": "Unauthorized: no"}), 9)
    assert isinstance(report, Report)
    core.lost(2, ConnectionLost("gone"), 9)
    _, wants = rejoined(core, 3, 30)
    assert len(sent(wants)) == 1


def test_a_call_whose_answer_was_lost_is_said_again_and_answered_then() -> None:
    core, _, _ = joined(SEES)
    track(core, 1)
    assert not [want for want in core.lost(1, ConnectionLost("gone"), 1) if isinstance(want, Settle)]
    assert sent(core.show(A, b'{"n":2}', 2)) == []
    ref, wants = rejoined(core, 2, 9)
    one, two = sent(wants)
    assert [one[4]["payload"], two[4]["payload"]] == [{"n": 1}, {"n": 2}]
    assert core.received(2, reply(ref, one[1]), 9) == [Settle(A, 1, None)]
    assert core.received(2, reply(ref, two[1]), 9) == [Settle(A, 2, None)]


def test_what_is_refused_leaves_what_was_tracked_before() -> None:
    core, ref, _ = joined(SEES)
    core.received(1, reply(ref, track(core, 1)[1]), 0)
    (refused,) = core.received(1, reply(ref, track(core, 2, b'{"n":2}')[1], "error", {}), 0)
    assert isinstance(refused, Settle)
    assert isinstance(refused.error, SendError)
    core.lost(1, ConnectionLost("gone"), 1)
    _, wants = rejoined(core, 2, 9)
    assert [call[4]["payload"] for call in sent(wants)] == [{"n": 1}]


def test_what_is_untracked_is_not_shown_again_whatever_became_of_the_call() -> None:
    core, ref, _ = joined(SEES)
    core.received(1, reply(ref, track(core, 1)[1]), 0)
    assert track(core, 2, None)[4] == {"type": "presence", "event": "untrack"}
    core.abandon(A, 2)
    core.lost(1, ConnectionLost("gone"), 1)
    assert core.show(A, None, 3) == [Settle(A, 3, None)]
    _, wants = rejoined(core, 2, 9)
    assert sent(wants) == []


def test_a_track_before_an_untrack_is_not_shown_again_though_both_answers_were_lost() -> None:
    core, ref, _ = joined(SEES)
    one = track(core, 1)
    track(core, 2, None)
    core.received(1, reply(ref, one[1]), 0)
    core.lost(1, ConnectionLost("gone"), 1)
    _, wants = rejoined(core, 2, 9)
    assert [call[4]["event"] for call in sent(wants)] == ["untrack"]


def test_a_call_that_ended_the_channel_is_not_said_again() -> None:
    core, ref, _ = joined(SEES)
    track(core, 1)
    core.received(1, frame(ref, None, "system", {"status": "error", "message": "Track message size"}), 0)
    wants = core.received(1, frame(ref, ref, "phx_close", {}), 0)
    (settle,) = [want for want in wants if isinstance(want, Settle)]
    assert isinstance(settle.error, SendError)
    assert "Track message size" in settle.error.message
    (want,) = core.tick(9)
    assert sent(core.authorized(A, want.join_ref, None, 9))  # type: ignore[union-attr]
    assert sent(core.received(1, reply(want.join_ref, want.join_ref), 9)) == []  # type: ignore[union-attr]


def test_a_call_that_nobody_awaits_any_more_is_not_said_later_and_leaving_ends_all() -> None:
    core, _, _ = joined(SEES)
    core.lost(1, ConnectionLost("gone"), 1)
    core.show(A, b"{}", 1)
    core.abandon(A, 1)
    core.show(A, b'{"n":2}', 2)
    _, wants = rejoined(core, 2, 9)
    (call,) = sent(wants)
    assert call[4]["payload"] == {"n": 2}
    core.leave(A, 9)
    (settle, *_) = core.close(9)[1:]
    assert isinstance(settle, Settle)
    assert isinstance(settle.error, ClientClosed)
