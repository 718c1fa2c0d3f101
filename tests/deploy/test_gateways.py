"""Behind nginx and behind Caddy, with TLS and what docs/deploy.md prints: as without them."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rowcast.settings import Settings
from rowcast.units import parse_duration
from rowcast_client import Change, RetryPolicy, create_client
from support.gateways import Caddy, Certificate, Gateway, Nginx
from support.official import OFFICIAL, Official, binding, drive, rows
from support.server import Server

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
SOON = RetryPolicy(first=0.02, cap=0.1)
HEARTBEAT = '[null,"9","phoenix","heartbeat",{}]'


@pytest.fixture
async def db(server: Server) -> Any:
    """A connection that writes."""
    connection = await asyncpg.connect(server.database)
    yield connection
    await connection.close()


async def take(changes: "asyncio.Queue[Change]") -> Change:
    async with asyncio.timeout(30):
        return await changes.get()


def dial(gateway: Gateway, token: str) -> connect:
    """A bare socket through the gateway."""
    address = f"{gateway.websocket}?vsn=2.0.0&apikey={token}"
    return connect(address, ssl=gateway.certificate.trusted(), max_size=None)


async def refusal(gateway: Gateway, token: str) -> int:
    """The status that a handshake is refused with."""
    with pytest.raises(InvalidStatus) as refused:
        async with asyncio.timeout(30), dial(gateway, token):
            pass
    return refused.value.response.status_code


async def answer(socket: ClientConnection, frame: str) -> str:
    async with asyncio.timeout(30):
        await socket.send(frame)
        return str(await socket.recv())


async def ended(socket: ClientConnection) -> int:
    """The code that the socket is closed with; 1006 for none."""
    async with asyncio.timeout(30):
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    return closed.value.rcvd.code if closed.value.rcvd else 1006


@pytest.mark.parametrize("scheme", ["https", "wss"])
async def test_our_client_hears_a_change(
    gateway: Gateway, server: Server, db: asyncpg.Connection, scheme: str
) -> None:
    changes: asyncio.Queue[Change] = asyncio.Queue()
    url = f"{scheme}://localhost:{gateway.port}"
    async with create_client(url, server.token(), ssl=gateway.certificate.trusted()) as client:
        await client.channel("todos").on("postgres_changes", changes.put, table="todos").subscribe()
        await db.execute("insert into todos values (1, 'water the plants')")
        assert (await take(changes)).new["task"] == "water the plants"


@pytest.mark.parametrize("official", OFFICIAL, ids=lambda official: official.name)
async def test_the_official_clients_hear_a_change(
    gateway: Gateway,
    server: Server,
    db: asyncpg.Connection,
    official: Official,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"):
        monkeypatch.setenv(variable, str(gateway.certificate.chain))
    async with drive(official) as client:
        await client.connect(gateway.url, server.token())
        await client.subscribe("room", binding())
        await db.execute("insert into todos values (1, 'a')")
        assert [new["id"] for _, new, _ in rows(await client.changes("room", 1))] == [1]


async def test_no_log_holds_a_token_whatever_becomes_of_the_handshake(
    gateway: Gateway, server: Server
) -> None:
    good, wrong = server.token(), "a-wrong-token"
    async with dial(gateway, good) as socket:
        assert "phx_reply" in await answer(socket, HEARTBEAT)
    assert await refusal(gateway, wrong) == 401
    await server.stop()
    assert await refusal(gateway, good) == 502
    await gateway.stop()
    logged = gateway.logged()
    assert "/realtime/v1/websocket" in logged
    assert "502" in logged
    for secret in (good.rpartition(".")[2], wrong):
        assert secret not in logged


async def test_nginx_leads_plain_http_to_tls_and_logs_nothing_of_it(nginx: Nginx, server: Server) -> None:
    target = f"/realtime/v1/websocket?apikey={server.token()}"
    reader, writer = await asyncio.open_connection("127.0.0.1", nginx.plain)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answered = (await asyncio.wait_for(reader.read(), 30)).decode()
    writer.close()
    assert answered.startswith("HTTP/1.1 301 ")
    assert f"Location: https://localhost{target}\r\n" in answered
    await nginx.stop()
    assert target not in nginx.logged()


async def test_a_change_of_a_megabyte_and_a_message_of_four_pass(
    gateway: Gateway, server: Server, db: asyncpg.Connection
) -> None:
    changes: asyncio.Queue[Change] = asyncio.Queue()
    async with create_client(gateway.url, server.token(), ssl=gateway.certificate.trusted()) as client:
        await client.channel("todos").on("postgres_changes", changes.put, table="todos").subscribe()
        await db.execute("insert into todos values (1, repeat('x', 1000000))")
        assert (await take(changes)).new["task"] == "x" * 1_000_000
    async with dial(gateway, server.token()) as socket:
        large = HEARTBEAT.replace("{}", f'{{"padding":"{"x" * 4_000_000}"}}')
        assert '"ok"' in await answer(socket, large)


async def test_a_silent_socket_is_the_servers_to_close(
    todos: str,
    serve: Callable[..., Awaitable[Server]],
    tmp_path: Path,
    certificate: Certificate,
) -> None:
    server = await serve(todos, ROWCAST_IDLE_TIMEOUT="1s")
    for kind in (Nginx, Caddy):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        gateway = kind(folder, certificate, server.port)
        gateway.configure(gateway.document())
        await gateway.start()
        try:
            async with dial(gateway, server.token()) as socket:
                assert await ended(socket) == 1000
        finally:
            await gateway.stop()


async def test_nginx_cuts_a_silent_socket_only_after_a_time_that_the_document_makes_long(
    nginx: Nginx, server: Server
) -> None:
    text = nginx.document()
    times = dict(re.findall(r"proxy_(read|send)_timeout (\w+);", text))
    assert set(times) == {"read", "send"}
    idle = Settings.model_fields["idle_timeout"].default
    assert min(map(parse_duration, times.values())) > 2 * idle
    nginx.configure(text.replace(f"proxy_read_timeout {times['read']}", "proxy_read_timeout 1s"))
    await nginx.stop()
    await nginx.start()
    async with dial(nginx, server.token()) as socket:
        assert await ended(socket) == 1006


async def test_a_reload_of_nginx_leaves_open_sockets_alone(nginx: Nginx, server: Server) -> None:
    async with dial(nginx, server.token()) as before:
        await answer(before, HEARTBEAT)
        await nginx.reload()
        async with dial(nginx, server.token()) as after:
            assert "phx_reply" in await answer(after, HEARTBEAT)
            assert "phx_reply" in await answer(before, HEARTBEAT)


@pytest.mark.parametrize("what", ["the gateway restarts", "the gateway reloads", "the server restarts"])
async def test_changes_go_on_when(
    gateway: Gateway, server: Server, db: asyncpg.Connection, what: str
) -> None:
    changes: asyncio.Queue[Change] = asyncio.Queue()
    trusted = gateway.certificate.trusted()
    async with create_client(gateway.url, server.token(), ssl=trusted, retry=SOON) as client:
        channel = client.channel("todos").on("postgres_changes", changes.put, table="todos")
        await channel.subscribe()
        match what:
            case "the gateway restarts":
                await gateway.stop()
                await client.wait_until("reconnecting", timeout=30)
                await gateway.start()
            case "the gateway reloads":
                await gateway.reload()
            case _:
                await server.stop()
                await client.wait_until("reconnecting", timeout=30)
                await server.start()
        await channel.subscribe()
        await db.execute("insert into todos values (1, 'after')")
        assert (await take(changes)).new["task"] == "after"


async def test_two_servers_of_one_database_share_the_clients_and_one_may_stop(
    nginx: Nginx,
    server: Server,
    serve: Callable[..., Awaitable[Server]],
    db: asyncpg.Connection,
) -> None:
    other = await serve(server.database)
    line = "server 127.0.0.1:4000;"
    nginx.configure(nginx.document().replace(line, f"{line} server 127.0.0.1:{other.port};"))
    await nginx.stop()
    await nginx.start()
    changes: asyncio.Queue[Change] = asyncio.Queue()
    trusted = nginx.certificate.trusted()
    async with (
        create_client(nginx.url, server.token(), ssl=trusted, retry=SOON) as one,
        create_client(nginx.url, server.token(), ssl=trusted, retry=SOON) as two,
    ):
        channels = [
            client.channel("todos").on("postgres_changes", changes.put, table="todos")
            for client in (one, two)
        ]
        for channel in channels:
            await channel.subscribe()
        await db.execute("insert into todos values (1, 'to both')")
        assert [(await take(changes)).new["id"] for _ in channels] == [1, 1]
        # nginx gave each server one of them.
        cut = [asyncio.ensure_future(client.wait_until("reconnecting", timeout=30)) for client in (one, two)]
        await server.stop()
        await asyncio.wait(cut, return_when=asyncio.FIRST_COMPLETED)
        assert sum(waiter.done() for waiter in cut) == 1
        for waiter in cut:
            waiter.cancel()
        for channel in channels:
            await channel.subscribe()
        await db.execute("insert into todos values (2, 'to both, from the other')")
        assert [(await take(changes)).new["id"] for _ in channels] == [2, 2]


def test_the_document_prints_the_file_that_compose_gives_to_caddy() -> None:
    assert Caddy.document() == (ROOT / "deploy" / "Caddyfile").read_text()
