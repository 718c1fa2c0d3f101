"""Who is told that the database is away, and that it is back: channels that asked for it, and no other."""

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from rowcast.model.health import Health
from rowcast.session.channel import AWAY, BACK
from support.serving import PATIENCE, Running, running

pytestmark = pytest.mark.anyio


async def join(client: ClientConnection, topic: str, **config: Any) -> None:
    payload = {"config": {"postgres_changes": [{"event": "*", "table": "todos"}], **config}}
    await client.send(json.dumps(["1", "1", topic, "phx_join", payload]))


async def system(client: ClientConnection) -> tuple[str, str, str]:
    """The next ``system`` message that is not about a subscription: topic, status and text."""
    async with asyncio.timeout(PATIENCE):
        while True:
            *_, topic, event, payload = json.loads(await client.recv())
            if event == "system" and payload["extension"] == "system":
                return topic, payload["status"], payload["message"]


async def subscribed(client: ClientConnection) -> None:
    async with asyncio.timeout(PATIENCE):
        while "Subscribed" not in str(await client.recv()):
            pass


def health(running: Running) -> Health:
    """The server's, as it was found last."""
    found: Health = running.app.state.services.health
    found.look = lambda: found.well
    return found


async def test_a_channel_that_asked_is_told_of_both_and_no_other_is() -> None:
    async with running() as server, connect(server.url) as client:
        await join(client, "realtime:plain")
        await subscribed(client)
        await join(client, "realtime:asked", rowcast={"health": True})
        await subscribed(client)
        for well in (False, False, True, True):
            health(server).found(well=well)
        assert await system(client) == ("realtime:asked", "error", AWAY)
        assert await system(client) == ("realtime:asked", "ok", BACK)
        await client.send(json.dumps([None, "9", "phoenix", "heartbeat", {}]))
        assert json.loads(await client.recv())[2] == "phoenix"


async def test_who_joins_while_it_is_away_is_told_after_the_reply() -> None:
    async with running() as server, connect(server.url) as client:
        health(server).found(well=False)
        await join(client, "realtime:asked", rowcast={"health": True})
        async with asyncio.timeout(PATIENCE):
            events = [json.loads(await client.recv())[3:] for _ in range(3)]
        assert [event for event, _ in events] == ["phx_reply", "system", "system"]
        assert events[1][1]["message"] == AWAY


async def test_nobody_is_told_any_more_once_its_socket_is_gone() -> None:
    async with running() as server:
        async with connect(server.url) as client:
            await join(client, "realtime:asked", rowcast={"health": True})
            await subscribed(client)
        await asyncio.wait_for(server.feed.gone.wait(), PATIENCE)
        health(server).found(well=False)
        async with connect(server.url) as client:
            await join(client, "realtime:again", rowcast={"health": True})
            assert await system(client) == ("realtime:again", "error", AWAY)


async def test_who_joins_once_it_is_back_is_told_nothing_of_it_and_the_others_at_once() -> None:
    async with running() as server, connect(server.url) as first, connect(server.url) as second:
        health(server).found(well=False)
        await join(first, "realtime:first", rowcast={"health": True})
        assert await system(first) == ("realtime:first", "error", AWAY)
        health(server).look = lambda: True
        await join(second, "realtime:second", rowcast={"health": True})
        assert await system(first) == ("realtime:first", "ok", BACK)
        health(server).found(well=False)
        assert await system(second) == ("realtime:second", "error", AWAY)
