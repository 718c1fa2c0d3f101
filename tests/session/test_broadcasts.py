"""Broadcasts that a client sends: what is published, what is answered, and what is asked first."""

from typing import Any

import pytest

from rowcast.model.allowed import Allowed
from rowcast.protocol.broadcasts import TextBroadcast, UserBroadcast
from rowcast.protocol.messages import ClientMessage
from rowcast.session.connection import Connection
from rowcast.session.wants import Authorize, Enter, Publish, Send, Want
from support.sessions import AWAY, NOW, connection, ok

READS, ALL = Allowed(broadcast=True), Allowed(True, True)
DENIED = "Unauthorized: You do not have permissions to write to this Channel topic: a"


def say(conversation: Connection, event: str, payload: Any, ref: str | None = "2") -> list[Want]:
    return conversation.receive(ClientMessage("realtime:a", event, payload, ref, "1"), NOW)


def joined(*, ack: bool = True, echo: bool = False, private: bool = False, **limits: Any) -> Connection:
    conversation = connection(**limits)
    config = {"private": private, "broadcast": {"ack": ack, "self": echo}}
    say(conversation, "phx_join", {"config": config}, "1")
    if private:
        conversation.authorized(READS, NOW)
    return conversation


def answers(wants: list[Want]) -> list[dict[str, Any]]:
    """The payloads of what is sent: all are answers to the push."""
    sent = [want.message for want in wants if isinstance(want, Send)]
    assert all((one.ref, one.join_ref, one.event) == ("2", "1", "phx_reply") for one in sent)
    return [one.payload for one in sent]


def error(reason: str) -> dict[str, Any]:
    return {"status": "error", "response": {"reason": reason}}


@pytest.mark.parametrize("ack", [True, False])
@pytest.mark.parametrize("payload", [{"event": "e", "payload": {}}, "text", [1], None, {}])
def test_whatever_the_payload_it_is_published_and_answered_only_with_ack(payload: Any, ack: bool) -> None:
    """Cases 43 and 52."""
    published, *rest = say(joined(ack=ack), "broadcast", payload)
    assert isinstance(published, Publish)
    assert isinstance(published.broadcast, TextBroadcast)
    assert answers(rest) == ([ok({})] if ack else [])


def test_a_push_without_a_reference_has_no_answer() -> None:
    assert say(joined(), "broadcast", {}, None) == [Publish(1, TextBroadcast(b"{}"))]


@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize("answer", [None, READS, ALL, Allowed(presence=True)])
def test_a_channel_enters_its_topic_once_its_join_is_answered(echo: bool, answer: Allowed | None) -> None:
    conversation = connection()
    config = {"private": answer is not None, "broadcast": {"self": echo}}
    wants = say(conversation, "phx_join", {"config": config}, "1")
    if answer is not None:
        wants = conversation.authorized(answer, NOW)
    hears, sees = (True, True) if answer is None else (answer.broadcast, answer.presence)
    assert wants[1:] == [Enter(1, "realtime:a", answer is not None, echo, hears, sees, join_ref="1")]


def test_nothing_is_published_while_a_join_waits_for_its_answer() -> None:
    conversation = connection()
    entry = {"event": "*", "schema": "public", "table": "todos"}
    config = {"postgres_changes": [entry], "postgres_changes_options": {"wait": True}}
    say(conversation, "phx_join", {"config": config}, "1")
    (want,) = say(conversation, "broadcast", {})
    assert isinstance(want, Send)
    assert want.message.payload == error("unmatched topic")
    answer, enter, _ = conversation.attached(1, 1, (), True, "p")
    assert isinstance(answer, Send)
    assert isinstance(enter, Enter)
    assert isinstance(say(conversation, "broadcast", {})[0], Publish)


@pytest.mark.parametrize("ack", [True, False])
@pytest.mark.parametrize("payload", [{"x": "y" * 100}, UserBroadcast("e", bytes(101), raw=True)])
def test_a_payload_that_is_too_large_is_not_sent(payload: Any, ack: bool) -> None:
    """Case 50."""
    conversation = joined(ack=ack, payload_size=100)
    wants = say(conversation, "broadcast", payload)
    assert wants == [want for want in wants if isinstance(want, Send)]
    assert answers(wants) == ([error("payload_size_exceeded")] if ack else [])
    assert isinstance(say(conversation, "broadcast", {})[0], Publish)


def test_what_says_that_it_is_json_and_is_none_is_not_sent() -> None:
    conversation = joined()
    for payload in (b"{", b"\xff", b""):
        wants = say(conversation, "broadcast", UserBroadcast("e", payload))
        assert answers(wants) == [error("the payload is no JSON, as its frame says it is")]
        raw = UserBroadcast("e", payload, raw=True)
        assert say(conversation, "broadcast", raw)[0] == Publish(1, raw)


def test_the_right_to_write_is_asked_once_and_again_for_a_new_token() -> None:
    """Case 37."""
    conversation = joined(private=True)
    (question,) = say(conversation, "broadcast", {})
    assert isinstance(question, Authorize)
    assert question.writes
    published, *rest = conversation.authorized(ALL, NOW)
    assert isinstance(published, Publish)
    assert answers(rest) == [ok({})]
    assert isinstance(say(conversation, "broadcast", {})[0], Publish)
    say(conversation, "access_token", {"access_token": "authenticated"})
    conversation.authorized(READS, NOW)
    (question,) = say(conversation, "broadcast", {})
    assert isinstance(question, Authorize)
    assert (question.claims.role, question.writes) == ("authenticated", True)
    assert answers(conversation.authorized(Allowed(), NOW)) == [error(DENIED)]
    assert answers(say(conversation, "broadcast", {})) == [error(DENIED)]


@pytest.mark.parametrize("answer", [Allowed(), Allowed(presence=True), AWAY])
@pytest.mark.parametrize("ack", [True, False])
@pytest.mark.parametrize("silent", [True, False])
def test_what_may_not_be_written_is_told_with_ack_unless_silence_is_wanted(
    answer: Any, ack: bool, silent: bool
) -> None:
    """Case 47."""
    conversation = joined(private=True, ack=ack, silent_denials=silent)
    say(conversation, "broadcast", {})
    wants = conversation.authorized(answer, NOW)
    reason = answer.reason if answer is AWAY else DENIED
    assert answers(wants) == ([error(reason)] if ack and not silent else [])
    assert len(wants) == len(answers(wants))


def test_policies_that_could_not_be_asked_are_asked_again() -> None:
    conversation = joined(private=True)
    say(conversation, "broadcast", {})
    conversation.authorized(AWAY, NOW)
    (question,) = say(conversation, "broadcast", {})
    assert isinstance(question, Authorize)


def test_a_channel_that_is_gone_when_policies_answer_publishes_nothing() -> None:
    conversation = joined(private=True)
    say(conversation, "broadcast", {})
    conversation.lost(1, NOW)
    assert conversation.authorized(ALL, NOW) == []


@pytest.mark.parametrize("event", ["broadcast", "whatever"])
def test_who_says_too_much_is_told_and_loses_the_channel(event: str) -> None:
    """Case 51."""
    conversation = joined(ack=False, events_per_second=2)
    for _ in range(10):
        assert not [want for want in say(conversation, event, {}) if isinstance(want, Send)]
    sent = [want.message for want in say(conversation, event, {}) if isinstance(want, Send)]
    system = {
        "message": "Too many messages per second",
        "status": "error",
        "extension": "system",
        "channel": "a",
    }
    assert [(one.event, one.payload) for one in sent] == [("system", system), ("phx_close", {})]
    (want,) = say(conversation, event, {})
    assert isinstance(want, Send)
    assert want.message.payload == error("unmatched topic")
