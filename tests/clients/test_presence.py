"""Presence among the official clients: each sees each of the others come, change and go."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from rowcast.session.admission import Limits
from support import databases
from support.official import OFFICIAL, Driven, drive
from support.server import Server
from support.serving import running
from support.tokens import make_token

NAMES = ("ann", "bob", "cleo", "dan")


@contextlib.asynccontextmanager
async def everybody() -> AsyncIterator[dict[str, Driven]]:
    """One of each official client, by name, on one channel."""
    # Older clients do not say that they want presence.
    limits = Limits(presence_enabled=True)
    async with running(limits=limits) as server, contextlib.AsyncExitStack() as stack:
        found = {}
        for name, official in zip(NAMES, OFFICIAL, strict=True):
            client = found[name] = await stack.enter_async_context(drive(official))
            await client.connect(f"http://127.0.0.1:{server.port}", make_token())
            await client.tell("subscribe", channel="room", presence={"key": name})
            await client.event("status", channel="room", status="SUBSCRIBED")
            assert await synced(client) == {}
        yield found


async def synced(client: Driven) -> dict[str, list[dict[str, Any]]]:
    """The state that a client tells of next, without references."""
    state: Mapping[str, list[dict[str, Any]]] = (await client.event("sync", channel="room"))["state"]
    assert all(meta.pop("presence_ref") for metas in state.values() for meta in metas)
    return dict(state)


async def test_every_client_sees_every_other_come_change_and_go() -> None:
    async with everybody() as clients:
        there: dict[str, list[dict[str, Any]]] = {}

        async def all_see(event: str, key: str) -> None:
            for client in clients.values():
                assert await synced(client) == there
                await client.event(event, channel="room", key=key)

        for name, client in clients.items():
            there[name] = [{"n": 1, "who": name}]
            await client.tell("track", channel="room", payload={"n": 1, "who": name})
            assert (await client.event("tracked"))["result"] == "ok"
            await all_see("join", name)
        for name, client in clients.items():
            there[name] = [{"n": 2}]
            await client.tell("track", channel="room", payload={"n": 2})
            await all_see("join", name)
        assert not [event for client in clients.values() for event in client.seen if event["event"] == "join"]
        await clients["ann"].tell("untrack", channel="room")
        del there["ann"]
        await all_see("leave", "ann")
        bob = clients.pop("bob")
        bob.process.kill()
        del there["bob"]
        await all_see("leave", "bob")


async def test_policies_say_who_tracks_and_who_sees_and_settings_how_often(
    todos: str, serve: Callable[..., Awaitable[Server]]
) -> None:
    databases.execute(
        todos,
        """create policy sees on realtime.messages for select to authenticated using (extension = 'presence');
        create policy tracks on realtime.messages for insert to authenticated
        with check (extension = 'presence' and auth.jwt() ->> 'sub' = 'ann')""",
    )
    server = await serve(todos, CLIENT_PRESENCE_MAX_CALLS="1", CLIENT_PRESENCE_WINDOW_MS="60000")
    async with drive(OFFICIAL[-1]) as ann, drive(OFFICIAL[0]) as bob:
        for client, name in ((ann, "ann"), (bob, "bob")):
            await client.connect(server.url, server.token("authenticated", sub=name))
            await client.tell("subscribe", channel="room", presence={"key": name}, private=True)
            await client.event("status", channel="room", status="SUBSCRIBED")
            assert await synced(client) == {}
        await bob.tell("track", channel="room", payload={"n": 1})
        assert (await bob.event("tracked"))["result"] == "error"
        await ann.tell("track", channel="room", payload={"n": 2})
        for client in (ann, bob):
            assert await synced(client) == {"ann": [{"n": 2}]}
        await ann.tell("track", channel="room", payload={"n": 3})
        status = await ann.event("status", channel="room", status="CHANNEL_ERROR")
        assert "Client presence rate limit exceeded" in status["error"]
        assert await synced(bob) == {}
