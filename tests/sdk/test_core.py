"""The core without sockets: what it wants, and when, by a clock that the test moves."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast_client._core import frames
from rowcast_client._core.asking import How
from rowcast_client._core.connection import Connection
from rowcast_client._core.phases import Timing
from rowcast_client._core.wants import (
    Authorize,
    Close,
    Deliver,
    Notify,
    Open,
    Refresh,
    Report,
    Send,
    Stop,
    System,
    Want,
)
from rowcast_client.errors import (
    AuthError,
    ConnectError,
    ConnectionLost,
    JoinError,
    ProtocolError,
    TokenError,
    UsageError,
)
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
        {"config": {"postgres_changes": list(bindings), **({"rowcast": {"gap": True}} if bindings else {})}},
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


def renewing(core: Connection, now: float, token: str = "t1") -> str:
    """Bring channel A to SUBSCRIBED with this token, asking to be warned; its join ref."""
    (want,) = core.subscribe(A, (), now, How(private=True))
    assert isinstance(want, Authorize)
    (join,) = sent(core.authorized(A, want.join_ref, token, now, warning=60))
    config = {"postgres_changes": [], "private": True, "rowcast": {"token_warning": 60}}
    assert join[4] == {"config": config, "access_token": token}
    reply = {"status": "ok", "response": {"postgres_changes": []}}
    core.received(1, frame(want.join_ref, want.join_ref, "phx_reply", reply), now)
    return want.join_ref


def warn(core: Connection, ref: str, left: Any, now: float) -> list[Want]:
    payload = {"extension": "system", "status": "ok", "message": "m", "expires_in": left}
    (told,) = core.received(1, frame(ref, None, "system", payload), now)
    assert told == System(A, payload)
    return core.tick(now)


def test_a_warning_has_the_next_token_sent_in_place() -> None:
    core = online()
    ref = renewing(core, 0)
    assert warn(core, ref, 8, 12) == [Refresh(A, ref)]
    assert sent(core.refreshed(A, ref, "t2", 12)) == [[ref, "2", A, "access_token", {"access_token": "t2"}]]
    assert core.joins[A].deadline is None
    assert core.joins[A].state == "joined"


def test_a_token_that_cannot_be_had_is_asked_for_again_until_the_old_one_ends() -> None:
    core, tries, now = online(), 0, 12.0
    ref = renewing(core, 0)
    wants = warn(core, ref, 8, now)
    fault = TokenError("no")
    while wants:
        assert wants == [Refresh(A, ref)]
        tries += 1
        # The same token again is no fault, and no use either.
        again = core.refreshed(A, ref, "t1", now) if tries % 2 else core.unrefreshed(A, ref, fault, now)
        assert again == ([] if tries % 2 else [Report(fault)])
        if (due := core.joins[A].deadline) is None:
            break
        assert now < due < 20
        wants, now = core.tick(due), due
    # At 12, and 0.2, 0.4, 0.8, 1.6, 3.2 seconds after the one before.
    assert (tries, round(now, 3)) == (6, 18.2)
    assert core.joins[A].state == "joined"


def test_a_token_that_lives_no_longer_than_the_warning_is_early_is_not_followed_at_once() -> None:
    core = online()
    ref = renewing(core, 0)
    assert warn(core, ref, 8, 0) == []
    assert core.joins[A].deadline == 4
    assert core.tick(4) == [Refresh(A, ref)]


@pytest.mark.parametrize("left", [-1, 1e9, "8", None])
def test_what_is_no_warning_asks_for_nothing(left: Any) -> None:
    core = online()
    assert warn(core, renewing(core, 0), left, 12) == []
    assert core.joins[A].deadline is None


def test_a_token_that_comes_for_a_channel_that_ended_is_not_sent() -> None:
    core = online()
    ref = renewing(core, 0)
    assert core.refresh() == [Refresh(A, ref)]
    core.received(1, frame(ref, ref, "phx_close", {}), 1)
    assert core.refresh() == []
    assert core.refreshed(A, ref, "t2", 1) == core.unrefreshed(A, ref, TokenError("no"), 1) == []
    assert core.refreshed("realtime:b", ref, "t2", 1) == []


def test_a_refusal_names_what_mends_it() -> None:
    unreadable = "Unauthorized: You do not have permissions to read from this Channel topic: a"
    cases: list[tuple[bool, str, type[Exception], str]] = [
        (True, unreadable, AuthError, "realtime.messages"),
        (False, "Unauthorized: no", AuthError, "check the key"),
        (False, "PrivateOnly: This project only allows private channels", JoinError, "private=True"),
    ]
    for private, reason, kind, hint in cases:
        core = online()
        (want,) = core.subscribe(A, (), 0, How(private=private))
        assert isinstance(want, Authorize)
        core.authorized(A, want.join_ref, None, 0)
        answer = {"status": "error", "response": {"reason": reason}}
        report, *_ = core.received(1, frame(want.join_ref, want.join_ref, "phx_reply", answer), 0)
        assert isinstance(report, Report)
        assert isinstance(report.error, kind)
        assert hint in report.error.hint
        assert (reason in str(report.error), report.error.code) == (True, reason.partition(":")[0])


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
