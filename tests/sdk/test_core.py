"""The core without sockets: what it wants, and when, by a clock that the test moves."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast_client._core import frames
from rowcast_client._core.connection import Connection
from rowcast_client._core.join import Timing
from rowcast_client._core.wants import (
    Authorize,
    Close,
    Deliver,
    Notify,
    Open,
    Report,
    Send,
    Stop,
    System,
    Want,
)
from rowcast_client.errors import AuthError, ConnectError, ConnectionLost, ProtocolError, UsageError
from rowcast_client.retry import RetryPolicy
from rowcast_client.states import ClientState, SubscribeStatus

TIMING = Timing(join_timeout=10, heartbeat_interval=25, heartbeat_timeout=5)
LATEST = RetryPolicy(random=lambda: 1.0)
BINDING = {"event": "*", "schema": "public", "table": "t"}
A = "realtime:a"


def connection(**options: Any) -> Connection:
    return Connection(TIMING, LATEST, **options)


def online() -> Connection:
    core = connection()
    assert core.connect(0) == [Open(1)]
    assert core.opened(1, 0) == []
    return core


def frame(join_ref: str | None, ref: str | None, event: str, payload: Any, topic: str = A) -> str:
    return json.dumps([join_ref, ref, topic, event, payload])


def sent(wants: list[Want]) -> list[Any]:
    return [json.loads(want.text) for want in wants if isinstance(want, Send)]


def statuses(wants: list[Want]) -> list[str]:
    return [want.status for want in wants if isinstance(want, Notify)]


def joining(core: Connection, now: float, *bindings: dict[str, Any]) -> str:
    """Bring channel A to JOINING; its join ref."""
    (want,) = core.subscribe(A, bindings, now)
    assert isinstance(want, Authorize)
    (join,) = sent(core.authorized(A, want.join_ref, None, now))
    assert join == [
        want.join_ref,
        want.join_ref,
        A,
        "phx_join",
        {"config": {"postgres_changes": list(bindings)}},
    ]
    return want.join_ref


def test_the_waits_between_tries_double_up_to_the_cap() -> None:
    assert [LATEST.delay(n) for n in (0, 1, 2, 20, 10_000)] == [0.2, 0.4, 0.8, 30, 30]


def test_a_policy_that_cannot_work_is_refused() -> None:
    with pytest.raises(UsageError):
        RetryPolicy(first=0)


def test_quick_losses_climb_the_ladder_and_a_long_life_starts_it_anew() -> None:
    core, now, waits = connection(), 0.0, []
    (want,) = core.connect(now)
    for lived in (0, 1, 1, 60, 1):
        assert isinstance(want, Open)
        core.opened(want.socket, now)
        now += lived
        core.lost(want.socket, ConnectionLost("gone"), now)
        assert core.deadline is not None
        waits.append(round(core.deadline - now, 3))
        now = core.deadline
        (want,) = core.tick(now)
    assert waits == [0.2, 0.4, 0.8, 0.2, 0.4]


def test_a_refused_fixed_key_stops_at_first_and_is_passing_once_it_was_good() -> None:
    core = connection()
    core.connect(0)
    refused = AuthError("no")
    assert core.failed(1, refused, 0) == [Report(refused), Stop(refused)]
    assert (core.state, core.deadline) == (ClientState.CLOSED, None)
    core = online()
    core.lost(1, ConnectionLost("gone"), 100)
    core.tick(101)
    assert core.failed(2, ConnectError("not found", status=404), 101)[1:] == []
    assert core.state is ClientState.RECONNECTING


def test_a_heartbeat_is_sent_and_its_silence_ends_the_socket() -> None:
    core = online()
    assert core.deadline == 25
    (beat,) = sent(core.tick(25))
    assert beat[2:] == ["phoenix", "heartbeat", {}]
    assert core.deadline == 30
    wants = core.tick(30)
    assert wants[0] == Close(1, gently=False)
    assert core.state is ClientState.RECONNECTING


def test_a_reply_or_any_other_frame_keeps_the_socket() -> None:
    core = online()
    (beat,) = sent(core.tick(25))
    core.received(1, frame(None, "other", "phx_reply", {}, "phoenix"), 28)
    assert core.tick(30) == []
    assert core.deadline == 33
    core.received(1, frame(None, beat[1], "phx_reply", {"status": "ok", "response": {}}, "phoenix"), 31)
    assert core.deadline == 50


def test_silence_while_nobody_reads_is_not_the_servers() -> None:
    core = online()
    join_ref = joining(core, 20)
    core.tick(25)
    core.listening(False, 26)
    assert len(sent(core.tick(50))) == 1
    core.listening(True, 70)
    assert core.state is ClientState.CONNECTED
    assert core.deadline == 75
    assert statuses(core.received(1, frame(join_ref, join_ref, "phx_reply", {"status": "ok"}), 71)) == [
        "SUBSCRIBED"
    ]


def test_a_tick_that_comes_far_too_late_excuses_the_server() -> None:
    core = online()
    core.tick(25)
    assert not [want for want in core.tick(500) if isinstance(want, Close)]
    assert [want for want in core.tick(505) if isinstance(want, Close)]


def test_equal_ids_and_indices_lead_to_the_bindings_that_asked() -> None:
    core = online()
    other = {**BINDING, "table": "u"}
    ref = joining(core, 0, BINDING, other)
    echo = [{**BINDING, "id": 5}, {**other, "id": 6}]
    reply = {"status": "ok", "response": {"postgres_changes": echo}}
    change = frame(None, None, "postgres_changes", {"ids": [6, 6, 99], "data": {"n": 1.50}})
    assert core.received(1, change, 0) == []
    core.received(1, frame(ref, ref, "phx_reply", reply), 0)
    assert core.received(1, change, 0) == [Deliver(A, (1,), b'{"n": 1.5}')]
    payload = {"status": "ok", "extension": "postgres_changes", "message": "Subscribed", "position": "p1"}
    wants = core.received(1, frame(ref, None, "system", payload), 0)
    assert wants == [System(A, payload), Notify(A, SubscribeStatus.SUBSCRIBED, position="p1")]


@pytest.mark.parametrize(
    "echo", [None, [], [{**BINDING, "id": "5"}], [{**BINDING, "event": "INSERT", "id": 5}], [3]]
)
def test_an_echo_of_other_bindings_is_an_error(echo: Any) -> None:
    core = online()
    ref = joining(core, 0, BINDING)
    reply = {"status": "ok", "response": {"postgres_changes": echo}}
    wants = core.received(1, frame(ref, ref, "phx_reply", reply), 0)
    assert statuses(wants) == ["CHANNEL_ERROR"]
    assert sent(wants)[0][3] == "phx_leave"


def test_a_join_without_answer_is_given_back_before_the_next() -> None:
    core = online()
    ref = joining(core, 0)
    wants = core.tick(10)
    assert statuses(wants) == ["TIMED_OUT"]
    assert sent(wants)[0][:4] == [ref, "2", A, "phx_leave"]
    assert core.received(1, frame(ref, ref, "phx_reply", {"status": "ok", "response": {}}), 10.1) == []
    (again,) = core.tick(10.2)
    assert isinstance(again, Authorize)
    assert again.join_ref != ref


def test_a_token_that_comes_after_leaving_joins_nothing() -> None:
    core = online()
    (want,) = core.subscribe(A, (), 0)
    assert isinstance(want, Authorize)
    assert statuses(core.leave(A, 0)) == ["CLOSED"]
    assert core.authorized(A, want.join_ref, "t", 0) == []


def test_subscribing_while_leaving_joins_after_the_leave() -> None:
    core = online()
    ref = joining(core, 0)
    core.received(1, frame(ref, ref, "phx_reply", {"status": "ok", "response": {}}), 0)
    (leave,) = sent(core.leave(A, 1))
    assert core.subscribe(A, (BINDING,), 1) == []
    wants = core.received(1, frame(ref, leave[1], "phx_reply", {"status": "ok", "response": {}}), 2)
    assert [type(want) for want in wants] == [Notify, Authorize]


def test_what_a_dead_socket_says_is_ignored() -> None:
    core = online()
    core.lost(1, ConnectionLost("gone"), 1)
    assert core.received(1, "{", 1) == core.lost(1, ConnectionLost("again"), 1) == core.opened(1, 1) == []


@given(st.text() | st.binary())
def test_any_text_is_a_frame_or_a_protocol_error(text: str | bytes) -> None:
    with contextlib.suppress(ProtocolError):
        frames.decode(text)


@given(st.text(), st.text(), st.dictionaries(st.text(), st.integers() | st.text()))
def test_frames_come_back_as_they_were_written(ref: str, topic: str, payload: dict[str, Any]) -> None:
    read = frames.decode(frames.encode(None, ref, topic, "e", payload))
    assert (read.join_ref, read.ref, read.topic, read.event) == (None, ref, topic, "e")
    assert frames.decode_object(read.payload) == payload


@given(st.lists(st.sampled_from(["\\\\", "\\ud83d", "\\ude00", "\\uD83D\\uDE00", "u", "d", "ud83d", "\\n"])))
def test_half_of_a_surrogate_pair_in_a_row_ends_no_connection(parts: list[str]) -> None:
    text = "".join(parts)
    frame = frames.decode(f'[null,null,"realtime:a","postgres_changes",{{"ids":[],"data":{{"j":"{text}"}}}}]')
    read = frames.decode_object(frame.payload)["data"]["j"]
    # As another parser reads it, which lets halves through.
    assert read == json.loads(f'"{text}"').encode("utf-16", "surrogatepass").decode("utf-16", "replace")
