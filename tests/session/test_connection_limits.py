"""What a conversation allows one client, and what it says at each limit."""

from typing import Any

import pytest

from rowcast.model.allowed import Allowed
from rowcast.model.claims import Claims
from rowcast.model.rates import RateWindow
from rowcast.model.seats import Seats
from rowcast.protocol.messages import ClientMessage, Version
from rowcast.session.admission import Limits
from rowcast.session.connection import Connection
from rowcast.session.wants import Authorize, Close, Send, Want

NOW = 1_000_000.0
FAR = NOW + 1_000_000


def verify(token: str, now: float) -> Claims:
    return Claims(token.strip(), FAR, {})


def connection(joins: RateWindow | None = None, seats: Seats | None = None, **limits: Any) -> Connection:
    allowed = Limits(**{"refusal_delay": 5.0, **limits})
    return Connection(Version.V2, "anon", verify, allowed, NOW, joins or RateWindow(1e9), seats)


def join(
    conversation: Connection, topic: str, config: Any = None, *, now: float = NOW, **more: Any
) -> list[Want]:
    """A join, and what comes of it where no policy allows anything."""
    payload = {"config": config or {}, **more}
    wants = conversation.receive(ClientMessage(f"realtime:{topic}", "phx_join", payload, "1", "1"), now)
    if wants and isinstance(wants[-1], Authorize):
        return [*wants[:-1], *conversation.authorized(Allowed(), now)]
    return wants


def leave(conversation: Connection, topic: str, now: float = NOW) -> list[Want]:
    return conversation.receive(ClientMessage(f"realtime:{topic}", "phx_leave", {}, "2", "1"), now)


def reason(wants: list[Want]) -> str | None:
    """Why a join was refused, or None; a refusal is always late."""
    send = next(want for want in wants if isinstance(want, Send))
    refused = send.message.payload["status"] == "error"
    assert send.delay == (5.0 if refused else 0.0)
    return str(send.message.payload["response"]["reason"]) if refused else None


def test_a_channel_too_many_is_refused_until_another_is_left() -> None:
    """Conformance case 24."""
    conversation = connection(channels=1)
    assert reason(join(conversation, "a")) is None
    assert reason(join(conversation, "b")) == "ChannelRateLimitReached: Too many channels"
    assert reason(join(conversation, "a")) is None
    leave(conversation, "a")
    assert reason(join(conversation, "b")) is None


def test_entries_beyond_the_limit_are_echoed_and_not_subscribed() -> None:
    entries = [{"event": "*", "table": "a"}, {"event": "*", "table": "b"}]
    echo, told, attach, _ = join(connection(bindings=1), "a", {"postgres_changes": entries})
    assert isinstance(echo, Send)
    assert len(echo.message.payload["response"]["postgres_changes"]) == 2
    assert isinstance(told, Send)
    assert "1 beyond the 1 allowed" in told.message.payload["message"]
    assert len(attach.bindings) == 1  # type: ignore[union-attr]


def test_the_entries_of_all_channels_together_are_bounded_and_given_back() -> None:
    changes = {"postgres_changes": [{"table": "t" * 400}]}
    conversation = connection(entries_size=1_000)
    assert reason(join(conversation, "a", changes)) is None
    assert reason(join(conversation, "b", changes)) is None
    assert "may have 1000 bytes" in (reason(join(conversation, "c", changes)) or "")
    assert reason(join(conversation, "a", changes)) is None
    leave(conversation, "b")
    assert reason(join(conversation, "c", changes)) is None


def test_a_topic_is_bounded_in_bytes() -> None:
    conversation = connection(topic_size=20)
    assert reason(join(conversation, "é" * 5 + "x")) is None
    assert "longer than 20 bytes" in (reason(join(conversation, "é" * 6)) or "")


def test_a_join_too_many_for_the_server_is_refused_and_ends_the_connection() -> None:
    """Conformance case 26. The code is one after which both official clients connect again."""
    joins = RateWindow(1)
    conversation = connection(joins)
    for number in range(5):
        assert reason(join(conversation, f"{number}")) is None
    wants = join(conversation, "over")
    assert reason(wants) == "ClientJoinRateLimitReached: Too many joins per second"
    assert wants[1:] == [Close(1013, "Too many joins per second", 5.0)]
    heartbeat = ClientMessage("phoenix", "heartbeat", {}, "9")
    assert conversation.receive(heartbeat, NOW + 1) == []
    other = connection(joins)
    assert reason(join(other, "a")) == "ClientJoinRateLimitReached: Too many joins per second"
    assert reason(join(connection(joins), "a", now=NOW + 5)) is None


def test_the_order_of_checks_is_the_originals() -> None:
    joins = RateWindow(1)
    conversation = connection(joins, channels=1)
    private: dict[str, Any] = {"private": True, "broadcast": {"replay": {"since": 0}}}
    replay: dict[str, Any] = {"broadcast": {"replay": {}}}
    said = []
    join(conversation, "first")
    for topic, config in (("", {}), ("second", private)):
        said.append(reason(join(conversation, topic, config)))
    leave(conversation, "first")
    for config in (private, replay):
        said.append(reason(join(conversation, "second", config)))
    join(conversation, "last")
    for topic in ("", "second"):
        said.append(reason(join(conversation, topic, private)))
    assert said == [
        "TopicNameRequired: You must provide a topic name",
        "ChannelRateLimitReached: Too many channels",
        "Unauthorized: You do not have permissions to read from this Channel topic: second",
        "UnableToReplayMessages: Replay is not allowed for public channels",
        "TopicNameRequired: You must provide a topic name",
        "ClientJoinRateLimitReached: Too many joins per second",
    ]


def test_who_is_not_private_where_all_have_to_be_learns_that_first_of_all() -> None:
    """Conformance case 27, in the original's order: the number of users comes next, and then their joins."""
    joins, seats = RateWindow(1), Seats(1)
    first, second = (connection(joins, seats, private_only=only) for only in (False, True))
    public: dict[str, Any] = {"broadcast": {"replay": {}}}
    for number in range(5):
        join(first, f"{number}")
    said = [reason(join(second, topic, public)) for topic in ("", "a")]
    said.append(reason(join(second, "a", {"private": "True"})))
    first.end()
    said.append(reason(join(second, "a", {"private": True})))
    assert said == [
        "TopicNameRequired: You must provide a topic name",
        "PrivateOnly: This project only allows private channels",
        "ConnectionRateLimitReached: Too many connected users",
        "ClientJoinRateLimitReached: Too many joins per second",
    ]


def test_a_join_of_the_old_kind_is_of_a_public_channel() -> None:
    old = ClientMessage("realtime:public:todos", "phx_join", {}, "1", "1")
    wants = connection(private_only=True).receive(old, NOW)
    assert reason(wants) == "PrivateOnly: This project only allows private channels"


def test_what_is_no_join_at_all_is_refused_before_any_limit_is_asked() -> None:
    joins = RateWindow(0)
    wants = connection(joins, private_only=True).receive(
        ClientMessage("realtime:a", "phx_join", {"config": 5}, "1", "1"), NOW
    )
    assert reason(wants) == "UnknownErrorOnChannel: expected `config` to be an object"
    assert len(wants) == 1


def test_a_silent_client_is_closed() -> None:
    """Conformance case 10."""
    conversation = connection()
    join(conversation, "a")
    assert conversation.tick(NOW + 59.9) == []
    assert conversation.tick(NOW + 60) == [Close(1000)]
    conversation.alive(NOW + 60)
    assert conversation.tick(NOW + 119.9) == []


@pytest.mark.parametrize("emptied", ["never joined", "left", "expired", "lost"])
def test_a_client_that_has_no_channel_for_long_is_closed_however_alive(emptied: str) -> None:
    conversation = connection(no_channel_timeout=600.0, idle_timeout=1e9)
    at = NOW
    if emptied != "never joined":
        join(conversation, "a", {"postgres_changes": [{"table": "a"}]})
        assert conversation.tick(NOW + 100_000) == []
        at = NOW + 200_000
    match emptied:
        case "left":
            leave(conversation, "a", at)
        case "lost":
            conversation.lost(1, at)
        case "expired":
            at = FAR
            conversation.tick(at)
    assert conversation.deadline() == at + 600
    conversation.alive(at + 599)
    assert conversation.tick(at + 599) == []
    (close,) = conversation.tick(at + 600)
    assert isinstance(close, Close)
    assert close.code == 4004


def test_a_client_that_joins_again_in_time_is_not_closed() -> None:
    conversation = connection(no_channel_timeout=600.0, idle_timeout=1e9)
    join(conversation, "a")
    leave(conversation, "a")
    join(conversation, "b", now=NOW + 599)
    assert conversation.tick(NOW + 700) == []
