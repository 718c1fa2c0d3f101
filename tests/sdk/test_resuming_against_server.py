"""Going on where one was, against the real server and a real Postgres."""

import asyncio
import signal
from functools import partial
from typing import Any

import pytest

from rowcast_client import (
    Change,
    FileStore,
    Gap,
    RetryPolicy,
    Transaction,
    create_client,
)
from support.heard import take, write

pytestmark = pytest.mark.anyio

SOON = RetryPolicy(first=0.02, cap=0.1)


def insert(first: int, last: int) -> str:
    return f"insert into todos (id, task) select n, 'x' from generate_series({first}, {last}) n"


async def test_what_is_written_while_the_server_is_away_is_heard_once(server: Any) -> None:
    changes: asyncio.Queue[Change] = asyncio.Queue(1000)
    async with create_client(server.url, server.token, retry=SOON) as client:
        channel = client.channel("todos").on("postgres_changes", changes.put, table="todos")
        channel.on("postgres_changes", changes.put, table="todos", select=["id"])
        await channel.subscribe()
        await write(server.database, insert(1, 2))
        assert [change.new["id"] for change in await take(changes, 4)] == [1, 1, 2, 2]
        await server.stop(signal.SIGKILL)
        await write(server.database, insert(3, 4))
        await server.start()
        await channel.subscribe()
        await write(server.database, insert(5, 6))
        heard = await take(changes, 8)
        assert sorted(change.new["id"] for change in heard) == [3, 3, 4, 4, 5, 5, 6, 6]
        assert channel.position == heard[-1].position


async def test_a_socket_that_is_cut_again_and_again_loses_and_repeats_nothing(server: Any) -> None:
    heard: dict[str, list[int]] = {"plain": [], "asks": []}
    ends: asyncio.Queue[str] = asyncio.Queue(9)
    # Heartbeats as often as can be: what they say of positions is true at each moment, for each channel.
    client = create_client(server.url, server.token(), retry=SOON, heartbeat_interval=0.005)

    def keep(name: str, change: Change) -> None:
        heard[name].append(change.new["id"])
        if len(heard["plain"]) % 60 == 0 and client._link._socket is not None:
            client._link._socket.transport.abort()
        if heard[name][-1] == 1000:
            ends.put_nowait(name)

    async with client:
        for name, filter_ in (("plain", None), ("asks", "task=like.x%")):
            channel = client.channel(name)
            await channel.on(
                "postgres_changes", partial(keep, name), table="todos", filter=filter_
            ).subscribe()
        for first in range(1, 1000, 50):
            await write(server.database, insert(first, first + 49))
        await take(ends, 2)
    assert heard["plain"] == heard["asks"] == list(range(1, 1001))


async def test_a_store_lets_the_next_client_go_on(server: Any, tmp_path: Any) -> None:
    changes: asyncio.Queue[Change] = asyncio.Queue(1000)
    for first in (1, 11):
        async with create_client(server.url, server.token()) as client:
            channel = client.channel("todos").on("postgres_changes", changes.put, table="todos")
            await channel.subscribe(resume=FileStore(tmp_path))
            await write(server.database, insert(first, first + 4))
            heard = await take(changes, 5 if first == 1 else 10)
        await write(server.database, insert(first + 5, first + 9))
    assert [change.new["id"] for change in heard] == list(range(6, 16))


async def test_a_position_of_no_database_is_a_gap(server: Any) -> None:
    gaps: asyncio.Queue[Gap] = asyncio.Queue(9)
    changes: asyncio.Queue[Change] = asyncio.Queue(9)
    async with create_client(server.url, server.token()) as client:
        channel = client.channel("todos").on("postgres_changes", changes.put, table="todos")
        await channel.on("gap", gaps.put).subscribe(resume="nonsense")
        await write(server.database, insert(1, 1))
        await take(changes, 1)
        (gap,) = await take(gaps, 1)
        assert (gap.reason, gap.from_position) == ("unreadable", "nonsense")
        assert gap.position


async def test_rows_that_leave_a_truncate_and_whole_transactions_are_told(server: Any) -> None:
    changes: asyncio.Queue[Change] = asyncio.Queue(99)
    transactions: asyncio.Queue[Transaction] = asyncio.Queue(9)
    async with create_client(server.url, server.token()) as client:
        channel = client.channel("todos")
        channel.on(
            "postgres_changes", changes.put, table="todos", filter="done=eq.false", leave=True, truncate=True
        )
        await channel.on("transaction", transactions.put).subscribe()
        await write(
            server.database,
            f"{insert(1, 2)}; update todos set done = true where id = 1",
            "truncate todos",
        )
        kinds = ["INSERT", "INSERT", "LEAVE", "TRUNCATE"]
        heard = await take(changes, 4)
        assert [change.eventType for change in heard] == kinds
        assert (heard[2].old, heard[2].new, heard[3].old) == ({"id": 1}, {}, {})
        one, two = await take(transactions, 2)
        assert [change.eventType for change in one.changes + two.changes] == kinds
        assert (len(one.changes), one.last, channel.position) == (3, True, two.position)


async def test_a_transaction_of_many_parts_is_whole_though_it_is_cut_off(todos: str, serve: Any) -> None:
    server = await serve(todos, ROWCAST_MAX_CHANGE="16KB")
    parts: list[Transaction] = []
    done = asyncio.Event()
    client = create_client(server.url, server.token(), retry=SOON)

    def on_part(part: Transaction) -> None:
        parts.append(part)
        if len(parts) in (2, 5) and client._link._socket is not None:
            client._link._socket.transport.abort()
        if part.last:
            done.set()

    async with client:
        await client.channel("todos").on("transaction", {"table": "todos"}, on_part).subscribe()
        await write(server.database, insert(1, 2000))
        async with asyncio.timeout(30):
            await done.wait()
    assert [change.new["id"] for part in parts for change in part.changes] == list(range(1, 2001))
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
