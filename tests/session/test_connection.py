"""A conversation: what the real server was seen to answer."""

from typing import Any

from rowcast.protocol.messages import ClientMessage, Version
from rowcast.session.connection import Connection
from rowcast.session.wants import Attach, Authorize, Detach, Send, Want
from support.sessions import CHANGES, NOTHING, NOW, Answer, connection, ok


def answered(conversation: Connection, wants: list[Want], answer: Answer) -> list[Want]:
    """The same, with the answer of the policies if they are asked."""
    if wants and isinstance(wants[-1], Authorize):
        return [*wants[:-1], *conversation.authorized(answer, NOW)]
    return wants


def say(
    conversation: Connection,
    event: str,
    payload: Any = None,
    ref: str | None = "1",
    *,
    topic: str = "realtime:a",
    join_ref: str | None = None,
) -> list[Want]:
    """What the client says, and what comes of it where no policy allows anything."""
    wants = conversation.receive(ClientMessage(topic, event, payload or {}, ref, join_ref), NOW)
    return answered(conversation, wants, NOTHING)


def sent(wants: list[Want]) -> list[tuple[Any, ...]]:
    """What is sent, as (join_ref, ref, event, payload)."""
    messages = [want.message for want in wants if isinstance(want, Send)]
    return [(m.join_ref, m.ref, m.event, m.payload) for m in messages]


def join(conversation: Connection, ref: str = "1", config: Any = None, **more: Any) -> list[Want]:
    return say(conversation, "phx_join", {"config": config or {}, **more}, ref, join_ref=ref)


def refused(reason: str) -> dict[str, Any]:
    return {"status": "error", "response": {"reason": reason}}


def test_a_plain_join_is_answered_with_no_bindings() -> None:
    assert sent(join(connection())) == [("1", "1", "phx_reply", ok({"postgres_changes": []}))]


def test_entries_are_echoed_id_first_then_in_alphabetical_order() -> None:
    entry = {"table": "todos", "schema": "public", "event": "*", "unknown": [1]}
    wants = join(connection(), config={"postgres_changes": [entry]})
    (echo,) = sent(wants)[0][3]["response"]["postgres_changes"]
    assert list(echo) == ["id", "event", "schema", "table", "unknown"]
    assert isinstance(wants[1], Attach)
    assert wants[1].bindings[0].id == echo["id"] > 0


def test_a_refused_join_says_why() -> None:
    cases = [
        ({"access_token": "bad"}, "JwtSignatureError: Failed to validate JWT signature"),
        ({"access_token": f"anon:{NOW - 84}"}, "InvalidJWTToken: Token has expired 84 seconds ago"),
        (
            {"config": {"private": True}},
            "Unauthorized: You do not have permissions to read from this Channel topic: a",
        ),
    ]
    for payload, reason in cases:
        assert sent(say(connection(), "phx_join", payload))[0][3] == refused(reason)
    nameless = say(connection(), "phx_join", topic="realtime:")
    assert sent(nameless)[0][3] == refused("TopicNameRequired: You must provide a topic name")


def test_an_opaque_key_or_null_falls_back_to_the_connections_token() -> None:
    """Conformance case 21."""
    for name in ("access_token", "user_token"):
        for token in ("sb_publishable_xyz", None):
            wants = say(connection(), "phx_join", {"config": CHANGES, name: token})
            (attach,) = [want for want in wants if isinstance(want, Attach)]
            assert attach.claims.role == "anon"


def test_a_topic_that_was_not_joined_or_has_no_prefix_is_unmatched() -> None:
    for topic in ("realtime:never", "room-b"):
        wants = say(
            connection(), "broadcast" if ":" in topic else "phx_join", topic=topic, ref="4", join_ref="9"
        )
        assert sent(wants) == [(None, "4", "phx_reply", refused("unmatched topic"))]


def test_a_leave_is_answered_and_then_closed_and_a_second_one_answered() -> None:
    conversation = connection()
    join(conversation, "6")
    assert sent(say(conversation, "phx_leave", ref="7", join_ref="6")) == [
        ("6", "7", "phx_reply", ok({})),
        ("6", "6", "phx_close", {}),
    ]
    assert sent(say(conversation, "phx_leave", ref="8", join_ref="6")) == [("6", "8", "phx_reply", ok({}))]


def test_a_second_join_is_answered_before_the_first_is_closed() -> None:
    conversation = connection()
    join(conversation, "2")
    assert sent(join(conversation, "6")) == [
        ("6", "6", "phx_reply", ok({"postgres_changes": []})),
        ("2", "2", "phx_close", {}),
    ]


def test_a_second_join_under_the_old_protocol_closes_nothing() -> None:
    conversation = connection(Version.V1)
    join(conversation, "2")
    assert [event for _, _, event, _ in sent(join(conversation, "6"))] == ["phx_reply"]


def test_an_unknown_event_is_ignored() -> None:
    conversation = connection()
    join(conversation)
    assert say(conversation, "whatever", ref="3") == []


def test_a_heartbeat_tells_the_position_only_to_who_hears_changes() -> None:
    conversation = connection()
    beat = ClientMessage("phoenix", "heartbeat", {}, "9")
    assert sent(conversation.receive(beat, NOW, "p1")) == [(None, "9", "phx_reply", ok({}))]
    join(conversation, config=CHANGES)
    conversation.attached(1, 1, (), True, "p1")
    assert sent(conversation.receive(beat, NOW, "p2")) == [(None, "9", "phx_reply", ok({"position": "p2"}))]


def test_a_push_with_a_stale_or_no_join_ref_is_heard_and_answered_with_the_channels_own() -> None:
    """Conformance case 28, with the answer to what is not offered."""
    conversation = connection()
    join(conversation, "2")
    join(conversation, "6")
    for join_ref in ("2", None, "6", "99"):
        (answer,) = sent(say(conversation, "presence", {"event": "track"}, "7", join_ref=join_ref))
        assert answer[:3] == ("6", "7", "phx_reply")
    assert [event for _, _, event, _ in sent(say(conversation, "phx_leave", ref="8", join_ref="2"))] == [
        "phx_reply",
        "phx_close",
    ]


def test_a_join_without_a_join_ref_has_its_ref_for_one() -> None:
    (answer,) = sent(say(connection(), "phx_join", {"config": {}}, "5", join_ref=None))
    assert answer[:2] == ("5", "5")


def test_a_join_of_the_old_kind_subscribes_to_its_topic() -> None:
    wants = say(connection(), "phx_join", {"user_token": "authenticated"}, topic="realtime:public:todos")
    (echo,) = sent(wants)[0][3]["response"]["postgres_changes"]
    assert list(echo.items())[1:] == [("schema", "public"), ("table", "todos")]
    attach = wants[1]
    assert isinstance(attach, Attach)
    assert (attach.legacy, attach.claims.role) == (True, "authenticated")
    (binding,) = attach.bindings
    assert (binding.id, binding.event, binding.table) == (echo["id"], "*", "todos")


def test_a_refreshed_token_keeps_a_channel_of_the_old_kind_what_it_is() -> None:
    conversation = connection()
    say(conversation, "phx_join", topic="realtime:public")
    (again,) = say(conversation, "access_token", {"access_token": "service_role"}, topic="realtime:public")
    assert isinstance(again, Attach)
    assert again.legacy
    assert not next(want for want in join(connection(), config=CHANGES) if isinstance(want, Attach)).legacy


def test_what_becomes_of_a_subscription_later_is_told_while_its_channel_stands() -> None:
    conversation = connection()
    join(conversation, config=CHANGES)
    ((join_ref, ref, event, payload),) = sent(conversation.told(1, "error", "the table is gone", "here"))
    assert (join_ref, ref, event) == ("1", None, "system")
    assert payload == {
        "message": "the table is gone", "status": "error", "extension": "postgres_changes", "channel": "a"
    }  # fmt: skip
    beat = ClientMessage("phoenix", "heartbeat", {}, "9")
    assert sent(conversation.receive(beat, NOW, "p"))[0][3] == ok({})
    (again,) = sent(conversation.told(1, "ok", "Subscribed to PostgreSQL", "here"))
    assert again[3]["position"] == "here"
    assert sent(conversation.receive(beat, NOW, "p"))[0][3] == ok({"position": "p"})
    say(conversation, "phx_leave")
    assert conversation.told(1, "error", "too late", None) == []


def test_what_became_of_a_subscription_is_told_refusals_first() -> None:
    conversation = connection()
    join(conversation, config=CHANGES)
    messages = sent(conversation.attached(1, 1, ("no",), True, "p"))
    assert [(event, payload["status"], payload["message"]) for _, _, event, payload in messages] == [
        ("system", "error", "no"),
        ("system", "ok", "Subscribed to PostgreSQL"),
    ]
    assert list(messages[1][3]) == ["message", "status", "extension", "channel", "position"]
    assert messages[1][3]["channel"] == "a"


def test_an_entry_is_refused_by_a_system_error_and_the_other_one_subscribed() -> None:
    entries = [{"event": "*"}, {"event": "*", "table": "a"}]
    wants = join(connection(), config={"postgres_changes": entries})
    assert sent(wants)[1][3]["message"].startswith("No subscription params provided.")
    (attach,) = [want for want in wants if isinstance(want, Attach)]
    assert len(attach.bindings) == 1


def test_a_refreshed_token_is_taken_or_ends_the_channel() -> None:
    conversation = connection()
    join(conversation, config=CHANGES)
    for token in ("anon", None, "sb_secret_x", 5):
        assert say(conversation, "access_token", {"access_token": token}) == []
    (again,) = say(conversation, "access_token", {"access_token": "authenticated"})
    assert isinstance(again, Attach)
    assert (again.claims.role, again.attempt) == ("authenticated", 2)
    # What it hears under the first token comes after this is told.
    ((_, _, event, payload),) = sent(conversation.attached(1, 1, ("of the first",), True, "p"))
    assert (event, payload["status"], payload["position"]) == ("system", "ok", "p")
    (last,) = say(conversation, "access_token", {"access_token": "service_role"})
    assert isinstance(last, Attach)
    assert conversation.attached(1, 2, (), True, "stale") == []
    assert [event for _, _, event, _ in sent(conversation.attached(1, 3, (), True, "q"))] == ["system"]
    wants = say(conversation, "access_token", {"access_token": "bad"})
    assert [event for _, _, event, _ in sent(wants)] == ["system", "phx_close"]
    assert Detach(1) in wants


def test_a_token_that_expires_ends_its_channel_and_no_other() -> None:
    conversation = connection()
    join(conversation, access_token=f"anon:{NOW + 4}")
    say(conversation, "phx_join", topic="realtime:b", ref="2")
    assert conversation.deadline() == NOW + 4
    messages = sent(conversation.tick(NOW + 4))
    assert [payload.get("message") for _, _, _, payload in messages] == [
        "Token has expired 0 seconds ago",
        None,
    ]
    assert conversation.tick(NOW + 5) == []


def test_a_join_resumes_until_it_is_subscribed_and_a_new_token_goes_on() -> None:
    conversation = connection()
    config = {
        **CHANGES,
        "resume": {"position": "p"},
        "rowcast": {"gap": True, "group": "transaction", "leave": True, "truncate": True},
    }
    attaches = [want for want in join(conversation, config=config) if isinstance(want, Attach)]
    for number, took in enumerate((False, True), start=1):
        conversation.attached(attaches[-1].channel, attaches[-1].attempt, ("no",), took, None)
        wants = say(conversation, "access_token", {"access_token": f"anon:{NOW + number}"})
        attaches += [want for want in wants if isinstance(want, Attach)]
    assert [attach.resume for attach in attaches] == ["p", "p", None]
    assert all(attach.gap and attach.group for attach in attaches)
    assert all(binding.leave and binding.truncate for binding in attaches[-1].bindings)
    (refusal,) = sent(join(connection(), config={**CHANGES, "resume": "p"}))
    assert refusal[3]["response"]["reason"].startswith("InvalidResume: ")
