"""Warnings before a token ends: to who asked for them, once for each token, and to nobody else."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rowcast.auth.tokens import Verifier
from rowcast.model.allowed import Allowed
from rowcast.model.claims import Claims, TokenError
from rowcast.model.rates import RateWindow
from rowcast.protocol.messages import ClientMessage, Version
from rowcast.session.admission import Limits
from rowcast.session.connection import Connection, Verify
from rowcast.session.wants import Attach, Authorize, Send, Want
from support.tokens import SECRET

NOW = 1_000_000.0
BOTH = Allowed(True, True)
CHANGES = [{"event": "*", "schema": "public", "table": "todos"}]


def verify(token: str, now: float) -> Claims:
    """Tokens are ``role:seconds after NOW``, or ``role``, which never ends."""
    role, _, end = token.partition(":")
    at = NOW + float(end) if end else math.inf
    if at <= now:
        raise TokenError.expired(now - at)
    return Claims(role, at, {"role": role})


def connection(token: str = "anon", verifies: Verify = verify) -> Connection:
    limits = Limits(refusal_delay=0.0, idle_timeout=1e9, no_channel_timeout=1e9)
    return Connection(Version.V2, token, verifies, limits, NOW, RateWindow(1e9))


def say(conversation: Connection, event: str, payload: Any, now: float, topic: str = "a") -> list[Want]:
    return conversation.receive(ClientMessage(f"realtime:{topic}", event, payload, "1", "1"), now)


def join(
    conversation: Connection, token: str | None, warning: Any, now: float = NOW, topic: str = "a", **more: Any
) -> list[Want]:
    config = {"rowcast": {"token_warning": warning}, **more}
    return say(conversation, "phx_join", {"config": config, "access_token": token}, now, topic)


def refresh(conversation: Connection, token: str, now: float, topic: str = "a") -> list[Want]:
    return say(conversation, "access_token", {"access_token": token}, now, topic)


def told(wants: list[Want]) -> list[tuple[str, str, Any]]:
    """What is sent, as (topic, event, payload)."""
    messages = [want.message for want in wants if isinstance(want, Send)]
    return [(message.topic.removeprefix("realtime:"), message.event, message.payload) for message in messages]


def warning(seconds: float, topic: str = "a") -> tuple[str, str, Any]:
    text = f"Token expires in {int(seconds)} seconds"
    payload = {"message": text, "status": "ok", "extension": "system", "channel": topic}
    return topic, "system", {**payload, "expires_in": seconds}


def test_who_asked_is_warned_once_before_its_token_ends() -> None:
    conversation = connection()
    join(conversation, "anon:100", 60)
    assert conversation.deadline() == NOW + 40
    assert conversation.tick(NOW + 39.9) == []
    assert told(conversation.tick(NOW + 40)) == [warning(60)]
    assert conversation.tick(NOW + 99) == []
    assert conversation.deadline() == NOW + 100
    assert [event for _, event, _ in told(conversation.tick(NOW + 100))] == ["system", "phx_close"]


def test_who_did_not_ask_is_never_warned() -> None:
    for asked in (None, 0, "60", True):
        conversation = connection()
        join(conversation, "anon:100", asked)
        assert conversation.deadline() == NOW + 100
        assert conversation.tick(NOW + 99.9) == []


def test_where_less_is_left_the_warning_comes_at_once_and_after_the_reply() -> None:
    conversation = connection()
    assert [event for _, event, _ in told(join(conversation, "anon:30.25", 60))] == ["phx_reply"]
    assert conversation.deadline() <= NOW
    assert told(conversation.tick(NOW)) == [warning(30.25)]
    assert conversation.deadline() == NOW + 30.25


def test_each_new_token_has_a_warning_of_its_own_and_the_same_token_none() -> None:
    conversation = connection()
    join(conversation, "anon:100", 60)
    assert told(conversation.tick(NOW + 40)) == [warning(60)]
    refresh(conversation, "anon:100", NOW + 41)
    assert conversation.tick(NOW + 42) == []
    refresh(conversation, "authenticated:200", NOW + 43)
    assert conversation.tick(NOW + 100) == []
    assert told(conversation.tick(NOW + 140)) == [warning(60)]


def test_all_channels_of_one_token_are_warned_in_one_turn() -> None:
    conversation = connection()
    for topic in ("a", "b", "c"):
        join(conversation, "anon:100", None if topic == "b" else 60, topic=topic)
    assert told(conversation.tick(NOW + 40)) == [warning(60, "a"), warning(60, "c")]


def test_a_private_channel_is_warned_of_a_token_only_once_its_policies_took_it() -> None:
    conversation = connection()
    join(conversation, "anon:100", 60, private=True, postgres_changes=CHANGES)
    assert conversation.tick(NOW) == []
    conversation.authorized(BOTH, NOW)
    assert told(conversation.tick(NOW + 40)) == [warning(60)]
    assert [type(want) for want in refresh(conversation, "anon:200", NOW + 41)] == [Authorize]
    assert conversation.tick(NOW + 99) == []
    assert [type(want) for want in conversation.authorized(BOTH, NOW + 99)] == [Attach]
    assert conversation.tick(NOW + 101) == []
    assert told(conversation.tick(NOW + 140)) == [warning(60)]


def test_an_opaque_key_has_no_end_and_so_no_warning() -> None:
    key = "sb_publishable_of_the_tests"
    conversation = connection(key, Verifier(SECRET, api_keys={key: "anon"}))
    # The key itself as the token of a join stands for the key of the socket, as any such does.
    for token in (None, key, "sb_publishable_of_nobody"):
        wants = join(conversation, token, 3600, postgres_changes=CHANGES)
        (attach,) = [want for want in wants if isinstance(want, Attach)]
        assert (attach.claims.role, attach.claims.expires_at) == ("anon", math.inf)
        assert conversation.tick(NOW + 1e8) == []
        assert conversation.deadline() < math.inf
        assert refresh(conversation, key, NOW) == []


def test_an_opaque_key_that_the_server_does_not_know_joins_nothing() -> None:
    conversation = connection("sb_publishable_of_nobody", Verifier(SECRET))
    ((_, event, payload),) = told(join(conversation, None, 60))
    assert (event, payload["status"]) == ("phx_reply", "error")
    with pytest.raises(TokenError):
        Verifier(SECRET)("sb_publishable_of_nobody", NOW)


@dataclass
class Held:
    """What the model knows of a channel."""

    token: str
    end: float
    asked: float | None
    warned: bool = False


class Warnings(RuleBasedStateMachine):
    """Any tokens, times and warnings: whoever asked is warned exactly once of each token, and in time."""

    topics = st.sampled_from(["a", "b"])
    ends = st.integers(1, 60)

    def __init__(self) -> None:
        super().__init__()
        self.now, self.numbers = 0.0, 0
        self.connection = connection()
        self.held: dict[str, Held] = {}

    def _token(self, seconds: int) -> tuple[str, float]:
        # Tokens that end at the same time are still two.
        self.numbers += 1
        end = self.now + seconds
        return f"role{self.numbers}:{end}", end

    @rule(topic=topics, seconds=ends, asked=st.none() | st.integers(1, 90), private=st.booleans())
    def joins(self, topic: str, seconds: int, asked: int | None, private: bool) -> None:
        token, end = self._token(seconds)
        wants = join(self.connection, token, asked, NOW + self.now, topic, private=private)
        if private:
            wants = self.connection.authorized(BOTH, NOW + self.now)
        assert told(wants)[0][1] == "phx_reply"
        self.held[topic] = Held(token, end, asked)

    @rule(topic=topics, seconds=ends, again=st.booleans())
    def refreshes(self, topic: str, seconds: int, again: bool) -> None:
        held = self.held.get(topic)
        token, end = (held.token, held.end) if held and again else self._token(seconds)
        wants = refresh(self.connection, token, NOW + self.now, topic)
        if any(isinstance(want, Authorize) for want in wants):
            wants = self.connection.authorized(BOTH, NOW + self.now)
        if held is None:
            assert told(wants)[0][2]["response"] == {"reason": "unmatched topic"}
            return
        assert wants == []
        if token != held.token:
            self.held[topic] = Held(token, end, held.asked)

    @precondition(lambda self: self.held)
    @rule(topic=topics)
    def leaves(self, topic: str) -> None:
        say(self.connection, "phx_leave", {}, NOW + self.now, topic)
        self.held.pop(topic, None)

    @rule(seconds=st.integers(0, 30))
    def time_passes(self, seconds: int) -> None:
        """As the server sees it: called at each deadline."""
        end = self.now + seconds
        while (due := self.connection.deadline()) <= NOW + end:
            self.now = max(self.now, due - NOW)
            for topic, event, payload in told(self.connection.tick(NOW + self.now)):
                held = self.held[topic]
                if event == "phx_close":
                    assert held.end == self.now
                    assert held.warned or held.asked is None
                    del self.held[topic]
                elif payload["status"] == "ok":
                    assert held.asked is not None
                    assert not held.warned
                    assert payload["expires_in"] == held.end - self.now > 0
                    assert self.now >= held.end - held.asked
                    held.warned = True
            assert self.connection.deadline() > due
        self.now = end

    @invariant()
    def nobody_is_warned_late(self) -> None:
        for held in self.held.values():
            if held.asked is not None and not held.warned:
                assert self.connection.deadline() <= NOW + held.end - held.asked


TestWarnings = Warnings.TestCase
TestWarnings.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
