"""The seats of a server: taken with a connection's first channel, given back however its last one ends."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from rowcast.model.claims import Claims, TokenError
from rowcast.model.rates import RateWindow
from rowcast.model.seats import Seats
from rowcast.protocol.messages import ClientMessage, Version
from rowcast.session.admission import Limits
from rowcast.session.connection import Connection
from rowcast.session.wants import Close, Send, Want

NOW = 1_000_000.0
FAR = NOW + 1e9
FULL = "ConnectionRateLimitReached: Too many connected users"
CHANGES = {"postgres_changes": [{"event": "*", "table": "todos"}]}
TOPICS = st.sampled_from(["realtime:a", "realtime:b", "realtime:c"])
TOKENS = st.sampled_from(["long", "short", "bad"])


def verify(token: str, now: float) -> Claims:
    """``short`` expires in ten seconds, ``long`` never; ``bad`` is refused."""
    if token == "bad":
        raise TokenError("JwtSignatureError", "Failed to validate JWT signature")
    return Claims("anon", now + 10 if token == "short" else FAR, {})


def connection(seats: Seats, version: Version = Version.V2, joins: RateWindow | None = None) -> Connection:
    limits = Limits(channels=2, idle_timeout=1e12, no_channel_timeout=1e12)
    return Connection(version, "long", verify, limits, NOW, joins or RateWindow(1e9), seats)


def say(conversation: Connection, event: str, topic: str, payload: Any, now: float = NOW) -> list[Want]:
    return conversation.receive(ClientMessage(topic, event, payload, "1", "1"), now)


def reason(wants: list[Want]) -> str | None:
    """Why a join was refused, or None."""
    first = wants[0] if isinstance(wants[0], Send) else wants[1]
    assert isinstance(first, Send)
    response: dict[str, str] = first.message.payload["response"]
    return response.get("reason")


def test_one_connection_too_many_is_refused_its_first_channel_and_keeps_its_connection() -> None:
    """Conformance case 25."""
    seats = Seats(1)
    first, second = connection(seats), connection(seats)
    assert reason(say(first, "phx_join", "realtime:a", {})) is None
    refused = say(second, "phx_join", "realtime:a", {})
    assert reason(refused) == FULL
    assert not any(isinstance(want, Close) for want in refused)
    assert reason(say(first, "phx_join", "realtime:b", {})) is None
    say(first, "phx_leave", "realtime:a", {})
    assert reason(say(second, "phx_join", "realtime:a", {})) == FULL
    say(first, "phx_leave", "realtime:b", {})
    assert reason(say(second, "phx_join", "realtime:a", {})) is None
    assert reason(say(first, "phx_join", "realtime:a", {})) == FULL


def test_a_connection_that_joins_its_only_channel_again_keeps_its_seat() -> None:
    seats = Seats(1)
    conversation = connection(seats)
    for _ in range(3):
        assert reason(say(conversation, "phx_join", "realtime:a", {})) is None
        assert seats.taken == 1
    say(conversation, "phx_join", "realtime:a", {"access_token": "bad"})
    assert seats.taken == 0


def test_a_connection_that_ends_leaves_its_seat_once() -> None:
    seats = Seats()
    for conversation in (connection(seats), connection(seats)):
        say(conversation, "phx_join", "realtime:a", {})
        say(conversation, "phx_join", "realtime:b", {})
    assert seats.taken == 2
    conversation.end()
    conversation.end()
    assert seats.taken == 1


class Crowd(RuleBasedStateMachine):
    """Any number of clients, against a model that knows only who has which channels."""

    clients = Bundle("clients")

    @initialize(limit=st.none() | st.integers(1, 3), version=st.sampled_from(list(Version)))
    def begins(self, limit: int | None, version: Version) -> None:
        self.seats, self.version, self.now = Seats(limit), version, NOW
        self.joins = RateWindow(1)
        self.joined: dict[Connection, set[str]] = {}
        self.ended: set[Connection] = set()

    def _holders(self) -> int:
        return sum(bool(topics) for topics in self.joined.values())

    @rule(target=clients)
    def connects(self) -> Connection:
        client = connection(self.seats, self.version, self.joins)
        self.joined[client] = set()
        return client

    @rule(client=clients, topic=TOPICS, token=TOKENS, changes=st.booleans())
    def joins_or_is_refused(self, client: Connection, topic: str, token: str, changes: bool) -> None:
        payload = {"config": CHANGES if changes else {}, "access_token": token}
        wants = say(client, "phx_join", topic, payload, self.now)
        if client in self.ended:
            assert wants == []
            return
        if any(isinstance(want, Close) for want in wants):
            self.ended.add(client)
        topics = self.joined[client]
        topics.discard(topic)
        others = self._holders() - bool(topics)
        said = reason(wants)
        crowded = not topics and self.seats.limit is not None and others >= self.seats.limit
        assert (said == FULL) is crowded
        if said is None:
            topics.add(topic)

    @rule(client=clients, topic=TOPICS)
    def leaves(self, client: Connection, topic: str) -> None:
        if say(client, "phx_leave", topic, {}, self.now):
            self.joined[client].discard(topic)

    @rule(client=clients, topic=TOPICS)
    def is_refused_a_token(self, client: Connection, topic: str) -> None:
        if say(client, "access_token", topic, {"access_token": "bad"}, self.now):
            self.joined[client].discard(topic)

    @rule(client=clients, seconds=st.sampled_from([1.0, 11.0, 61.0]))
    def has_tokens_that_expire(self, client: Connection, seconds: float) -> None:
        self.now += seconds
        for want in client.tick(self.now):
            if isinstance(want, Send) and want.message.event == "phx_close":
                self.joined[client].remove(want.message.topic)

    @rule(client=clients, key=st.integers(1, 8))
    def is_told_that_a_channel_is_lost(self, client: Connection, key: int) -> None:
        for want in client.lost(key, self.now):
            if isinstance(want, Send):
                self.joined[client].remove(want.message.topic)

    @rule(client=consumes(clients))
    def is_gone(self, client: Connection) -> None:
        client.end()
        client.end()
        del self.joined[client]

    @invariant()
    def as_many_seats_are_taken_as_connections_have_a_channel(self) -> None:
        assert self.seats.taken == self._holders()
        assert self.seats.limit is None or self.seats.taken <= self.seats.limit


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
