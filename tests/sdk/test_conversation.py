"""The core as a state machine: any order of events, by a clock that the test moves."""

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rowcast_client._core.broadcasts import Said
from rowcast_client._core.connection import Connection
from rowcast_client._core.phases import Phase, Timing
from rowcast_client._core.wants import Authorize, Close, Notify, Open, Refresh, Send, Settle, Want
from rowcast_client.errors import AuthError, ConnectError, ConnectionLost, TokenError
from rowcast_client.retry import RetryPolicy
from rowcast_client.states import ClientState

TIMING = Timing(join_timeout=10, heartbeat_interval=25, heartbeat_timeout=5)
BINDING = {"event": "*", "schema": "public", "table": "t"}
AWAITING = (Phase.CONFIRMING, Phase.SUBSCRIBED, Phase.LEAVING)
TOPICS = st.sampled_from(["realtime:a", "realtime:b"])


class Conversation(RuleBasedStateMachine):
    """Any order of events: one join in flight per channel, only legal statuses, nothing sent offline, each
    awaited answer told once."""

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
        self.refreshes: list[Refresh] = []
        self.present: dict[str, str] = {}
        self.numbers = 0
        #: Broadcasts and calls whose answers are awaited, by number, and what the server was said.
        self.broadcasts: dict[int, str] = {}
        self.calls: dict[int, str] = {}
        self.said: list[tuple[str, str, str]] = []

    def fresh(self) -> str:
        """A token that was never seen."""
        self.numbers += 1
        return f"t{self.numbers}"

    def on_server(self) -> dict[str, str]:
        return {**self.in_flight, **self.joined}

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
                case Refresh(topic, join_ref):
                    assert self.on_server()[topic] == join_ref
                    self.refreshes.append(want)
                case Send(text):
                    self.frame(json.loads(text))
                case Notify(topic, status):
                    self.told(topic, status)
                case Settle(topic, number):
                    assert topic == self.broadcasts.pop(number, None) or topic == self.calls.pop(number)
                case _:
                    pass

    def frame(self, sent: list[Any]) -> None:
        join_ref, ref, topic, event, payload = sent
        assert self.socket is not None
        if event == "phx_join":
            assert topic not in self.in_flight
            assert topic not in self.joined
            self.in_flight[topic] = join_ref
            self.present[topic] = payload["access_token"]
        elif event == "access_token":
            assert self.on_server()[topic] == join_ref
            assert self.present[topic] != payload["access_token"]
            self.present[topic] = payload["access_token"]
        elif event in ("broadcast", "presence"):
            assert self.joined[topic] == join_ref
            self.said.append((topic, join_ref, ref))
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
            self.do(self.core.authorized(want.topic, want.join_ref, self.fresh(), self.now))
        else:
            self.do(self.core.unauthorized(want.topic, want.join_ref, AuthError("no"), self.now))

    @rule(topic=TOPICS, awaited=st.booleans())
    def broadcasts_something(self, topic: str, awaited: bool) -> None:
        self.numbers += 1
        sends = self.core.broadcast(topic, Said("e", b"{}"), self.numbers if awaited else None)
        assert bool(sends) == (topic in self.joined)
        if sends and awaited:
            self.broadcasts[self.numbers] = topic
        self.do([*sends])

    @rule(topic=TOPICS, payload=st.sampled_from([b"{}", b'{"n":1}', None]))
    def shows_something(self, topic: str, payload: bytes | None) -> None:
        join = self.core.joins.get(topic)
        if join is not None and join.phase not in (Phase.IDLE, Phase.LEAVING):
            self.numbers += 1
            self.calls[self.numbers] = topic
            self.do(self.core.show(topic, payload, self.numbers))

    @precondition(lambda self: self.said)
    @rule(good=st.booleans())
    def is_answered(self, good: bool) -> None:
        topic, join_ref, ref = self.said.pop(0)
        if self.on_server().get(topic) == join_ref:
            self.hears(
                topic, join_ref, ref, "phx_reply", {"status": "ok" if good else "error", "response": {}}
            )

    @precondition(lambda self: self.broadcasts or self.calls)
    @rule()
    def gives_up_waiting(self) -> None:
        number = min((*self.broadcasts, *self.calls))
        topic = self.broadcasts.pop(number, None) or self.calls.pop(number)
        self.core.abandon(topic, number)

    @precondition(lambda self: self.joined)
    @rule(left=st.floats(0, 60))
    def is_warned(self, left: float) -> None:
        topic, ref = next(iter(self.joined.items()))
        before = dict(self.last)
        payload = {"extension": "system", "status": "ok", "message": "m", "expires_in": left}
        self.hears(topic, ref, None, "system", payload)
        assert self.last == before
        assert self.core.joins[topic].deadline is not None

    @rule()
    def is_given_another_token(self) -> None:
        before = len(self.refreshes)
        self.do(self.core.refresh())
        assert {want.topic for want in self.refreshes[before:]} == self.on_server().keys()

    @precondition(lambda self: self.refreshes)
    @rule(what=st.sampled_from(["another", "the same", "none"]))
    def refreshes_or_not(self, what: str) -> None:
        want = self.refreshes.pop(0)
        stands = self.on_server().get(want.topic) == want.join_ref
        held, states = dict(self.present), {topic: join.state for topic, join in self.core.joins.items()}
        token = held.get(want.topic, "t0") if what == "the same" else self.fresh()
        if what == "none":
            self.do(self.core.unrefreshed(want.topic, want.join_ref, TokenError("no"), self.now))
        else:
            self.do(self.core.refreshed(want.topic, want.join_ref, token, self.now))
        if stands and what == "another":
            held[want.topic] = token
        assert self.present == held
        assert states == {topic: join.state for topic, join in self.core.joins.items()}

    def hears(self, topic: str, join_ref: str | None, ref: str | None, event: str, payload: Any) -> None:
        assert self.socket is not None
        self.do(self.core.received(self.socket, json.dumps([join_ref, ref, topic, event, payload]), self.now))

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
    def awaits_what_may_be_answered_and_nothing_else(self) -> None:
        phases = {topic: join.phase for topic, join in self.core.joins.items()}
        assert all(phases[topic] in AWAITING for topic in self.broadcasts.values())
        assert all(phases[topic] is not Phase.IDLE for topic in self.calls.values())

    @invariant()
    def keeps_trying(self) -> None:
        if self.core.state is ClientState.RECONNECTING:
            assert self.core.deadline is not None or self.opening is not None


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
