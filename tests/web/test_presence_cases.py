"""The original's cases of presence, over the real server. Each test names its case."""

import contextlib
import dataclasses
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rowcast.model.allowed import Allowed
from rowcast.protocol.messages import Version
from rowcast.session.admission import Limits
from support.frames import Client, both, opened, stop_clock
from support.presences import Watcher
from support.serving import Door, Running, running
from support.tokens import make_token

pytestmark = pytest.mark.anyio

TOPIC = "realtime:room"
ALL = Allowed(True, True)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NO_OBJECT = {"reason": "Presence track payload must be a map"}
DENIED = {"reason": "Unauthorized: You do not have permissions to write to this Channel topic: room"}


def config(key: Any = None, *, enabled: Any = True, private: bool = False) -> dict[str, Any]:
    return {"config": {"presence": {"enabled": enabled, "key": key}, "private": private}}


@contextlib.asynccontextmanager
async def guarded() -> AsyncIterator[tuple[Running, Door]]:
    """A server, and what it allows on private channels: everything, until the test says otherwise."""
    async with running() as server:
        door = Door(ALL, writable=ALL)
        server.app.state.services = dataclasses.replace(server.app.state.services, channels=door)
        yield server, door


def one(key: str, ref: str, **meta: Any) -> dict[str, list[dict[str, Any]]]:
    """A key with one meta."""
    return {key: [{"phx_ref": ref, **meta}]}


async def enter(client: Client, key: Any = None, state: Any = None, **more: Any) -> Watcher:
    """Join, and hear who is present."""
    watcher = Watcher(client)
    await client.join(TOPIC, config(key, **more))
    await watcher.hears_state(TOPIC, state or {})
    return watcher


async def shows(watcher: Watcher, key: str, ref: str, name: str, **meta: Any) -> None:
    """Track something new, and hear it."""
    await watcher.track(TOPIC, ref, meta)
    await watcher.client.hears_reply(TOPIC, {}, ref)
    await watcher.hears_diff(TOPIC, one(key, name, **meta))


async def ends(client: Client, text: str) -> None:
    """Assert that a channel ends for a reason."""
    system = {"message": text, "status": "error", "extension": "system", "channel": "room"}
    await client.hears(TOPIC, "system", system, None)
    await client.hears(TOPIC, "phx_close", {}, "11")


@both
async def test_case_64_the_state_follows_the_join_and_a_track_is_heard_by_itself(version: Version) -> None:
    async with running() as server, opened(server, version) as client:
        ann = await enter(client, "ann")
        await ann.track(TOPIC, "2", {"name": "ann", "n": [1, {"é": None}]})
        await client.hears_reply(TOPIC, {}, "2")
        await ann.hears_diff(TOPIC, one("ann", "r1", name="ann", n=[1, {"é": None}]))
        await client.hears_nothing()


@both
async def test_case_65_without_presence_there_is_no_state_but_a_track_is_seen(version: Version) -> None:
    async with running() as server, opened(server, version) as client, opened(server, version) as other:
        watching, silent = await enter(other, "bob"), Watcher(client)
        await client.join(TOPIC, config("ann", enabled=False))
        await client.hears_nothing()
        await shows(silent, "ann", "2", "r1", n=1)
        await watching.hears_diff(TOPIC, one("ann", "r1", n=1))


@both
@pytest.mark.parametrize(("given", "key"), [("ann", "ann"), (123, "123"), ("", None), (None, None)])
async def test_case_66_a_key_is_given_or_a_uuid(version: Version, given: Any, key: str | None) -> None:
    async with running() as server, opened(server, version) as client:
        ann = await enter(client, given)
        for ref in ("2", "4"):
            await ann.track(TOPIC, ref, {})
            await client.hears_reply(TOPIC, {}, ref)
            ((found, _),) = (await ann.heard_diff(TOPIC))[0].items()
            assert found == key if key is not None else UUID.fullmatch(found)
            key = found
            await ann.untrack(TOPIC, "3")
            await client.hears_reply(TOPIC, {}, "3")
            assert list((await ann.heard_diff(TOPIC))[1]) == [key]


@both
async def test_cases_67_and_68_what_is_tracked_again_changes_nothing_unless_it_differs(
    version: Version,
) -> None:
    async with running() as server, opened(server, version) as client:
        ann = await enter(client, "ann")
        await shows(ann, "ann", "2", "r1", n=1)
        await ann.track(TOPIC, "3", {"n": 1})
        await client.hears_reply(TOPIC, {}, "3")
        await client.hears_nothing()
        await ann.track(TOPIC, "4", {"n": 2})
        await client.hears_reply(TOPIC, {}, "4")
        new = one("ann", "r2", n=2, phx_ref_prev="r1")
        await ann.hears_diff(TOPIC, new, one("ann", "r1", n=1))
        await ann.untrack(TOPIC, "5")
        await client.hears_reply(TOPIC, {}, "5")
        await ann.hears_diff(TOPIC, None, new)
        await shows(ann, "ann", "6", "r3", n=2)


@both
async def test_case_69_a_payload_that_is_no_object_is_refused_and_the_channel_kept(version: Version) -> None:
    async with running() as server, opened(server, version) as client:
        ann = await enter(client, "ann")
        for payload in ("str", None, [1]):
            await ann.track(TOPIC, "2", payload)
            await client.hears_reply(TOPIC, NO_OBJECT, "2", status="error")
        await shows(ann, "ann", "3", "r1", n=1)


@both
async def test_case_70_one_call_too_many_ends_the_channel_and_no_other(version: Version) -> None:
    async with running() as server:
        clock = stop_clock(server)
        async with opened(server, version) as client, opened(server, version) as other:
            ann, bob = await enter(client, "ann"), await enter(other, "bob")
            for ref in "23456":
                await ann.track(TOPIC, ref, {"n": 1})
                await client.hears_reply(TOPIC, {}, ref)
                if ref == "2":
                    await ann.hears_diff(TOPIC, one("ann", "r1", n=1))
            await bob.hears_diff(TOPIC, one("ann", "r1", n=1))
            await ann.track(TOPIC, "7", {"n": 1})
            await ends(client, "Client presence rate limit exceeded")
            await bob.hears_diff(TOPIC, None, one("ann", "r1", n=1))
            for ref in "23456":
                await bob.untrack(TOPIC, ref)
                await other.hears_reply(TOPIC, {}, ref)
            clock[0] += 30
            await bob.untrack(TOPIC, "7")
            await other.hears_reply(TOPIC, {}, "7")


@both
async def test_case_71_what_is_too_large_ends_the_channel(version: Version) -> None:
    limits = Limits(payload_size=20)
    async with running(limits=limits) as server, opened(server, version) as client:
        ann = await enter(client, "ann")
        await ann.track(TOPIC, "2", {"text": "x" * 20})
        await ends(client, "Track message size exceeded")


@both
async def test_case_72_who_may_only_read_sees_and_may_not_track(version: Version) -> None:
    async with (
        guarded() as (server, door),
        opened(server, version) as client,
        opened(server, version) as other,
    ):
        ann, bob = await enter(client, "ann", private=True), await enter(other, "bob", private=True)
        await shows(ann, "ann", "2", "r1", n=1)
        await bob.hears_diff(TOPIC, one("ann", "r1", n=1))
        door.writable = Allowed(broadcast=True)
        for ref in ("2", "3"):
            await bob.track(TOPIC, ref, {"n": 2})
            await other.hears_reply(TOPIC, DENIED, ref, status="error")
        await client.hears_nothing()


@both
async def test_case_72_who_may_not_read_sees_nothing_even_of_what_it_tracks(version: Version) -> None:
    async with (
        guarded() as (server, door),
        opened(server, version) as client,
        opened(server, version) as other,
    ):
        ann = await enter(client, "ann", private=True)
        door.allowed = Allowed(broadcast=True)
        await other.join(TOPIC, config("bob", private=True))
        await Watcher(other).track(TOPIC, "2", {"n": 2})
        await other.hears_reply(TOPIC, {}, "2")
        await ann.hears_diff(TOPIC, one("bob", "r1", n=2))
        await other.hears_nothing()


@both
async def test_case_73_a_policy_of_presence_alone_lets_a_client_in_and_see_presence_only(
    version: Version,
) -> None:
    async with (
        guarded() as (server, door),
        opened(server, version) as client,
        opened(server, version) as other,
    ):
        ann = await enter(client, "ann", private=True)
        door.allowed = Allowed(presence=True)
        bob = await enter(other, "bob", private=True)
        await client.say(TOPIC, "broadcast", {"event": "e"}, "2")
        await client.hears_nothing()
        await other.hears_nothing()
        door.writable = Allowed(broadcast=True)
        await bob.track(TOPIC, "2", {})
        await other.hears_reply(TOPIC, DENIED, "2", status="error")
        await shows(ann, "ann", "3", "r1", n=1)
        await bob.hears_diff(TOPIC, one("ann", "r1", n=1))


@both
async def test_case_74_a_socket_that_drops_and_a_channel_that_leaves_are_seen_to_leave(
    version: Version,
) -> None:
    async with running() as server, opened(server, version) as watching:
        bob = await enter(watching, "bob")
        async with opened(server, version) as client:
            ann = await enter(client, "ann")
            await shows(ann, "ann", "2", "r1", n=1)
            await bob.hears_diff(TOPIC, one("ann", "r1", n=1))
            client.connection.transport.abort()
            await bob.hears_diff(TOPIC, None, one("ann", "r1", n=1))
        async with opened(server, version) as client:
            ann = await enter(client, "ann")
            await shows(ann, "ann", "2", "r1", n=2)
            await bob.hears_diff(TOPIC, one("ann", "r2", n=2))
            await client.say(TOPIC, "phx_leave", {}, "3")
            await client.hears_reply(TOPIC, {}, "3")
            await client.hears(TOPIC, "phx_close", {}, "11")
            await bob.hears_diff(TOPIC, None, one("ann", "r2", n=2))
            await client.hears_nothing()


@both
async def test_case_75_an_unknown_event_is_refused_and_a_server_may_enable_presence(version: Version) -> None:
    limits = Limits(presence_enabled=True)
    async with running(limits=limits) as server, opened(server, version) as client:
        watcher = await enter(client, "ann", enabled=False)
        await watcher.track(TOPIC, "2", {}, event="dance")
        await client.hears_reply(TOPIC, {}, "2", status="error")
        await shows(watcher, "ann", "3", "r1", n=1)


@both
async def test_who_joins_late_is_told_who_is_there_and_what_they_were_before(version: Version) -> None:
    async with running() as server, opened(server, version) as client, opened(server, version) as late:
        ann = await enter(client, "k")
        await shows(ann, "k", "2", "r1", n=1)
        await ann.track(TOPIC, "3", {"n": 2})
        await client.hears_reply(TOPIC, {}, "3")
        now = {"phx_ref": "r2", "phx_ref_prev": "r1", "n": 2}
        await ann.hears_diff(TOPIC, {"k": [now]}, one("k", "r1", n=1))
        bob = Watcher(late)
        await late.join(TOPIC, config("k"))
        ((known,),) = (await bob.heard_state(TOPIC)).values()
        assert (known["n"], set(known)) == (2, {"phx_ref", "phx_ref_prev", "n"})
        await bob.track(TOPIC, "2", {"n": 3})
        await late.hears_reply(TOPIC, {}, "2")
        await ann.hears_diff(TOPIC, one("k", "r3", n=3))


async def test_a_right_to_see_presence_that_a_token_gives_brings_the_state() -> None:
    async with (
        guarded() as (server, door),
        opened(server, Version.V2) as client,
        opened(server, Version.V2) as other,
    ):
        ann = await enter(client, "ann", private=True)
        await shows(ann, "ann", "2", "r1", n=1)
        door.allowed = Allowed(broadcast=True)
        await other.join(TOPIC, config("bob", private=True))
        door.allowed = ALL
        await other.say(TOPIC, "access_token", {"access_token": make_token("authenticated")}, "2")
        await Watcher(other).hears_state(TOPIC, one("ann", "r1", n=1))
