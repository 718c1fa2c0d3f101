"""The original's cases of connections that need settings or a restart, and how many connections there may be.

Each test names its case of the original's own tests, where there is one.
"""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import websockets
from websockets.asyncio.client import connect

from rowcast.model.seats import Seats
from rowcast.protocol.messages import Version
from rowcast.serving.server import bound_port
from support import databases
from support.frames import Client, both, opened, refusal, slow_down
from support.server import Server
from support.serving import PATIENCE, Running, running, serving
from support.tokens import SECRET, make_token

pytestmark = pytest.mark.anyio

JSON = "application/json; charset=utf-8"
CHANGES = {"config": {"postgres_changes": [{"event": "*", "schema": "public", "table": "todos"}]}}
USERS = "ConnectionRateLimitReached: Too many connected users"
NEXT_SECRET = "the-next-secret-of-the-tests-long-enough"
Serve = Callable[..., Awaitable[Server]]


def seat(server: Running, limit: int) -> Seats:
    """Let only so many clients of a server have channels."""
    seats = Seats(limit)
    server.app.state.services = dataclasses.replace(server.app.state.services, seats=seats)
    return seats


@contextlib.asynccontextmanager
async def reached(server: Server, version: Version, secret: str = SECRET) -> AsyncIterator[Client]:
    """A client of the server in a process of its own."""
    address = f"{server.websocket}?apikey={make_token(secret=secret)}&vsn={version}"
    async with connect(address) as connection:
        yield Client(connection, version)


async def get(server: Running, path: str) -> tuple[int, str, str]:
    """Status, content type and body of a plain request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), PATIENCE)).decode().partition("\r\n\r\n")
    writer.close()
    (kind,) = [line for line in head.split("\r\n") if line.startswith("content-type: ")]
    return int(head.split()[1]), kind.removeprefix("content-type: "), body


# One project, for whoever asks


@both
@pytest.mark.parametrize("host", ["unknown.example.com", "realtime-dev.supabase", "127.0.0.1", "localhost"])
async def test_any_host_name_is_served_as_there_is_one_project(version: Version, host: str) -> None:
    """Case 2: the original takes the first part of the name for a project's, and answers 404 for another."""
    async with running() as server:
        path = f"/realtime/v1/websocket?apikey={make_token()}&vsn={version}"
        forwarded = {"X-Forwarded-Host": "another.example.com"}
        address = f"ws://{host}{path}"
        async with connect(
            address, host="127.0.0.1", port=server.port, additional_headers=forwarded
        ) as connection:
            await Client(connection, version).join("realtime:room", {"config": {}})


async def test_a_new_secret_takes_a_restart_that_closes_with_1012_and_lets_its_own_keys_in(
    todos: str, serve: Serve, tmp_path: Path
) -> None:
    """Case 12."""
    old = await serve(todos)
    new = Server(todos, tmp_path / "new.log", {"ROWCAST_JWT_SECRET": NEXT_SECRET})
    new.port = old.port
    async with reached(old, Version.V1) as first, reached(old, Version.V2) as second:
        for client in (first, second):
            await client.join("realtime:room", {"config": {}})
        assert await old.stop() == 0
        assert [await client.close_code() for client in (first, second)] == [1012, 1012]
    try:
        await new.start()
        for version in Version:
            async with reached(new, version, NEXT_SECRET) as client:
                await client.join("realtime:room", {"config": {}})
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with reached(new, version, SECRET):
                    pass
            assert refused.value.response.status_code == 401
            body = json.loads(refused.value.response.body or b"")
            assert body == {"error": "Failed to validate JWT signature"}
    finally:
        await new.end()


@both
async def test_where_all_channels_have_to_be_private_a_public_one_is_refused(
    todos: str, serve: Serve, version: Version
) -> None:
    """Case 27."""
    databases.execute(
        todos,
        "create policy room on realtime.messages for select to anon using (realtime.topic() = 'room')",
    )
    server = await serve(todos, ROWCAST_PRIVATE_ONLY="true")
    async with reached(server, version) as client:
        publics: list[Any] = [{"config": {}}, {"config": {"private": "false"}}, CHANGES, {}]
        for payload in publics:
            await client.is_refused(
                "realtime:room", payload, "PrivateOnly: This project only allows private channels"
            )
        await client.join("realtime:room", {"config": {"private": True}})
        await client.is_refused(
            "realtime:other",
            {"config": {"private": True}},
            "Unauthorized: You do not have permissions to read from this Channel topic: other",
        )
        await client.hears_nothing()


# So many clients, and no more


@both
async def test_more_clients_may_have_channels_once_the_limit_is_raised(
    todos: str, serve: Serve, version: Version
) -> None:
    """Case 25."""
    server = await serve(todos, TENANT_MAX_CONCURRENT_USERS="1")
    async with reached(server, version) as first, reached(server, version) as second:
        await first.join("realtime:a", {"config": {}})
        await second.is_refused("realtime:a", {"config": {}}, USERS)
        await first.join("realtime:b", {"config": {}})
        await second.hears_nothing()
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with reached(server, version):
                pass
        assert refused.value.response.status_code == 429
        assert refused.value.response.body == b'{"error":"Too many connected users"}'
    await server.stop()
    raised = await serve(todos, ROWCAST_MAX_CONNECTIONS="2")
    async with reached(raised, version) as first, reached(raised, version) as second:
        for client in (first, second):
            await client.join("realtime:a", {"config": {}})


@both
async def test_more_channels_of_a_client_may_be_joined_once_the_limit_is_raised(
    todos: str, serve: Serve, version: Version
) -> None:
    """Case 24."""
    server = await serve(todos, ROWCAST_MAX_CHANNELS="1")
    async with reached(server, version) as client:
        await client.join("realtime:a", {"config": {}})
        await client.is_refused("realtime:b", {"config": {}}, "ChannelRateLimitReached: Too many channels")
    await server.stop()
    raised = await serve(todos, ROWCAST_MAX_CHANNELS="2")
    async with reached(raised, version) as client:
        await client.join("realtime:a", {"config": {}})
        await client.join("realtime:b", {"config": {}})


@both
async def test_a_client_that_leaves_makes_room_for_another(version: Version) -> None:
    """Case 25."""
    async with running() as server:
        seat(server, 1)
        async with opened(server, version) as first, opened(server, version) as second:
            await first.join("realtime:a", {"config": {}})
            await second.is_refused("realtime:a", {"config": {}}, USERS)
            await first.say("realtime:a", "phx_leave", {}, "2")
            await first.hears_reply("realtime:a", {}, "2")
            await second.join("realtime:a", {"config": {}})
            await first.hears("realtime:a", "phx_close", {}, "11", "11")
            await first.is_refused("realtime:a", {"config": {}}, USERS)


async def test_a_handshake_is_refused_while_too_many_clients_have_channels() -> None:
    """Case 25, at the handshake, where users are counted after the key was looked at and before joins."""
    async with running() as server:
        seat(server, 1)
        window = slow_down(server, 1)
        async with opened(server, Version.V2) as first:
            async with opened(server, Version.V2) as second:
                await second.hears_nothing()
            await first.join("realtime:a", {"config": {}})
            while window.take(time.time()):
                pass
            for vsn in ("", "&vsn=2.0.0"):
                expected = 429, JSON, '{"error":"Too many connected users"}'
                assert await refusal(server, f"apikey={make_token()}{vsn}") == expected
            assert (await refusal(server, "apikey=garbage"))[0] == 401
            assert (await refusal(server, ""))[2] == '{"error":"API key is missing"}'
            await first.say("realtime:a", "phx_leave", {}, "2")
            await first.hears_reply("realtime:a", {}, "2")
            assert (await refusal(server, f"apikey={make_token()}"))[
                2
            ] == '{"error":"Too many joins per second"}'


@pytest.mark.parametrize("end", ["abort", "close", "joins", "slow", "odd"])
async def test_a_client_makes_room_for_another_however_it_ends(end: str) -> None:
    async with running(lane_limit=1 << 16) as server:
        seats = seat(server, 1)
        for _ in range(2):
            window = slow_down(server, 1)
            server.feed.gone.clear()
            async with opened(server, Version.V2) as client:
                await client.say("realtime:room", "phx_join", CHANGES)
                assert "phx_reply" in await client.hear()
                assert "Subscribed to PostgreSQL" in await client.hear()
                assert seats.taken == 1
                match end:
                    case "abort":
                        client.connection.transport.abort()
                    case "close":
                        await client.connection.close()
                    case "joins":
                        while window.take(time.time()):
                            pass
                        await client.say("realtime:another", "phx_join", {"config": {}})
                    case "slow":
                        (subscriber,) = server.feed.subscribers
                        subscriber.lane.push(bytes(1 << 17))
                    case "odd":
                        client.connection.transport.write(b"\xff" * 64)
                await asyncio.wait_for(server.feed.gone.wait(), PATIENCE)
            assert seats.taken == 0


@pytest.mark.parametrize("end", ["abort", "close"])
async def test_a_client_makes_room_for_another_under_the_server_of_others_too(end: str) -> None:
    async with running() as server:
        seats = seat(server, 1)
        plain = uvicorn.Server(uvicorn.Config(server.app, port=0, log_config=None, lifespan="off"))
        async with serving(plain):
            for _ in range(2):
                server.feed.gone.clear()
                async with connect(f"ws://127.0.0.1:{bound_port(plain)}{server.path}") as connection:
                    client = Client(connection, Version.V2)
                    await client.say("realtime:room", "phx_join", CHANGES)
                    assert "phx_reply" in await client.hear()
                    assert "Subscribed to PostgreSQL" in await client.hear()
                    assert seats.taken == 1
                    if end == "abort":
                        connection.transport.abort()
                    else:
                        await connection.close()
                    await asyncio.wait_for(server.feed.gone.wait(), PATIENCE)
                assert seats.taken == 0


# Plain requests


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_ping_and_a_question_for_health_are_answered(slash: str) -> None:
    async with running() as server:
        for prefix in ("", "/realtime/v1"):
            assert await get(server, f"{prefix}/api/ping{slash}") == (200, JSON, '{"message":"Success"}')
        assert await get(server, f"/healthcheck{slash}") == (200, "text/plain; charset=utf-8", "ok")


@pytest.mark.parametrize("path", ["/realtime/v1/websocket/", "/socket/websocket/"])
async def test_a_slash_after_the_name_of_the_socket_is_no_matter(path: str) -> None:
    async with running() as server:
        address = f"ws://127.0.0.1:{server.port}{path}?apikey={make_token()}&vsn=2.0.0"
        async with connect(address) as connection:
            await Client(connection, Version.V2).join("realtime:room", {"config": {}})
