"""Tokens on a live channel, byte for byte as the original answers them.

Each test names its case of the original's own tests, where there is one.
"""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from rowcast.hub.feed import Subscribed, Subscriber
from rowcast.model.binding import Binding
from rowcast.model.claims import Claims
from rowcast.protocol.messages import Version
from support.frames import both, opened, stop_clock
from support.serving import PATIENCE, ListFeed, running
from support.tokens import make_token

pytestmark = pytest.mark.anyio

MALFORMED = "The token provided is not a valid JWT"
REQUIRED = "Fields `role` and `exp` are required in JWT"


@both
@pytest.mark.parametrize(
    "payload",
    [{"access_token": None}, {"access_token": "sb_x"}, {"access_token": 5}, {}, [], None, "x"],
)
async def test_a_refresh_with_no_token_is_ignored(version: Version, payload: Any) -> None:
    """Case 32."""
    async with running() as server, opened(server, version) as client:
        await client.join("realtime:room", {"config": {}})
        await client.say("realtime:room", "access_token", payload, "2")
        await client.hears_nothing()


@both
async def test_a_refresh_with_the_same_or_another_good_token_is_not_answered(version: Version) -> None:
    """Case 32."""
    token = make_token()
    async with running() as server, opened(server, version, token) as client:
        await client.join("realtime:room", {"config": {}})
        for fresh in (token, make_token("authenticated"), token):
            await client.say("realtime:room", "access_token", {"access_token": fresh}, "2")
            await client.hears_nothing()


@both
@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", MALFORMED),
        ("garbage", MALFORMED),
        (make_token(role=""), REQUIRED),
        (make_token(exp=None), REQUIRED),
    ],
)
async def test_a_refresh_with_a_wrong_token_ends_the_channel(
    version: Version, token: str, message: str
) -> None:
    """Cases 33 and 35."""
    async with running() as server, opened(server, version) as client:
        await client.join("realtime:room", {"config": {}})
        await client.say("realtime:room", "access_token", {"access_token": token}, "2")
        told = {"message": message, "status": "error", "extension": "system", "channel": "room"}
        await client.hears("realtime:room", "system", told, None)
        await client.hears("realtime:room", "phx_close", {}, "11", "11")
        await client.hears_nothing()


@both
async def test_a_refresh_with_an_expired_token_ends_the_channel(version: Version) -> None:
    """Case 34."""
    async with running() as server, opened(server, version) as client:
        await client.join("realtime:room", {"config": {}})
        expired = {"access_token": make_token(lifetime=-60)}
        await client.say("realtime:room", "access_token", expired, "2")
        assert '"message":"Token has expired 6' in await client.hear()
        await client.hears("realtime:room", "phx_close", {}, "11", "11")


@both
async def test_a_channel_ends_when_its_token_expires_and_the_socket_does_not(version: Version) -> None:
    """Case 36."""
    async with running() as server:
        clock = stop_clock(server)
        async with opened(server, version) as client:
            await client.join("realtime:other", {"config": {}})
            token = make_token(exp=clock[0] + 0.01)
            await client.join("realtime:room", {"config": {}, "access_token": token})
            clock[0] += 0.01
            assert '"message":"Token has expired 0 seconds ago"' in await client.hear()
            await client.hears("realtime:room", "phx_close", {}, "11", "11")
            await client.hears_nothing()


@both
async def test_a_good_refresh_has_the_subscription_made_anew(version: Version) -> None:
    entry = {"config": {"postgres_changes": [{"event": "*", "table": "todos"}]}}
    async with running() as server, opened(server, version) as client:
        await client.say("realtime:room", "phx_join", entry)
        assert "phx_reply" in await client.hear()
        first = await client.hear()
        await client.say("realtime:room", "access_token", {"access_token": make_token("authenticated")}, "2")
        assert "Subscribed to PostgreSQL" in first
        assert await client.hear() == first


class SlowFeed(ListFeed):
    """A feed that takes as long to subscribe as the test says; ``began`` has each role that it was asked for,
    ``roles`` those that were subscribed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.began: asyncio.Queue[str] = asyncio.Queue(100)
        self.goes_on = asyncio.Semaphore(0)
        self.roles: list[str] = []
        self.resumes: list[str | None] = []

    async def subscribe(
        self, subscriber: Subscriber, bindings: Sequence[Binding], claims: Claims, resume: str | None = None
    ) -> Subscribed:
        self.began.put_nowait(claims.role)
        self.resumes.append(resume)
        await self.goes_on.acquire()
        result = await super().subscribe(subscriber, bindings, claims)
        self.roles.append(claims.role)
        return result

    async def begins(self) -> str:
        return await asyncio.wait_for(self.began.get(), PATIENCE)


@both
async def test_tokens_that_come_without_end_do_not_keep_the_rights_of_the_first(version: Version) -> None:
    entry = {"config": {"postgres_changes": [{"event": "*", "table": "todos"}]}}
    feed = SlowFeed()
    async with running() as server:
        server.app.state.services = dataclasses.replace(server.app.state.services, feed=feed)
        async with opened(server, version) as client:
            await client.say("realtime:room", "phx_join", entry)
            assert "phx_reply" in await client.hear()
            assert await feed.begins() == "anon"
            feed.goes_on.release()
            assert "Subscribed to PostgreSQL" in await client.hear()
            for role in ("role1", "role2", "role3"):
                fresh = {"access_token": make_token(role)}
                await client.say("realtime:room", "access_token", fresh, "2")
                if role == "role1":
                    assert await feed.begins() == "role1"
            await client.say("phoenix", "heartbeat", {}, "9", None)
            await client.hears_reply("phoenix", {"position": "p"}, "9", None)
            feed.goes_on.release()
            # The second was overtaken by the third before its turn came.
            assert await feed.begins() == "role3"
            feed.goes_on.release()
            assert "Subscribed to PostgreSQL" in await client.hear()
            assert feed.roles == ["anon", "role1", "role3"]


@both
async def test_a_refresh_after_a_subscription_that_failed_subscribes_anew(version: Version) -> None:
    entry = {"config": {"postgres_changes": [{"event": "*", "table": "todos"}]}}
    feed = SlowFeed()
    feed.failures.append(RuntimeError("of the test"))
    async with running() as server:
        server.app.state.services = dataclasses.replace(server.app.state.services, feed=feed)
        async with opened(server, version) as client:
            await client.say("realtime:room", "phx_join", entry)
            assert "phx_reply" in await client.hear()
            assert await feed.begins() == "anon"
            fresh = {"access_token": make_token("authenticated")}
            await client.say("realtime:room", "access_token", fresh, "2")
            await client.hears_nothing()
            feed.goes_on.release()
            assert await feed.begins() == "authenticated"
            feed.goes_on.release()
            assert "Subscribed to PostgreSQL" in await client.hear()
            assert [one.gone for one in feed.subscribers] == [False]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_channel_resumes_until_a_subscription_took_whatever_tokens_come(fails: bool) -> None:
    config = {"postgres_changes": [{"event": "*", "table": "todos"}], "resume": {"position": "x"}}
    feed = SlowFeed()
    feed.failures += [RuntimeError("of the test")] * fails
    async with running() as server:
        server.app.state.services = dataclasses.replace(server.app.state.services, feed=feed)
        async with opened(server, Version.V2) as client:
            await client.say("realtime:room", "phx_join", {"config": config})
            await feed.begins()
            for role in ("role1", "role2"):
                await client.say("realtime:room", "access_token", {"access_token": make_token(role)}, "2")
                feed.goes_on.release()
                await feed.begins()
    assert feed.resumes == ["x", *(["x"] if fails else [None]), None]
