"""Presence that a client shows: what is told on, what is answered, and what is asked first."""

from typing import Any

import pytest

from rowcast.model.allowed import Allowed
from rowcast.model.calls import Calls
from rowcast.protocol.messages import ClientMessage
from rowcast.protocol.presence import INHERITED_KEYS
from rowcast.session.connection import Connection
from rowcast.session.wants import Authorize, Detach, Enter, Send, Track, Untrack, Want
from support.sessions import AWAY, NOW, connection, ok

SEES, ALL = Allowed(presence=True), Allowed(True, True)
DENIED = "Unauthorized: You do not have permissions to write to this Channel topic: a"


def say(
    conversation: Connection, event: str, payload: Any, ref: str | None = "2", now: float = NOW
) -> list[Want]:
    return conversation.receive(ClientMessage("realtime:a", event, payload, ref, "1"), now)


def track(conversation: Connection, *payload: Any, now: float = NOW) -> list[Want]:
    given = {"payload": payload[0]} if payload else {}
    return say(conversation, "presence", {"type": "presence", "event": "track", **given}, now=now)


def join(conversation: Connection, presence: Any = None, **config: Any) -> list[Want]:
    return say(conversation, "phx_join", {"config": {"presence": presence, **config}}, "1")


def joined(*, private: bool = False, readable: Allowed = ALL, **limits: Any) -> Connection:
    conversation = connection(**limits)
    join(conversation, {"enabled": True}, private=private)
    if private:
        conversation.authorized(readable, NOW)
    return conversation


def answers(wants: list[Want]) -> list[dict[str, Any]]:
    """The payloads of what is sent: all are answers to the push."""
    sent = [want.message for want in wants if isinstance(want, Send)]
    assert all((one.ref, one.join_ref, one.event) == ("2", "1", "phx_reply") for one in sent)
    return [one.payload for one in sent]


def error(**response: Any) -> dict[str, Any]:
    return {"status": "error", "response": response}


def shut(text: str) -> list[tuple[str, Any]]:
    system = {"message": text, "status": "error", "extension": "system", "channel": "a"}
    return [("system", system), ("phx_close", {})]


def sent(wants: list[Want]) -> list[tuple[str, Any]]:
    return [(want.message.event, want.message.payload) for want in wants if isinstance(want, Send)]


def entered(wants: list[Want]) -> Enter:
    (enter,) = (want for want in wants if isinstance(want, Enter))
    return enter


@pytest.mark.parametrize(
    ("presence", "state", "key"),
    [
        ({"enabled": True, "key": "ann"}, True, "ann"),
        ({"enabled": "TRUE", "key": 123}, True, "123"),
        ({"enabled": True, "key": ""}, True, None),
        ({"enabled": False, "key": None}, False, None),
        ({"key": "ann"}, False, "ann"),
        (None, False, None),
    ],
)
def test_a_join_says_under_which_key_and_whether_it_wants_the_state(
    presence: Any, state: bool, key: str | None
) -> None:
    """Cases 64 to 66."""
    enter = entered(join(connection(), presence))
    assert (enter.sees, enter.state, enter.key, enter.join_ref) == (True, state, key, "1")


def test_a_server_may_have_every_join_ask_for_presence() -> None:
    """Case 75."""
    assert entered(join(connection(presence_enabled=True))).state
    conversation = connection(presence_enabled=True)
    (asked,) = join(conversation, private=True)
    assert isinstance(asked, Authorize)
    assert asked.presence


@pytest.mark.parametrize("readable", [SEES, ALL, Allowed(broadcast=True)])
def test_a_private_channel_sees_what_policies_let_it(readable: Allowed) -> None:
    conversation = connection()
    join(conversation, {"enabled": True}, private=True)
    enter = entered(conversation.authorized(readable, NOW))
    assert (enter.sees, enter.hears) == (readable.presence, readable.broadcast)


@pytest.mark.parametrize("event", ["track", "TRACK"])
def test_what_is_tracked_is_shown_and_answered(event: str) -> None:
    wants = say(joined(), "presence", {"event": event, "payload": {"b": 1, "a": 2, "phx_ref": "x"}})
    assert wants[1:] == [Track(1, b'{"a":2,"b":1}')]
    assert answers(wants) == [ok({})]


def test_a_track_without_payload_is_empty_and_one_without_reference_not_answered() -> None:
    assert track(joined())[-1] == Track(1, b"{}")
    assert say(joined(), "presence", {"event": "track"}, None) == [Track(1, b"{}")]


@pytest.mark.parametrize("payload", ["str", 1, None, [1], True])
def test_case_69_what_is_no_object_is_not_shown_and_the_channel_stays(payload: Any) -> None:
    conversation = joined()
    wants = track(conversation, payload)
    assert answers(wants) == [error(reason="Presence track payload must be a map")]
    assert len(wants) == 1
    assert track(conversation, {})[-1] == Track(1, b"{}")


def test_what_is_nested_too_deeply_is_not_shown() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = [deep]
    assert answers(track(joined(), {"a": deep})) == [
        error(reason="Presence track payload is nested too deeply")
    ]


def test_untracking_is_answered_whether_anything_was_tracked_or_not() -> None:
    conversation = joined()
    wants = say(conversation, "presence", {"event": "untrack"})
    assert wants[1:] == [Untrack(1)]
    assert answers(wants) == [ok({})]


@pytest.mark.parametrize("payload", [{"event": "dance"}, {"event": 5}, {"event": None}, [], "track", None])
def test_case_75_an_event_that_is_none_of_presence_is_refused(payload: Any) -> None:
    assert answers(say(joined(), "presence", payload)) == [error()]


def test_a_call_that_names_no_event_is_answered_and_does_nothing() -> None:
    wants = say(joined(), "presence", {"type": "presence"})
    assert (answers(wants), len(wants)) == ([ok({})], 1)


def test_the_right_to_track_is_asked_for_once_and_anew_under_a_new_token() -> None:
    conversation = joined(private=True)
    (ask,) = track(conversation, {"n": 1})
    assert isinstance(ask, Authorize)
    assert ask.writes
    assert conversation.authorized(SEES, NOW)[-1] == Track(1, b'{"n":1}')
    assert track(conversation, {"n": 2})[-1] == Track(1, b'{"n":2}')
    say(conversation, "access_token", {"access_token": "authenticated"})
    conversation.authorized(ALL, NOW)
    (ask,) = track(conversation, {"n": 3})
    assert isinstance(ask, Authorize)
    assert answers(conversation.authorized(Allowed(broadcast=True), NOW)) == [error(reason=DENIED)]
    assert answers(track(conversation, {"n": 4})) == [error(reason=DENIED)]


def test_what_broadcasts_may_be_sent_is_known_with_it() -> None:
    conversation = joined(private=True)
    track(conversation, {})
    conversation.authorized(SEES, NOW)
    assert not any(isinstance(want, Authorize) for want in say(conversation, "broadcast", {}))


def test_without_a_database_a_track_is_answered_with_the_reason_and_asked_anew() -> None:
    conversation = joined(private=True)
    track(conversation, {})
    assert answers(conversation.authorized(AWAY, NOW)) == [error(reason=AWAY.reason)]
    (ask,) = track(conversation, {})
    assert isinstance(ask, Authorize)


def test_untracking_needs_no_right() -> None:
    assert say(joined(private=True), "presence", {"event": "untrack"})[-1] == Untrack(1)


def test_a_channel_that_tracks_has_presence_from_then_on() -> None:
    conversation = connection()
    join(conversation, private=True)
    conversation.authorized(Allowed(broadcast=True), NOW)
    track(conversation, {})
    conversation.authorized(ALL, NOW)
    (ask,) = say(conversation, "access_token", {"access_token": "authenticated"})
    assert isinstance(ask, Authorize)
    assert ask.presence
    enter = entered(conversation.authorized(ALL, NOW))
    assert (enter.sees, enter.state) == (True, True)


def test_case_70_the_sixth_call_within_the_window_ends_the_channel() -> None:
    conversation = joined()
    for n in range(5):
        event = ("track", "untrack", "dance")[n % 3]
        assert len(answers(say(conversation, "presence", {"event": event}, now=NOW + n))) == 1
    wants = track(conversation, {}, now=NOW + 29.9)
    assert sent(wants) == shut("Client presence rate limit exceeded")
    assert isinstance(wants[1], Detach)
    (gone,) = sent(track(conversation, {}))
    assert gone == ("phx_reply", error(reason="unmatched topic"))


def test_case_70_the_window_begins_with_the_first_call_and_is_a_setting() -> None:
    conversation = joined(presence_calls=2, presence_window=10.0)
    for now in (NOW, NOW + 9.9, NOW + 10, NOW + 19.9):
        assert answers(track(conversation, {}, now=now)) == [ok({})]
    assert sent(track(conversation, {}, now=NOW + 19.99)) == shut("Client presence rate limit exceeded")


def test_case_70_other_channels_have_windows_of_their_own() -> None:
    conversation = joined(presence_calls=1)
    other: dict[str, Any] = {"config": {}}
    conversation.receive(ClientMessage("realtime:b", "phx_join", other, "3", "3"), NOW)
    track(conversation, {})
    track(conversation, {})
    call = {"event": "track"}
    (answer, _) = conversation.receive(ClientMessage("realtime:b", "presence", call, "4", "3"), NOW)
    assert isinstance(answer, Send)
    assert answer.message.payload == ok({})


def test_a_clock_that_is_set_back_begins_a_new_window() -> None:
    calls = Calls()
    assert [calls.take(1, 30.0, now) for now in (100.0, 101.0, 50.0, 51.0)] == [True, False, True, False]


def test_case_71_what_is_too_large_ends_the_channel() -> None:
    assert sent(track(joined(payload_size=10), {"n": 1234567})) == shut("Track message size exceeded")
    assert answers(track(joined(payload_size=10), {"n": 1234})) == [ok({})]


def test_what_all_channels_of_a_socket_track_together_has_that_limit() -> None:
    conversation = joined(payload_size=20)
    config: dict[str, Any] = {"config": {}}
    conversation.receive(ClientMessage("realtime:b", "phx_join", config, "3", "3"), NOW)

    def other(call: dict[str, Any]) -> list[tuple[str, Any]]:
        return sent(conversation.receive(ClientMessage("realtime:b", "presence", call, "4", "3"), NOW))

    ten = {"n": 1234}
    assert answers(track(conversation, ten)) == [ok({})]
    assert other({"event": "track", "payload": ten}) == [("phx_reply", ok({}))]
    assert answers(say(conversation, "presence", {"event": "untrack"})) == [ok({})]
    assert other({"event": "track", "payload": {"n": 123456}}) == [("phx_reply", ok({}))]
    assert sent(track(conversation, ten)) == shut("Track message size exceeded")


@pytest.mark.parametrize("key", sorted(INHERITED_KEYS))
def test_a_key_that_breaks_the_clients_of_others_is_refused(key: str) -> None:
    (refused,) = join(connection(), {"key": key})
    assert isinstance(refused, Send)
    reason = f"InvalidPresenceKey: every object of JavaScript has `{key}`: choose another key"
    assert refused.message.payload == error(reason=reason)


def test_a_long_key_is_refused_by_its_bytes() -> None:
    reason = "InvalidPresenceKey: the key is longer than 1024 bytes"
    (refused,) = join(connection(), {"key": "é" * 513})
    assert isinstance(refused, Send)
    assert refused.message.payload == error(reason=reason)
    assert entered(join(connection(), {"key": "é" * 512})).key == "é" * 512


def test_nothing_is_shown_while_a_join_waits_for_its_answer() -> None:
    conversation = connection()
    entry = {"event": "*", "schema": "public", "table": "todos"}
    join(conversation, postgres_changes=[entry], postgres_changes_options={"wait": True})
    (want,) = track(conversation, {})
    assert isinstance(want, Send)
    assert want.message.payload == error(reason="unmatched topic")
