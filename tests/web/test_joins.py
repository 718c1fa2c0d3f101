"""Joins and leaves at the endpoint, byte for byte as the original answers them.

Each test names its case of the original's own tests, where there is one.
"""

import dataclasses
import json
from typing import Any

import pytest
import structlog

from rowcast.model.allowed import Allowed
from rowcast.protocol.messages import Version
from rowcast.session.admission import Limits
from support.frames import both, opened, slow_down, stop_clock
from support.serving import Door, running
from support.tokens import make_token

pytestmark = pytest.mark.anyio

FOREIGN = "another-secret-of-at-least-32-bytes!"
MALFORMED = "The token provided is not a valid JWT"
REQUIRED = "Fields `role` and `exp` are required in JWT"


@both
async def test_a_topic_without_a_name_is_refused(version: Version) -> None:
    """Case 14."""
    async with running() as server, opened(server, version) as client:
        await client.is_refused("realtime:", {}, "TopicNameRequired: You must provide a topic name")


@both
async def test_a_topic_without_the_prefix_is_unmatched(version: Version) -> None:
    """Case 15."""
    async with running() as server, opened(server, version) as client:
        for topic, event in (("room", "phx_join"), ("realtime:never", "broadcast"), ("room", "access_token")):
            await client.say(topic, event, {})
            await client.hears_reply(topic, {"reason": "unmatched topic"}, "1", None, status="error")


@both
@pytest.mark.parametrize(
    "payload",
    [
        {"config": {}},
        {"config": {}, "unknown": {"a": 1}, "version": "realtime-js/2.119.1"},
        {"config": {"unknown": 5, "broadcast": {"unknown": 5}, "presence": {"unknown": 5}}},
        {"config": {"broadcast": None}},
        {"config": {"postgres_changes": None}},
        {"config": {"postgres_changes": [None]}},
        {"config": {"broadcast": {"self": "true", "ack": "True"}, "private": "false"}},
        {"config": {"broadcast": {"self": "potato"}, "private": "potato"}},
        {"config": {"presence": {"key": 42}}},
        {"config": {}, "access_token": None},
        {"config": {}, "access_token": "sb_x"},
        {"config": {}, "user_token": "sb_x"},
    ],
    ids=json.dumps,
)
async def test_a_join_is_answered_with_its_own_references(version: Version, payload: Any) -> None:
    """Cases 16 to 19, 21 and 86."""
    async with running() as server, opened(server, version) as client:
        await client.join("realtime:room", payload)
        await client.hears_nothing()


@both
async def test_a_join_of_the_old_kind_subscribes_to_its_topic(version: Version) -> None:
    """Case 17, with the payload `{}`."""
    async with running() as server, opened(server, version) as client:
        await client.say("realtime:public:todos", "phx_join", {})
        answer = json.loads(await client.hear())
        payload = answer["payload"] if version is Version.V1 else answer[4]
        (entry,) = payload["response"]["postgres_changes"]
        assert list(entry) == ["id", "schema", "table"]
        assert "Subscribed to PostgreSQL" in await client.hear()
        assert [subscriber.legacy for subscriber in server.feed.subscribers] == [True]


@both
@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (make_token(role=""), f"InvalidJWTToken: {REQUIRED}"),
        (make_token(exp=None), f"InvalidJWTToken: {REQUIRED}"),
        (make_token(exp="soon"), "InvalidJWTToken: Token expiration time is invalid"),
        ("garbage", f"MalformedJWT: {MALFORMED}"),
        ("", f"MalformedJWT: {MALFORMED}"),
        (make_token(secret=FOREIGN), "JwtSignatureError: Failed to validate JWT signature"),
    ],
)
async def test_a_join_with_a_wrong_token_says_why(version: Version, token: str, reason: str) -> None:
    """Case 20."""
    async with running() as server, opened(server, version) as client:
        await client.is_refused("realtime:room", {"config": {}, "access_token": token}, reason)


@both
async def test_a_join_with_an_expired_token_says_since_when(version: Version) -> None:
    """Case 20."""
    async with running() as server:
        clock = stop_clock(server)
        async with opened(server, version) as client:
            expired = {"config": {}, "access_token": make_token(exp=clock[0] - 12)}
            await client.is_refused(
                "realtime:room", expired, "InvalidJWTToken: Token has expired 12 seconds ago"
            )


async def test_a_join_without_a_token_is_judged_by_the_key_at_each_join() -> None:
    """Case 20, with a key that has expired since the handshake."""
    async with running() as server:
        clock = stop_clock(server)
        async with opened(server, Version.V2, make_token(exp=clock[0] + 10)) as client:
            await client.join("realtime:a", {"config": {}})
            clock[0] += 22
            await client.is_refused(
                "realtime:b", {"config": {}}, "InvalidJWTToken: Token has expired 12 seconds ago"
            )


async def test_a_second_join_is_answered_before_the_first_is_closed() -> None:
    """Case 22."""
    async with running() as server, opened(server, Version.V2) as client:
        await client.join("realtime:room", {"config": {}}, "1", "11")
        await client.join("realtime:room", {"config": {}}, "2", "12")
        await client.hears("realtime:room", "phx_close", {}, "11", "11")


async def test_a_second_join_under_1_0_0_closes_nothing() -> None:
    """Case 22, where the original closes the first: clients could not tell whose end it is."""
    async with running() as server, opened(server, Version.V1) as client:
        await client.join("realtime:room", {"config": {}}, "1", "11")
        await client.join("realtime:room", {"config": {}}, "2", "12")
        await client.hears_nothing()


@both
async def test_1500_joins_in_a_row_are_all_answered(version: Version) -> None:
    """Case 22."""
    async with running() as server:
        slow_down(server, 1_000)
        async with opened(server, version) as client:
            for number in range(1_500):
                await client.say("realtime:room", "phx_join", {"config": {}}, f"{number}", f"{number}")
            heard = 0
            while heard < 1_500:
                heard += '"phx_reply"' in await client.hear()


@both
@pytest.mark.parametrize("yes", [True, "true", "True", "TRUE"])
async def test_a_flag_may_be_a_text(version: Version, yes: bool | str) -> None:
    """Case 18, by a flag that shows."""
    async with running() as server, opened(server, version) as client:
        await client.is_refused(
            "realtime:room",
            {"config": {"private": yes}},
            "Unauthorized: You do not have permissions to read from this Channel topic: room",
        )


@both
async def test_a_second_join_that_fails_ends_the_first_too(version: Version) -> None:
    """Case 23. Under 1.0.0 the reply is all that is sent."""
    async with running() as server, opened(server, version) as client:
        await client.join("realtime:room", {"config": {}}, "1", "10")
        await client.is_refused(
            "realtime:room", {"config": {}, "access_token": "garbage"}, f"MalformedJWT: {MALFORMED}"
        )
        if version is Version.V2:
            await client.hears("realtime:room", "phx_close", {}, "10", "10")
        await client.say("realtime:room", "broadcast", {}, "5", "11")
        await client.hears_reply("realtime:room", {"reason": "unmatched topic"}, "5", None, status="error")


@both
async def test_a_channel_too_many_is_refused(version: Version) -> None:
    """Case 24."""
    limits = Limits(channels=1, refusal_delay=0.0)
    async with running(limits=limits) as server, opened(server, version) as client:
        await client.join("realtime:a", {"config": {}})
        await client.is_refused("realtime:b", {"config": {}}, "ChannelRateLimitReached: Too many channels")
        await client.hears_nothing()


@both
async def test_a_join_too_many_for_the_server_is_refused_and_its_socket_closed(version: Version) -> None:
    """Case 26."""
    async with running() as server, opened(server, version) as client:
        slow_down(server, 1)
        async with opened(server, version) as other:
            for number in range(5):
                await other.join(f"realtime:{number}", {"config": {}})
            await other.is_refused(
                "realtime:over", {"config": {}}, "ClientJoinRateLimitReached: Too many joins per second"
            )
            # Not 1000 or 1001, after which the official Python client never connects again.
            assert await other.close_code() == 1013
        await client.hears_nothing()


@both
async def test_a_push_with_a_stale_or_no_join_ref_is_answered(version: Version) -> None:
    """Case 28."""
    async with running() as server, opened(server, version) as client:
        await client.join("realtime:room", {"config": {"broadcast": {"ack": True}}}, "2", "12")
        for join_ref in ("11", None):
            await client.say("realtime:room", "broadcast", {"type": "broadcast", "event": "e"}, "7", join_ref)
            await client.hears_reply("realtime:room", {}, "7", "12")


@both
async def test_a_leave_is_answered_and_closed_and_one_of_an_unknown_topic_answered(version: Version) -> None:
    """Case 29."""
    async with running() as server, opened(server, version) as client:
        await client.join("realtime:room", {"config": {}})
        await client.say("realtime:room", "phx_leave", {}, "2")
        await client.hears_reply("realtime:room", {}, "2")
        await client.hears("realtime:room", "phx_close", {}, "11", "11")
        await client.say("realtime:unknown", "phx_leave", {}, "3")
        await client.hears_reply("realtime:unknown", {}, "3")


@both
async def test_an_entry_is_echoed_with_an_id_and_its_subscription_told(version: Version) -> None:
    """Cases 76 and 87."""
    entries = [{"table": "todos", "event": "INSERT", "schema": "public"}, {"event": "*", "table": "notes"}]
    async with running() as server, opened(server, version) as client:
        await client.say("realtime:a:b", "phx_join", {"config": {"postgres_changes": [*entries, entries[0]]}})
        answer = json.loads(await client.hear())
        payload = answer["payload"] if version is Version.V1 else answer[4]
        echo = payload["response"]["postgres_changes"]
        assert [list(entry) for entry in echo] == [
            ["id", "event", "schema", "table"], ["id", "event", "table"], ["id", "event", "schema", "table"]
        ]  # fmt: skip
        assert [{name: entry[name] for name in entry if name != "id"} for entry in echo] == [
            entries[0], entries[1], entries[0]
        ]  # fmt: skip
        ids = [entry["id"] for entry in echo]
        assert ids[0] == ids[2] != ids[1]
        assert all(isinstance(number, int) and 0 < number < 2**53 for number in ids)
        told = {
            "message": "Subscribed to PostgreSQL", "status": "ok", "extension": "postgres_changes",
            "channel": "a:b", "position": "p",
        }  # fmt: skip
        await client.hears("realtime:a:b", "system", told, None)


@both
async def test_policies_that_cannot_be_asked_for_a_reason_nobody_knows_refuse_one_join_and_no_more(
    version: Version,
) -> None:
    door = Door(Allowed(broadcast=True), [ValueError("claims that must not reach the log")])
    private = {"config": {"private": True}}
    async with running() as server:
        server.app.state.services = dataclasses.replace(server.app.state.services, channels=door)
        async with opened(server, version) as client:
            reason = "UnknownErrorOnChannel: the server failed. Its log has the reason."
            with structlog.testing.capture_logs() as logs:
                await client.is_refused("realtime:room", private, reason)
            assert logs == [{"event": "authorize_failed", "error": "ValueError", "log_level": "error"}]
            await client.join("realtime:room", private)
