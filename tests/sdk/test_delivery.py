"""Changes on their way to callbacks, over real sockets: order, faults, and slow callbacks."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rowcast_client import (
    CallbackError,
    Change,
    Client,
    RowcastError,
)
from rowcast_client._core.wants import Hear
from rowcast_client.mailbox import MOST_BYTES, Mailbox

pytestmark = pytest.mark.anyio

Connect = Callable[..., Client]
TODOS = {"event": "*", "schema": "public", "table": "todos"}


async def test_a_change_reaches_its_callback_with_python_values(
    peer: Any, connect: Connect, heard: Any
) -> None:
    channel = connect().channel("todos").on("postgres_changes", TODOS, heard.change).subscribe(heard.status)
    line = await peer.line()
    join = await line.accept()
    await channel
    await line.insert("realtime:todos", {"id": 2**60, "task": "milk"}, seq=7, position="p7")
    change = await heard.next_change()
    assert join[4] == {"config": {"postgres_changes": [TODOS], "rowcast": {"gap": True}}}
    assert line.query == {"apikey": ["the-key"], "vsn": ["2.0.0"]}
    assert change["new"] == {"id": 2**60, "task": "milk"}
    assert (change.event_type, change.seq, change.position) == ("INSERT", 7, "p7")
    await line.insert("realtime:todos", {"id": 1}, seq=8, position="p8")
    await heard.next_change()
    # The second is under way in its callback, so of the first all is done.
    assert (channel.seq, channel.position) in [(7, "p7"), (8, "p8")]


async def test_a_frame_of_many_megabytes_arrives(peer: Any, connect: Connect, heard: Any) -> None:
    channel = connect().channel("todos").on("postgres_changes", TODOS, heard.change).subscribe()
    line = await peer.line()
    await line.accept()
    await channel
    await line.insert("realtime:todos", {"task": "x" * 6_000_000})
    assert len((await heard.next_change()).new["task"]) == 6_000_000


async def test_callbacks_run_in_order_and_a_fault_in_one_stops_nothing(
    peer: Any, connect: Connect, heard: Any, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[RowcastError] = []

    async def fails(change: Change) -> None:
        raise ValueError(f"secret {change.new}")

    channel = connect(on_error=faults.append).channel("todos")
    channel.on("postgres_changes", fails, table="todos").on("postgres_changes", heard.change, table="todos")
    channel.subscribe()
    line = await peer.line()
    join = await line.accept()
    await channel
    for number in range(50):
        await line.insert("realtime:todos", {"id": number})
    assert [(await heard.next_change()).new["id"] for _ in range(50)] == list(range(50))
    assert len(join[4]["config"]["postgres_changes"]) == 1
    assert len(faults) == 50
    assert isinstance(faults[0], CallbackError)
    assert isinstance(faults[0].__cause__, ValueError)
    assert "secret" not in caplog.text
    assert "the-key" not in caplog.text
    assert "test_delivery.py, line" in caplog.text


async def test_a_full_mailbox_holds_the_reader_and_loses_nothing(
    peer: Any, connect: Connect, heard: Any
) -> None:
    gate = asyncio.Event()

    async def slow(change: Change) -> None:
        await gate.wait()
        heard.change(change)

    client = connect(buffer=3, heartbeat_interval=0.02, heartbeat_timeout=0.05)
    channel = client.channel("todos").on("postgres_changes", slow, table="todos").subscribe(heard.status)
    line = await peer.line()
    await line.accept()
    await channel
    for number in range(100):
        await line.insert("realtime:todos", {"id": number})
    while not line.heartbeats.empty():
        line.heartbeats.get_nowait()
    for _ in range(10):  # many times the heartbeat's timeout: the silence is ours, not the server's
        await line.heartbeats.get()
    gate.set()
    assert [(await heard.next_change()).new["id"] for _ in range(100)] == list(range(100))
    assert heard.statuses.qsize() == 1


async def test_a_callback_may_await_the_client_even_with_a_full_mailbox(
    peer: Any, connect: Connect, heard: Any
) -> None:
    client = connect(buffer=1)
    joined = asyncio.Event()

    async def joins(change: Change) -> None:
        if not joined.is_set():
            await client.channel("other").subscribe()
            await client.remove_channel(client.channel("other"))
            joined.set()
        heard.change(change)

    channel = client.channel("todos").on("postgres_changes", joins, table="todos").subscribe()
    line = await peer.line()
    await line.accept()
    await channel
    for number in range(20):
        await line.insert("realtime:todos", {"id": number})
    await line.accept()
    leave = await line.hear("phx_leave")
    await line.say(leave[0], leave[1], leave[2], "phx_reply", {"status": "ok", "response": {}})
    assert [(await heard.next_change()).new["id"] for _ in range(20)] == list(range(20))


async def test_what_waits_is_bounded_also_while_an_answer_is_awaited() -> None:
    lifted = False
    mailbox = Mailbox(2, lambda: lifted)
    for _ in range(2):
        mailbox.put(Hear("a", "e", b""))
    assert mailbox.full
    lifted = True
    assert not mailbox.full
    mailbox.put(Hear("a", "e", bytes(MOST_BYTES)))
    assert mailbox.full


async def test_a_callback_may_close_the_client(peer: Any, connect: Connect) -> None:
    client = connect()
    done = asyncio.Event()

    async def closes(change: Change) -> None:
        await client.close()
        done.set()

    channel = client.channel("todos").on("postgres_changes", closes, table="todos").subscribe()
    line = await peer.line()
    await line.accept()
    await channel
    await line.insert("realtime:todos", {"id": 1})
    async with asyncio.timeout(10):
        await done.wait()


async def test_closing_does_not_wait_for_room_in_a_full_mailbox(peer: Any, connect: Connect) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def stuck(change: Change) -> None:
        started.set()
        await ended.wait()

    client = connect(buffer=1)
    channel = client.channel("todos").on("postgres_changes", stuck, table="todos").subscribe()
    line = await peer.line()
    await line.accept()
    await channel
    for number in range(10):
        await line.insert("realtime:todos", {"id": number})
    async with asyncio.timeout(10):
        await started.wait()
        closing = asyncio.ensure_future(client.close())
        await client.wait_until("closed")
        ended.set()
        await closing
    assert channel.state == "closed"


async def test_a_callback_that_awaits_a_cancelled_task_stops_nothing(
    peer: Any, connect: Connect, heard: Any
) -> None:
    faults: list[RowcastError] = []

    async def cancelled(change: Change) -> None:
        gone = asyncio.ensure_future(asyncio.Event().wait())
        gone.cancel()
        await gone

    channel = connect(on_error=faults.append, buffer=3).channel("todos")
    channel.on("postgres_changes", cancelled, table="todos")
    channel.on("postgres_changes", heard.change, table="todos").subscribe()
    line = await peer.line()
    await line.accept()
    await channel
    for number in range(20):
        await line.insert("realtime:todos", {"id": number})
    assert [(await heard.next_change()).new["id"] for _ in range(20)] == list(range(20))
    assert len(faults) == 20
