"""Tokens refreshed in place, over real sockets to a scripted server."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from rowcast_client import Client, RowcastError, UsageError

pytestmark = pytest.mark.anyio

Connect = Callable[..., Client]
TODOS = {"event": "*", "schema": "public", "table": "todos"}


class Source:
    """A token callable: ``t1``, ``t2``, … or a fault, as the test says."""

    def __init__(self, *faults: int) -> None:
        self.calls = 0
        self._faults = faults

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls in self._faults:
            raise ValueError("no token now")
        return f"t{self.calls}"


async def warn(line: Any, *joins: list[Any], left: float = 30.0) -> None:
    for join in joins:
        payload = {"status": "ok", "message": "m", "extension": "system", "channel": join[2][9:]}
        await line.say(join[0], None, join[2], "system", {**payload, "expires_in": left})


def age(client: Client) -> None:
    """As if the tokens of all channels had been sent an hour ago."""
    for join in client._core.joins.values():
        join._renewal._since -= 3600


async def refreshed(line: Any) -> tuple[str, str]:
    """The next frame, which must be a refresh: its topic and token."""
    frame = await line.hear("access_token")
    return frame[2], frame[4]["access_token"]


async def test_a_client_with_a_callable_asks_to_be_warned_and_one_without_does_not(
    peer: Any, connect: Connect
) -> None:
    for options, asked in (
        ({"token": Source()}, {"token_warning": 60.0}),
        ({"key": lambda: "k", "token_warning": 5}, {"token_warning": 5}),
        ({"token": Source(), "token_warning": 0}, None),
        ({"token": "a text"}, None),
        ({}, None),
    ):
        connect(**options).channel("a").subscribe()
        join = await (await peer.line()).accept()
        assert join[4]["config"].get("rowcast") == asked


async def test_the_channels_that_are_warned_in_one_turn_share_one_call(
    peer: Any, connect: Connect, heard: Any
) -> None:
    source, names = Source(), ["a", "b", "c"]
    client = connect(token=source)
    for name in names:
        client.channel(name).subscribe(heard.status)
    line = await peer.line()
    joins = [await line.accept() for _ in names]
    assert [await heard.next_status() for _ in names] == ["SUBSCRIBED"] * 3
    assert source.calls == 1
    age(client)
    payload = {"status": "ok", "message": "m", "extension": "system", "expires_in": 30.0}
    for join in joins:
        # Not over the socket, where they might come in more than one turn.
        warning = json.dumps([join[0], None, join[2], "system", payload])
        client._apply(client._core.received(1, warning, time.monotonic()))
    assert {await refreshed(line) for _ in names} == {(f"realtime:{name}", "t2") for name in names}
    assert source.calls == 2
    assert heard.statuses.empty()


async def test_a_callable_that_fails_is_called_again_and_the_channel_stays(
    peer: Any, connect: Connect, heard: Any
) -> None:
    faults: list[RowcastError] = []
    source = Source(2, 3)
    client = connect(token=source, on_error=faults.append)
    channel = client.channel("todos").on("postgres_changes", TODOS, heard.change).subscribe(heard.status)
    line = await peer.line()
    join = await line.accept()
    await channel
    age(client)
    await warn(line, join)
    assert await refreshed(line) == ("realtime:todos", "t4")
    assert [fault.code for fault in faults] == ["TokenUnavailable"] * 2
    await line.system(join, "ok", "Subscribed to PostgreSQL")
    await line.insert("realtime:todos", {"id": 1})
    assert (await heard.next_change()).new == {"id": 1}
    assert channel.state == "joined"
    assert await heard.next_status() == "SUBSCRIBED"
    assert heard.statuses.empty()


async def test_without_a_new_token_the_channel_ends_and_is_joined_again(
    peer: Any, connect: Connect, heard: Any
) -> None:
    faults: asyncio.Queue[RowcastError] = asyncio.Queue(10)
    source = Source(2)
    client = connect(token=source, on_error=faults.put_nowait)
    client.channel("a").subscribe(heard.status)
    line = await peer.line()
    join = await line.accept()
    assert await heard.next_status() == "SUBSCRIBED"
    age(client)
    await warn(line, join, left=0.0)
    async with asyncio.timeout(10):
        assert (await faults.get()).code == "TokenUnavailable"
    await line.system(join, "error", "Token has expired 0 seconds ago", "system")
    await line.say(join[0], join[0], join[2], "phx_close", {})
    assert (await line.accept())[4]["access_token"] == "t3"
    assert [await heard.next_status() for _ in range(2)] == ["CHANNEL_ERROR", "SUBSCRIBED"]


async def test_a_token_that_is_set_reaches_every_joined_channel_and_later_joins(
    peer: Any, connect: Connect
) -> None:
    client = connect(token="old")
    one = client.channel("a").subscribe()
    line = await peer.line()
    assert (await line.accept())[4]["access_token"] == "old"
    await one
    client.set_token("new")
    assert await refreshed(line) == ("realtime:a", "new")
    client.set_token("new")
    client.channel("b").subscribe()
    # Nothing came between: the same token again is no news.
    assert (await line.accept())[4]["access_token"] == "new"
    source = Source()
    client.set_token(source)
    assert {await refreshed(line) for _ in "ab"} == {("realtime:a", "t1"), ("realtime:b", "t1")}


async def test_a_token_that_is_set_while_a_callable_is_asked_is_the_one_that_is_sent(
    peer: Any, connect: Connect
) -> None:
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        began.set()
        await goes_on.wait()
        return "of who signed out"

    client = connect(token=slow)
    client.channel("a").subscribe()
    line = await peer.line()
    async with asyncio.timeout(10):
        await began.wait()
    client.set_token("of who signed in")
    goes_on.set()
    assert (await line.accept())[4]["access_token"] == "of who signed in"


async def test_a_token_may_be_set_before_anything_is_connected(peer: Any, connect: Connect) -> None:
    client = connect()
    client.set_token("first")
    client.channel("a").subscribe()
    assert (await (await peer.line()).accept())[4]["access_token"] == "first"


async def test_a_private_channel_is_asked_for_and_is_one_topic_with_its_public_namesake(
    peer: Any, connect: Connect
) -> None:
    client = connect()
    room = client.channel("room", private=True)
    assert client.channel("realtime:room", private=True) is room.subscribe()
    line = await peer.line()
    assert (await line.accept())[4] == {"config": {"postgres_changes": [], "private": True}}
    await room
    with pytest.raises(UsageError, match="'room' has private=True on this client already"):
        client.channel("room")
    removing = asyncio.ensure_future(client.remove_channel(room))
    leave = await line.hear("phx_leave")
    await line.say(leave[0], leave[1], leave[2], "phx_reply", {"status": "ok", "response": {}})
    await removing
    client.channel("room").subscribe()
    assert "private" not in (await line.accept())[4]["config"]
    with pytest.raises(UsageError, match="'room' has private=False on this client already"):
        client.channel("room", private=True)


async def test_wrong_tokens_and_times_are_refused_where_they_are_given(connect: Connect) -> None:
    for wrong in ("", None, 5):
        with pytest.raises(UsageError):
            connect().set_token(wrong)  # type: ignore[arg-type]
    for wrong_time in (-1, float("nan")):
        with pytest.raises(UsageError):
            connect(token_warning=wrong_time)
