"""Private channels: joined when the policies allow something, and ended when a new token takes it away."""

from typing import Any

import msgspec
import pytest

from rowcast.model.allowed import Allowed, ChannelUnavailable
from rowcast.model.claims import Claims
from rowcast.model.message import Message
from rowcast.model.rates import RateWindow
from rowcast.model.seats import Seats
from rowcast.protocol.broadcasts import UserBroadcast
from rowcast.protocol.join import Replay
from rowcast.protocol.messages import ClientMessage, Version
from rowcast.session.admission import Limits
from rowcast.session.connection import Connection
from rowcast.session.wants import Attach, Authorize, Await, Detach, Enter, Send, Tell, Want

NOW = 1_000_000.0
BOTH = Allowed(True, True)
AWAY = ChannelUnavailable(
    "UnableToConnectToProject", "Realtime was unable to connect to the project database"
)
UNREADABLE = "You do not have permissions to read from this Channel topic: room"
GONE = "You no longer have permission to read from this Channel topic: room"
CHANGES = [{"event": "*", "schema": "public", "table": "todos"}]


def verify(token: str, now: float) -> Claims:
    return Claims(token, NOW + 3600, {"role": token})


def connection(version: Version = Version.V2, seats: Seats | None = None) -> Connection:
    return Connection(version, "anon", verify, Limits(), NOW, RateWindow(1e9), seats)


def join(conversation: Connection, ref: str = "1", **config: Any) -> list[Want]:
    payload = {"config": {"private": True, **config}}
    return conversation.receive(ClientMessage("realtime:room", "phx_join", payload, ref, ref), NOW)


def refresh(conversation: Connection, token: str) -> list[Want]:
    payload = {"access_token": token}
    return conversation.receive(ClientMessage("realtime:room", "access_token", payload, "9", "1"), NOW)


def sent(wants: list[Want]) -> list[tuple[Any, ...]]:
    return [
        (w.message.ref, w.message.event, w.message.payload, w.delay) for w in wants if isinstance(w, Send)
    ]


def refusal(reason: str, ref: str = "1") -> tuple[Any, ...]:
    return (ref, "phx_reply", {"status": "error", "response": {"reason": reason}}, 5.0)


def shut(text: str) -> list[tuple[Any, ...]]:
    system = {"message": text, "status": "error", "extension": "system", "channel": "room"}
    return [(None, "system", system, 0.0), ("1", "phx_close", {}, 0.0)]


OK = {"status": "ok", "response": {"postgres_changes": []}}


@pytest.mark.parametrize("presence", [True, False])
def test_the_policies_are_asked_before_anything_is_answered(presence: bool) -> None:
    conversation = connection()
    assert join(conversation, presence={"enabled": presence}) == [
        Authorize("room", Claims("anon", NOW + 3600, {"role": "anon"}), presence, channel=1)
    ]
    assert sent(conversation.authorized(BOTH, NOW)) == [("1", "phx_reply", OK, 0.0)]


@pytest.mark.parametrize("allowed", [BOTH, Allowed(broadcast=True), Allowed(presence=True)])
def test_a_channel_is_joined_where_one_kind_of_message_may_be_read(allowed: Allowed) -> None:
    conversation = connection()
    join(conversation, postgres_changes=CHANGES)
    reply, attach, _ = conversation.authorized(allowed, NOW)
    ((_, event, payload, _),) = sent([reply])
    assert (event, payload["status"]) == ("phx_reply", "ok")
    assert isinstance(attach, Attach)


def test_a_channel_that_may_not_be_read_is_refused_late() -> None:
    """Conformance case 48."""
    conversation = connection()
    join(conversation, postgres_changes=CHANGES)
    wants = conversation.authorized(Allowed(), NOW)
    assert sent(wants) == [refusal(f"Unauthorized: {UNREADABLE}")]
    assert len(wants) == 1


def test_without_a_database_a_join_is_refused() -> None:
    """Conformance case 31, of private channels."""
    conversation = connection()
    join(conversation)
    reason = "UnableToConnectToProject: Realtime was unable to connect to the project database"
    assert sent(conversation.authorized(AWAY, NOW)) == [refusal(reason)]


@pytest.mark.parametrize("version", Version)
def test_joining_again_ends_the_old_channel_whatever_the_policies_say_now(version: Version) -> None:
    for answer, delay in ((BOTH, 0.0), (Allowed(), 5.0)):
        conversation = connection(version)
        join(conversation, postgres_changes=CHANGES)
        conversation.authorized(BOTH, NOW)
        detach, ask = join(conversation, "2")
        assert isinstance(detach, Detach)
        assert isinstance(ask, Authorize)
        answered = sent(conversation.authorized(answer, NOW))
        assert answered[0][:2] == ("2", "phx_reply")
        # A client of 1.0.0 would take it for the end of the new one.
        assert answered[1:] == ([] if version is Version.V1 else [("1", "phx_close", {}, delay)])


def test_who_lost_the_last_seat_while_the_policies_were_asked_is_refused() -> None:
    seats = Seats(1)
    first, second = connection(seats=seats), connection(seats=seats)
    join(first)
    join(second)
    first.authorized(BOTH, NOW)
    reason = "ConnectionRateLimitReached: Too many connected users"
    assert sent(second.authorized(BOTH, NOW)) == [refusal(reason)]
    first.end()
    join(second)
    assert sent(second.authorized(BOTH, NOW)) == [("1", "phx_reply", OK, 0.0)]


@pytest.mark.parametrize(
    ("replay", "allowed", "reason"),
    [
        ({"since": 1}, Allowed(presence=True), f"Unauthorized: {UNREADABLE}"),
        ({"since": "x"}, Allowed(), f"Unauthorized: {UNREADABLE}"),
        ({}, BOTH, "UnableToReplayMessages: Replay params are not valid"),
    ],
)
def test_what_is_replayed_needs_the_right_to_read_broadcasts(
    replay: dict[str, Any], allowed: Allowed, reason: str
) -> None:
    conversation = connection()
    join(conversation, broadcast={"replay": replay})
    assert sent(conversation.authorized(allowed, NOW)) == [refusal(reason)]


def test_who_resumes_its_messages_has_them_by_the_stream_and_is_replayed_none() -> None:
    conversation = connection()
    (question,) = join(
        conversation,
        broadcast={"replay": {"since": 5}},
        rowcast={"messages": True},
        resume={"position": "p"},
    )
    assert isinstance(question, Authorize)
    assert question.replay is None


def test_what_is_replayed_follows_the_reply_to_a_join_that_waits() -> None:
    conversation = connection()
    wait: dict[str, Any] = {"postgres_changes": CHANGES, "postgres_changes_options": {"wait": True}}
    *_, ask = join(
        conversation, broadcast={"replay": {"since": 5, "limit": 2}, "replication_ready": True}, **wait
    )
    assert isinstance(ask, Authorize)
    assert (ask.replay, ask.channel) == (Replay(5, 2), 1)
    messages = [Message("a", "room", True, "e", b"[1]"), Message("b", "room", True, "e", b"\x00", True)]
    (attach,) = conversation.authorized(BOTH, NOW, messages)
    assert isinstance(attach, Attach)
    reply, first, second, enter, ready, *_ = conversation.attached(1, attach.attempt, (), True, None)
    meta = {"id": "a", "replayed": True}
    said = {"event": "e", "meta": meta, "payload": msgspec.Raw(b"[1]"), "type": "broadcast"}
    assert sent([reply, first])[1] == (None, "broadcast", said, 0.0)
    broadcast = UserBroadcast("e", b"\x00", raw=True, meta=b'{"id":"b","replayed":true}')
    assert second == Tell("realtime:room", broadcast)
    assert isinstance(enter, Enter)
    assert enter.known == {"a", "b"}
    assert ready == Await(1)


def test_a_join_with_a_replay_that_is_refused_lets_go_of_its_topic() -> None:
    conversation = connection()
    join(conversation, broadcast={"replay": {"since": 5}})
    wants = conversation.authorized(ChannelUnavailable("UnableToReplayMessages", "no"), NOW)
    assert wants[0] == Detach(1)
    assert sent(wants) == [refusal("UnableToReplayMessages: no")]


def test_a_new_token_is_asked_about_and_subscribes_anew() -> None:
    conversation = connection()
    join(conversation, presence={"enabled": True}, postgres_changes=CHANGES)
    conversation.authorized(BOTH, NOW)
    (ask,) = refresh(conversation, "authenticated")
    assert ask == Authorize("room", Claims("authenticated", NOW + 3600, {"role": "authenticated"}), True)
    (attach,) = conversation.authorized(BOTH, NOW)
    assert isinstance(attach, Attach)
    assert attach.claims.role == "authenticated"
    # The same token again is no news.
    assert refresh(conversation, "authenticated") == []


@pytest.mark.parametrize(
    ("had", "has", "text"),
    [
        (BOTH, Allowed(), UNREADABLE),
        (BOTH, Allowed(broadcast=True), GONE),
        (BOTH, Allowed(presence=True), GONE),
        (Allowed(broadcast=True), Allowed(presence=True),
         GONE),
        (BOTH, AWAY, "Realtime was unable to connect to the project database"),
    ],
)  # fmt: skip
def test_a_token_that_takes_a_right_away_ends_the_channel(
    had: Allowed, has: Allowed | ChannelUnavailable, text: str
) -> None:
    """Conformance cases 37 and 39."""
    conversation = connection()
    join(conversation)
    conversation.authorized(had, NOW)
    refresh(conversation, "authenticated")
    assert sent(conversation.authorized(has, NOW)) == shut(text)
    assert sent(refresh(conversation, "anon"))[0][2]["response"] == {"reason": "unmatched topic"}


@pytest.mark.parametrize("had", [Allowed(broadcast=True), Allowed(presence=True)])
def test_a_token_may_give_more(had: Allowed) -> None:
    conversation = connection()
    join(conversation)
    conversation.authorized(had, NOW)
    refresh(conversation, "authenticated")
    assert conversation.authorized(BOTH, NOW) == [
        Enter(1, "realtime:room", private=True, echo=False, hears=True, sees=True, join_ref="1")
    ]
    refresh(conversation, "anon")
    assert sent(conversation.authorized(had, NOW)) == shut(GONE)


def test_an_answer_for_a_channel_that_expired_meanwhile_comes_to_nothing() -> None:
    conversation = connection()
    join(conversation)
    conversation.authorized(BOTH, NOW)
    refresh(conversation, "authenticated")
    conversation.alive(NOW + 3600)
    assert len(sent(conversation.tick(NOW + 3600))) == 2
    assert conversation.authorized(BOTH, NOW + 3600) == []


def test_of_a_public_channel_no_policy_is_asked() -> None:
    """Conformance case 38."""
    conversation = connection()
    assert sent(join(conversation, private=False))[0][2] == OK
    assert refresh(conversation, "authenticated") == []
