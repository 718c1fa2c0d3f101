"""Joins whose reply waits until their changes are subscribed, as supabase-js asks for it."""

from typing import Any

import pytest

from rowcast.model.claims import Claims
from rowcast.model.rates import RateWindow
from rowcast.protocol.messages import ClientMessage, Version
from rowcast.session.admission import Limits
from rowcast.session.connection import Connection
from rowcast.session.wants import Attach, Detach, Send, Want

NOW = 1_000_000.0
ENTRY = {"event": "*", "schema": "public", "table": "todos"}


def joining(*entries: Any, **options: Any) -> tuple[Connection, list[Want]]:
    """A conversation, and what came of its join."""
    conversation = Connection(
        Version.V2,
        "anon",
        lambda *_: Claims("anon", NOW + 3600, {}),
        Limits(refusal_delay=5.0),
        NOW,
        RateWindow(100),
    )
    config = {"postgres_changes": list(entries), "postgres_changes_options": {"wait": True, **options}}
    message = ClientMessage("realtime:a", "phx_join", {"config": config}, "7", "6")
    return conversation, conversation.receive(message, NOW)


def said(wants: list[Want]) -> list[tuple[str, Any]]:
    return [(want.message.event, want.message.payload) for want in wants if isinstance(want, Send)]


def refusals(wants: list[Want]) -> list[str]:
    """The reasons of error replies, each late and to the join."""
    assert all((want.message.ref, want.delay) == ("7", 5.0) for want in wants if isinstance(want, Send))
    return [payload["response"]["reason"] for event, payload in said(wants) if event == "phx_reply"]


def test_the_reply_waits_for_the_subscription_and_is_the_first_message() -> None:
    conversation, wants = joining(ENTRY)
    assert [type(want) for want in wants] == [Attach]
    assert conversation.told(1, "ok", "Subscribed to PostgreSQL", "p") == []
    (reply, reply_payload), (system, told) = said(conversation.attached(1, 1, (), True, "p"))
    assert (reply, reply_payload["status"]) == ("phx_reply", "ok")
    assert reply_payload["response"]["postgres_changes"][0].items() >= ENTRY.items()
    assert (system, told["message"]) == ("system", "Subscribed to PostgreSQL")
    assert conversation.tick(NOW + 30) == []


def test_a_refused_entry_refuses_the_join_and_takes_back_the_others() -> None:
    conversation, _ = joining(ENTRY, {**ENTRY, "table": "nowhere"})
    wants = conversation.attached(1, 1, ("no such table",), True, "p")
    assert isinstance(wants[0], Detach)
    assert refusals(wants) == ["RealtimeDisabledForConfiguration: no such table"]
    assert conversation.end() == []


def test_an_entry_that_cannot_be_read_refuses_the_join() -> None:
    _, wants = joining(ENTRY, {"event": "*"})
    (reason,) = refusals(wants)
    assert reason.startswith("RealtimeDisabledForConfiguration: No subscription params provided.")


def test_an_entry_that_is_lost_while_the_reply_waits_refuses_the_join() -> None:
    conversation, _ = joining(ENTRY)
    wants = conversation.told(1, "error", "the table is gone", None)
    assert refusals(wants) == ["RealtimeDisabledForConfiguration: the table is gone"]


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 15.0),
        ({"timeout": 2_000}, 2.0),
        ({"timeout": 0}, 0.0),
        ({"timeout": 90_000}, 20.0),
        ({"timeout": -1}, 15.0),
        ({"timeout": "2000"}, 15.0),
        ({"timeout": True}, 15.0),
    ],
)
def test_a_subscription_that_takes_too_long_is_refused(options: dict[str, Any], seconds: float) -> None:
    conversation, _ = joining(ENTRY, **options)
    assert conversation.deadline() == NOW + seconds
    if seconds:
        assert conversation.tick(NOW + seconds - 0.001) == []
    (reason,) = refusals(conversation.tick(NOW + seconds))
    assert reason.startswith("PostgresChangesSubscribeTimeout: ")
    assert conversation.attached(1, 1, (), True, "p") == []


def test_a_join_without_entries_waits_for_nothing() -> None:
    _, wants = joining()
    assert [payload["status"] for _, payload in said(wants)] == ["ok"]


@pytest.mark.parametrize("wait", [False, None, 1, "no", {}])
def test_a_join_that_does_not_ask_to_wait_is_answered_at_once(wait: object) -> None:
    _, wants = joining(ENTRY, wait=wait)
    assert [payload["status"] for _, payload in said(wants)] == ["ok"]


def test_a_channel_that_is_lost_or_left_while_its_reply_waits_ends() -> None:
    conversation, _ = joining(ENTRY)
    assert said(conversation.lost(1, NOW)) == [("phx_error", {})]
    conversation, _ = joining(ENTRY)
    left = conversation.receive(ClientMessage("realtime:a", "phx_leave", {}, "8", "6"), NOW)
    assert [event for event, _ in said(left)] == ["phx_reply", "phx_close"]
    assert conversation.attached(1, 1, (), True, "p") == []
