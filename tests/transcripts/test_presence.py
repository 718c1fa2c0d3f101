"""A conversation about presence, and one that goes beyond its limit, as they were seen.

The original sends a channel the diff of its own leave even after its `phx_close`, which no client hears.
"""

import contextlib
from typing import Any

import pytest

from rowcast.protocol.messages import Version
from support.frames import both, opened
from support.presences import Watcher
from support.serving import running

pytestmark = pytest.mark.anyio

TOPIC = "realtime:pr1"
LIMITED = "realtime:pl"


def meta(ref: str, prev: str | None = None, **payload: Any) -> list[dict[str, Any]]:
    return [{"phx_ref": ref, **({} if prev is None else {"phx_ref_prev": prev}), **payload}]


async def join(watcher: Watcher, state: Any, topic: str = TOPIC, **presence: Any) -> None:
    """Join, and hear who is present; or nothing, where that was not asked for."""
    config = {"presence": presence} if presence else {}
    await watcher.client.join(topic, {"config": config}, "1", "1")
    if presence:
        await watcher.hears_state(topic, state, "1")


async def answered(watcher: Watcher, ref: str, response: Any = None, *, ok: bool = True) -> None:
    status = "ok" if ok else "error"
    await watcher.client.hears_reply(TOPIC, response or {}, ref, "1", status=status)


@both
async def test_presence_goes_as_it_was_seen(version: Version) -> None:
    async with running() as server, contextlib.AsyncExitStack() as stack:
        names: dict[str, str] = {}
        a, b, c, d = [
            Watcher(await stack.enter_async_context(opened(server, version)), names) for _ in range(4)
        ]

        async def all_hear(*watchers: Watcher, joins: Any = None, leaves: Any = None) -> None:
            for watcher in watchers:
                await watcher.hears_diff(TOPIC, joins, leaves)

        for watcher in (a, b, c, d):
            watcher.join_ref = "1"
        await join(a, {}, key="ka", enabled=True)
        await join(b, {}, enabled=True)
        await a.track(TOPIC, "2", {"name": "ann", "n": 1})
        await answered(a, "2")
        await all_hear(a, b, joins={"ka": meta("r1", n=1, name="ann")})
        await b.track(TOPIC, "2", {"name": "bob"})
        await answered(b, "2")
        ((uuid, bob),) = (await a.heard_diff(TOPIC))[0].items()
        assert bob == meta("r2", name="bob")
        await all_hear(b, joins={uuid: bob})
        await join(c, None)
        await join(d, {"ka": meta("r1", n=1, name="ann"), uuid: bob}, key="ka", enabled=True)
        await d.track(TOPIC, "2", {"name": "ann2"})
        await answered(d, "2")
        await all_hear(a, b, c, d, joins={"ka": meta("r3", name="ann2")})
        await a.track(TOPIC, "3", {"name": "ann", "n": 2})
        await answered(a, "3")
        later = {"ka": meta("r4", "r1", n=2, name="ann")}
        await all_hear(a, b, c, d, joins=later, leaves={"ka": meta("r1", n=1, name="ann")})
        await a.track(TOPIC, "4", {"name": "ann", "n": 2})
        await answered(a, "4")
        await a.untrack(TOPIC, "5")
        await answered(a, "5")
        await all_hear(a, b, c, d, leaves=later)
        b.client.connection.transport.abort()
        await all_hear(a, c, d, leaves={uuid: bob})
        await d.client.say(TOPIC, "phx_leave", {}, "6", "1")
        await answered(d, "6")
        await d.client.hears(TOPIC, "phx_close", {}, "1", "1")
        await all_hear(a, c, leaves={"ka": meta("r3", name="ann2")})
        await c.track(TOPIC, "2", {"late": True})
        await answered(c, "2")
        ((uuid, late),) = (await c.heard_diff(TOPIC))[0].items()
        assert late == meta("r5", late=True)
        await all_hear(a, joins={uuid: late})
        await c.track(TOPIC, "3", {}, event="dance")
        await answered(c, "3", ok=False)
        await c.track(TOPIC, "4")
        await answered(c, "4")
        await all_hear(a, c, joins={uuid: meta("r6", "r5")}, leaves={uuid: late})
        await c.track(TOPIC, "5", "str")
        await answered(c, "5", {"reason": "Presence track payload must be a map"}, ok=False)
        for watcher in (a, c, d):
            await watcher.client.hears_nothing()


@both
async def test_one_call_too_many_goes_as_it_was_seen(version: Version) -> None:
    async with running() as server, opened(server, version) as client:
        watcher = Watcher(client)
        watcher.join_ref = "1"
        await join(watcher, {}, LIMITED, enabled=True)
        for i in range(5):
            await watcher.track(LIMITED, str(10 + i), {"i": i})
            await client.hears_reply(LIMITED, {}, str(10 + i), "1")
            joins, leaves = await watcher.heard_diff(LIMITED)
            assert [list(one.values()) for one in (joins, leaves)] == [
                [meta(f"r{i + 1}", f"r{i}" if i else None, i=i)],
                [meta(f"r{i}", f"r{i - 1}" if i > 1 else None, i=i - 1)] if i else [],
            ]
        await watcher.track(LIMITED, "15", {"i": 5})
        said = {"message": "Client presence rate limit exceeded", "status": "error"}
        said |= {"extension": "system", "channel": "pl"}
        await client.hears(LIMITED, "system", said, None, "1")
        await client.hears(LIMITED, "phx_close", {}, "1", "1")
        await watcher.track(LIMITED, "16", {"i": 6})
        await client.hears_reply(LIMITED, {"reason": "unmatched topic"}, "16", None, status="error")
