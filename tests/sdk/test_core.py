"""The core without sockets: what it wants, and when, by a clock that the test moves."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rowcast_client._core import frames
from rowcast_client._core.connection import Connection
from rowcast_client._core.join import Phase, Timing
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


TOPICS = st.sampled_from(["realtime:a", "realtime:b"])


class Conversation(RuleBasedStateMachine):
    """Any order of events: one join in flight per channel, only legal statuses, nothing sent offline."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.core = Connection(TIMING, RetryPolicy(random=lambda: 0.5))
        self.socket: int | None = None
        self.opening: int | None = None
        self.tokens: list[Authorize] = []
        self.in_flight: dict[str, str] = {}
        self.joined: dict[str, str] = {}
        self.last: dict[str, str] = {}

    def do(self, wants: list[Want]) -> None:
        for want in wants:
            match want:
                case Open(socket):
                    assert self.socket is None
                    self.opening = socket
                case Close():
                    self.drop()
                case Authorize():
                    self.tokens.append(want)
                case Send(text):
                    self.frame(json.loads(text))
                case Notify(topic, status):
                    self.told(topic, status)
                case _:
                    pass

    def frame(self, sent: list[Any]) -> None:
        join_ref, _, topic, event, _ = sent
        assert self.socket is not None
        if event == "phx_join":
            assert topic not in self.in_flight
            assert topic not in self.joined
            self.in_flight[topic] = join_ref
        elif event == "phx_leave":
            assert join_ref in (self.in_flight.pop(topic, None), self.joined.pop(topic, None))

    def told(self, topic: str, status: str) -> None:
        if status == "SUBSCRIBED":
            assert topic in self.joined
            assert self.last.get(topic) != "SUBSCRIBED"
        if status == "CLOSED":
            assert self.last.get(topic) != "CLOSED"
        if status == "TIMED_OUT":
            assert self.socket is not None
        self.last[topic] = status

    def drop(self) -> None:
        self.socket = self.opening = None
        self.in_flight.clear()
        self.joined.clear()

    @rule()
    def connect(self) -> None:
        self.do(self.core.connect(self.now))

    @initialize()
    def begin(self) -> None:
        self.connect()
        self.opens(True)

    @rule(topic=TOPICS)
    def joins_without_a_hitch(self, topic: str) -> None:
        self.subscribe(topic, True)
        while self.tokens and self.socket is not None:
            self.token(True)
        while self.in_flight:
            self.answers(True)
        for joined in list(self.joined):
            self.confirms(True, joined)

    @rule(sure=st.integers(0, 4))
    def close(self, sure: int) -> None:
        if sure:  # else most runs would end in a closed client
            return
        self.do(self.core.close(self.now))
        assert all(join.phase is Phase.IDLE for join in self.core.joins.values())

    @precondition(lambda self: self.opening is not None)
    @rule(good=st.booleans())
    def opens(self, good: bool) -> None:
        number, self.opening = self.opening, None
        assert number is not None
        if good:
            self.socket = number
            self.do(self.core.opened(number, self.now))
        else:
            self.do(self.core.failed(number, ConnectError("no"), self.now))

    @precondition(lambda self: self.socket is not None)
    @rule()
    def loses(self) -> None:
        number = self.socket
        assert number is not None
        self.drop()
        self.do(self.core.lost(number, ConnectionLost("gone"), self.now))

    @rule(topic=TOPICS, postgres=st.booleans())
    def subscribe(self, topic: str, postgres: bool) -> None:
        join = self.core.joins.get(topic)
        if join is None or join.phase is Phase.IDLE:
            self.last.pop(topic, None)
            self.do(self.core.subscribe(topic, (BINDING,) if postgres else (), self.now))

    @rule(topic=TOPICS)
    def leave(self, topic: str) -> None:
        self.do(self.core.leave(topic, self.now))

    @precondition(lambda self: self.tokens)
    @rule(good=st.booleans())
    def token(self, good: bool) -> None:
        want = self.tokens.pop(0)
        if good:
            self.do(self.core.authorized(want.topic, want.join_ref, "t", self.now))
        else:
            self.do(self.core.unauthorized(want.topic, want.join_ref, AuthError("no"), self.now))

    def hears(self, topic: str, join_ref: str | None, ref: str | None, event: str, payload: Any) -> None:
        assert self.socket is not None
        self.do(self.core.received(self.socket, frame(join_ref, ref, event, payload, topic), self.now))

    @precondition(lambda self: self.in_flight)
    @rule(good=st.booleans())
    def answers(self, good: bool) -> None:
        topic, ref = self.in_flight.popitem()
        if good:
            self.joined[topic] = ref
        response = {"postgres_changes": [{**BINDING, "id": 1}]} if good else {"reason": "Code: text"}
        self.hears(topic, ref, ref, "phx_reply", {"status": "ok" if good else "error", "response": response})

    @precondition(lambda self: self.joined)
    @rule(good=st.booleans())
    def confirms(self, good: bool, topic: str | None = None) -> None:
        topic = topic or next(iter(self.joined))
        ref = self.joined[topic]
        payload = {"extension": "postgres_changes", "status": "ok" if good else "error", "message": "m"}
        self.hears(topic, ref, None, "system", payload)

    @precondition(lambda self: self.joined)
    @rule(event=st.sampled_from(["phx_close", "phx_error"]))
    def ends(self, event: str) -> None:
        topic, ref = self.joined.popitem()
        self.hears(topic, ref, ref, event, {})

    @precondition(lambda self: self.socket is not None)
    @rule(topic=TOPICS, event=st.sampled_from(["phx_close", "phx_error", "phx_reply", "system", "nonsense"]))
    def says_something_of_an_old_join(self, topic: str, event: str) -> None:
        before = dict(self.last)
        self.hears(topic, "0", "0", event, {"status": "ok", "response": {}})
        assert self.last == before

    @rule(seconds=st.floats(0, 40))
    def waits(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.core.deadline) is not None and due <= end:
            self.now = max(self.now, due)
            self.do(self.core.tick(self.now))
            if self.core.deadline == due and due <= self.now:
                raise AssertionError("a tick at its deadline must do something")
        self.now = end

    @invariant()
    def knows_whether_there_is_a_socket(self) -> None:
        assert self.core.online == (self.socket is not None)

    @invariant()
    def keeps_trying(self) -> None:
        if self.core.state is ClientState.RECONNECTING:
            assert self.core.deadline is not None or self.opening is not None


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
