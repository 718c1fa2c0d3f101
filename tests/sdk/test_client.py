"""The client over real sockets, against a server whose every word the test says."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from rowcast_client import (
    AuthError,
    ChannelState,
    Client,
    ClientClosed,
    ClientState,
    ConnectError,
    JoinError,
    RowcastError,
    TimedOut,
    TokenError,
    UsageError,
)
from rowcast_client.address import websocket_url, with_key

pytestmark = pytest.mark.anyio

Connect = Callable[..., Client]
TODOS = {"event": "*", "schema": "public", "table": "todos"}


async def test_subscribed_is_told_only_after_the_system_message(
    peer: Any, connect: Connect, heard: Any
) -> None:
    channel = connect().channel("todos").on("postgres_changes", TODOS, heard.change).subscribe(heard.status)
    line = await peer.line()
    join = await line.accept(confirm=False)
    await line.insert("realtime:todos", {"id": 1})
    await heard.next_change()
    assert channel.state == "joining"
    assert heard.statuses.empty()
    await line.system(join, "ok", "Subscribed to PostgreSQL")
    assert await heard.next_status() == "SUBSCRIBED"
    assert channel.state == "joined"


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4000])
async def test_it_reconnects_and_joins_again_after_any_close(
    peer: Any, connect: Connect, heard: Any, code: int
) -> None:
    client = connect()
    channel = client.channel("todos").on("postgres_changes", TODOS, heard.change).subscribe(heard.status)
    line = await peer.line()
    await line.accept()
    await channel
    await line.socket.close(code)
    again = await peer.line()
    await again.accept()
    assert [await heard.next_status() for _ in range(3)] == ["SUBSCRIBED", "CHANNEL_ERROR", "SUBSCRIBED"]
    await again.insert("realtime:todos", {"id": 5})
    assert (await heard.next_change()).new == {"id": 5}


async def test_it_reconnects_when_the_server_vanishes_and_comes_back(peer: Any, connect: Connect) -> None:
    failed = asyncio.Event()

    def on_error(error: RowcastError) -> None:
        if error.code == "ConnectionFailed":
            failed.set()

    client = connect(on_error=on_error)
    await client.connect()
    line = await peer.line()
    line.socket.transport.abort()
    await peer.stop()
    async with asyncio.timeout(10):
        await failed.wait()
    await peer.start()
    await client.wait_until("connected", timeout=10)


async def test_a_heartbeat_without_reply_ends_the_connection(peer: Any, connect: Connect, heard: Any) -> None:
    peer.beats = False
    client = connect(heartbeat_interval=0.02, heartbeat_timeout=0.05)
    client.channel("a").subscribe(heard.status)
    line = await peer.line()
    await line.accept()
    peer.beats = True
    assert await heard.next_status() == "SUBSCRIBED"
    status, error = await heard.statuses.get()
    assert (status, error.code if error else None) == ("CHANNEL_ERROR", "HeartbeatTimedOut")
    await (await peer.line()).accept()
    assert await heard.next_status() == "SUBSCRIBED"


async def test_each_connect_and_each_join_asks_for_a_fresh_credential(peer: Any, connect: Connect) -> None:
    keys, tokens = iter(["key-1", "key-2"]), iter(["token-1", "token-2"])

    async def token() -> str:
        return next(tokens)

    channel = connect(lambda: next(keys), token=token).channel("a").subscribe()
    line = await peer.line()
    first = await line.accept()
    await channel
    await line.socket.close(1012)
    second = await (await peer.line()).accept()
    assert peer.keys == ["key-1", "key-2"]
    assert [join[4]["access_token"] for join in (first, second)] == ["token-1", "token-2"]


async def test_a_key_callable_also_gives_the_tokens_of_joins(peer: Any, connect: Connect) -> None:
    connect(lambda: "fresh").channel("a").subscribe()
    assert (await (await peer.line()).accept())[4]["access_token"] == "fresh"


async def test_a_failing_token_callable_is_an_error_without_the_token(peer: Any, connect: Connect) -> None:
    def token() -> str:
        raise ValueError("secret-token")

    channel = connect(token=token).channel("a").subscribe()
    await peer.line()
    with pytest.raises(TokenError, match="raised ValueError") as raised:
        await channel
    assert "secret-token" not in str(raised.value)


@pytest.mark.parametrize(("status", "kind"), [(401, AuthError), (403, AuthError), (404, ConnectError)])
async def test_a_refused_fixed_key_stops_the_client_and_is_raised(
    peer: Any, connect: Connect, status: int, kind: type[RowcastError]
) -> None:
    peer.refusals.append((status, "Token has expired"))
    client = connect()
    with pytest.raises(kind, match="Token has expired"):
        await client.channel("a").subscribe()
    assert client.state is ClientState.CLOSED


async def test_a_refused_key_from_a_callable_is_raised_and_tried_again(peer: Any, connect: Connect) -> None:
    peer.refusals.append((401, "Token has expired"))
    client = connect(lambda: "key")
    with pytest.raises(AuthError):
        await client.connect()
    await peer.line()
    await client.wait_until(ClientState.CONNECTED, timeout=10)


async def test_a_busy_server_is_waited_for(peer: Any, connect: Connect) -> None:
    peer.refusals += [(429, "Too many connected users"), (503, "restarting")]
    await connect().connect(timeout=10)
    assert len(peer.keys) == 3


async def test_a_refused_join_raises_its_reason_and_is_tried_again(
    peer: Any, connect: Connect, heard: Any
) -> None:
    channel = connect().channel("a").subscribe(heard.status)
    line = await peer.line()
    await line.refuse("ChannelRateLimitReached: Too many channels")
    with pytest.raises(JoinError, match="Too many channels") as raised:
        await channel
    await line.accept()
    assert raised.value.code == "ChannelRateLimitReached"
    assert [await heard.next_status() for _ in range(2)] == ["CHANNEL_ERROR", "SUBSCRIBED"]


async def test_a_refused_subscription_is_left_and_joined_again(
    peer: Any, connect: Connect, heard: Any
) -> None:
    connect().channel("todos").on("postgres_changes", TODOS, heard.change).subscribe(heard.status)
    line = await peer.line()
    join = await line.accept(confirm=False)
    await line.system(join, "error", "no such table")
    status, error = await heard.statuses.get()
    assert (status, error.message if error else None) == ("CHANNEL_ERROR", "no such table")
    leave = await line.hear("phx_leave")
    await line.say(leave[0], leave[1], leave[2], "phx_reply", {"status": "ok", "response": {}})
    await line.say(leave[0], leave[0], leave[2], "phx_close", {})
    await line.accept()
    assert await heard.next_status() == "SUBSCRIBED"


async def test_a_channel_that_the_server_ends_is_joined_again_with_its_reason_told(
    peer: Any, connect: Connect, heard: Any
) -> None:
    connect().channel("a").subscribe(heard.status)
    line = await peer.line()
    join = await line.accept()
    await line.system(join, "error", "Token has expired 0 seconds ago", "system")
    await line.say(join[0], join[0], join[2], "phx_close", {})
    await line.accept()
    assert await heard.next_status() == "SUBSCRIBED"
    status, error = await heard.statuses.get()
    assert (status, error.message if error else None) == ("CHANNEL_ERROR", "Token has expired 0 seconds ago")
    assert await heard.next_status() == "SUBSCRIBED"


async def test_a_silent_join_times_out_and_is_tried_again(peer: Any, connect: Connect, heard: Any) -> None:
    channel = connect(join_timeout=0.05).channel("a").subscribe(heard.status)
    line = await peer.line()
    await line.hear("phx_join")
    with pytest.raises(TimedOut):
        await channel
    await line.hear("phx_leave")
    await line.accept()
    assert [await heard.next_status() for _ in range(2)] == ["TIMED_OUT", "SUBSCRIBED"]


async def test_unsubscribe_leaves_and_tells_closed(peer: Any, connect: Connect, heard: Any) -> None:
    client = connect()
    channel = client.channel("realtime:a").subscribe(heard.status)
    line = await peer.line()
    await line.accept()
    await channel
    removing = asyncio.ensure_future(client.remove_all_channels())
    leave = await line.hear("phx_leave")
    assert channel.state is ChannelState.LEAVING
    await line.say(leave[0], leave[1], leave[2], "phx_reply", {"status": "ok", "response": {}})
    await removing
    assert [await heard.next_status() for _ in range(2)] == ["SUBSCRIBED", "CLOSED"]
    assert client.channels == {}
    assert client.state is ClientState.CONNECTED


async def test_closing_the_client_closes_channels_and_does_not_reconnect(
    peer: Any, connect: Connect, heard: Any
) -> None:
    async with connect() as client:
        channel = client.channel("a").subscribe(heard.status)
        line = await peer.line()
        await line.accept()
        await channel
    async with asyncio.timeout(10):
        await line.ended.wait()
    assert line.socket.protocol.close_code == 1000
    assert [await heard.next_status() for _ in range(2)] == ["SUBSCRIBED", "CLOSED"]
    assert client.state is ClientState.CLOSED
    with pytest.raises(ClientClosed):
        client.channel("a").subscribe()


async def test_whoever_waits_is_told_when_the_client_closes(peer: Any, connect: Connect) -> None:
    client = connect()
    waiting = asyncio.ensure_future(client.channel("a").subscribe()._subscribed())
    await (await peer.line()).hear("phx_join")
    await client.close()
    with pytest.raises(ClientClosed):
        await waiting


async def test_frames_that_mean_nothing_are_reported_and_survived(
    peer: Any, connect: Connect, heard: Any
) -> None:
    faults: list[RowcastError] = []
    client = connect(on_error=faults.append)
    channel = client.channel("todos").on("postgres_changes", TODOS, heard.change).subscribe()
    line = await peer.line()
    await line.accept()
    await channel
    await line.socket.send("{")
    await line.socket.send(json.dumps([None, None, "realtime:todos", "postgres_changes", {"ids": "?"}]))
    await line.socket.send(b"\x04binary")
    await line.insert("realtime:todos", {"id": 1}, columns=5)
    await line.insert("realtime:todos", {"id": 2})
    assert (await heard.next_change()).new == {"id": 2}
    assert {fault.code for fault in faults} == {"ProtocolViolation"}


async def test_the_key_is_in_no_log(peer: Any, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    peer.refusals.append((500, "no"))
    client = connect("very-secret-key", token="very-secret-token")
    channel = client.channel("a").subscribe()
    await (await peer.line()).accept()
    await channel
    ours = [record for record in caplog.records if not record.name.startswith("websockets.server")]
    assert ours
    assert all("very-secret" not in record.getMessage() for record in ours)


async def test_wrong_uses_are_refused_where_they_are_made(connect: Connect) -> None:
    channel = connect().channel("a")
    wrong: list[Callable[[], object]] = [
        lambda: channel.on("postgres_changes", {"table": "t"}, lambda: None),  # type: ignore[call-overload]
        lambda: channel.on("postgres_changes", {"tabel": "t"}, print),
        lambda: channel.on("postgres_changes", {"event": "UPSERT", "table": "t"}, print),
        lambda: channel.on("postgres_changes", {"event": "*"}, print),
        lambda: channel.on("postgres_changes", TODOS, print, table="t"),  # type: ignore[call-overload]
        lambda: channel.on("postgres_changes", TODOS, print, print),  # type: ignore[call-overload]
        lambda: channel.on("system", print, table="t"),  # type: ignore[call-overload]
        lambda: channel.on("nothing", print),  # type: ignore[call-overload]
        lambda: channel.on("presence", print, event="gone"),  # type: ignore[call-overload]
        lambda: channel.on("presence", {"event": 5}, print),  # type: ignore[call-overload]
        lambda: channel.on("broadcast", {"name": "e"}, print),  # type: ignore[call-overload]
        lambda: channel.on("broadcast", print, table="t"),  # type: ignore[call-overload]
        lambda: channel.subscribe(lambda: None),  # type: ignore[arg-type]
        lambda: Client("ftp://host", "k"),
        lambda: Client("http://host", "k", buffer=0),
        lambda: connect(on_error=asyncio.sleep),
        lambda: connect().channel(""),
    ]
    for use in wrong:
        with pytest.raises(UsageError):
            use()
    with pytest.raises(UsageError, match="call subscribe"):
        await channel


async def test_the_url_may_be_given_in_every_usual_form() -> None:
    for url in (
        "http://h:1",
        "ws://h:1/",
        "http://h:1/realtime/v1",
        "http://h:1/realtime/v1/websocket?apikey=x",
    ):
        assert websocket_url(url) == "ws://h:1/realtime/v1/websocket"
    assert websocket_url("https://h/socket") == "wss://h/socket/websocket"
    assert with_key("ws://h/websocket?a=1", "k&y") == "ws://h/websocket?a=1&apikey=k%26y&vsn=2.0.0"


@pytest.mark.parametrize("answer", ["", None, 5])
async def test_a_callable_that_gives_no_text_is_an_error(peer: Any, connect: Connect, answer: Any) -> None:
    with pytest.raises(TokenError):
        await connect(lambda: answer).connect()


async def test_an_unreachable_server_is_a_timeout_that_says_why(connect: Connect) -> None:
    channel = connect(url="http://127.0.0.1:1").channel("a")
    with pytest.raises(TimedOut) as raised:
        await channel.subscribe(timeout=0.05)
    assert isinstance(raised.value.__cause__, ConnectError)


def test_outside_a_coroutine_the_fault_is_named() -> None:
    with pytest.raises(UsageError, match="no running event loop"):
        Client("http://host", "k").channel("a").subscribe()


async def test_a_stopped_client_says_why_to_whoever_asks_later(peer: Any, connect: Connect) -> None:
    peer.refusals.append((401, "Token has expired"))
    client = connect()
    channel = client.channel("a").subscribe()
    with pytest.raises(AuthError, match="Token has expired"):
        await client.wait_until(ClientState.CLOSED, timeout=10)
    for later in (client.wait_until(ClientState.CONNECTED, timeout=10), channel):
        with pytest.raises(AuthError, match="Token has expired"):
            await later
    for name in ("a", "b"):
        with pytest.raises(AuthError, match="Token has expired"):
            client.channel(name).subscribe()
    await client.connect(timeout=10)
    await (await peer.line()).accept()
    assert await channel.subscribe() is channel


async def test_a_refusal_after_the_first_connection_ends_no_wait_for_the_end(
    peer: Any, connect: Connect
) -> None:
    faults: list[RowcastError] = []
    client = connect(on_error=faults.append)
    await client.connect(timeout=10)
    ended = asyncio.ensure_future(client.wait_until("closed"))
    peer.refusals += [(404, "starting"), (401, "starting")]
    await (await peer.line()).socket.close()
    await peer.line()
    await client.wait_until("connected", timeout=10)
    assert [fault.code for fault in faults] == ["ConnectionLost", "NotFound", "Unauthorized"]
    assert not ended.done()
    await client.close()
    await ended


async def test_a_refused_channel_that_nobody_awaits_is_reported(
    peer: Any, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[RowcastError] = []
    connect(on_error=faults.append).channel("a").subscribe()
    line = await peer.line()
    await line.refuse("ChannelRateLimitReached: Too many channels")
    await line.accept()
    assert [fault.code for fault in faults] == ["ChannelRateLimitReached"]
    assert "Too many channels" in caplog.text
