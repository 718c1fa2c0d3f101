"""Rows that are kept as they change, against the real server and a real Postgres."""

import asyncio
import random
from typing import Any

import asyncpg
import pytest

from rowcast_client import (
    Change,
    Gap,
    GapError,
    JoinError,
    RetryPolicy,
    RowcastError,
    RowChanges,
    Snapshot,
    create_client,
)
from support.tokens import make_token

pytestmark = pytest.mark.anyio

SOON = RetryPolicy(first=0.02, cap=0.1)

# What takes rows into the filter and out of it, moves keys, empties the table, and does several at once.
WRITES = [
    "insert into todos select n, 'a' from generate_series($1::int, $1 + 4) n on conflict do nothing",
    "update todos set done = not done where id % 3 = $1 % 3",
    "update todos set task = task || $1::int where id between $1 and $1 + 5",
    "update todos set id = id + 1000 where id = $1 and not exists (select from todos where id = $1 + 1000)",
    "delete from todos where id between $1 and $1 + 2",
]


async def write(connection: asyncpg.Connection, dice: random.Random) -> None:
    async with connection.transaction():
        for _ in range(dice.randint(1, 3)):
            await connection.execute(dice.choice(WRITES), dice.randint(1, 30))
        if dice.random() < 0.05:
            await connection.execute("truncate todos")


async def fold(changes: RowChanges, into: dict[Any, Any], until: int) -> None:
    async for change in changes:
        assert into.get(change.key) == change.old
        into.pop(change.key, None)
        if change.new is not None:
            into[change.key] = change.new
        if change.key == until:
            return


@pytest.mark.parametrize("visible", ["true", "task not like '%5%'"])
async def test_rows_are_what_the_role_sees_of_the_table_through_cuts(server: Any, visible: str) -> None:
    dice = random.Random(7)
    connection = await asyncpg.connect(server.database)
    if visible != "true":
        await connection.execute(
            "alter table todos enable row level security;"
            f"create policy seen on todos for select to anon using ({visible})"
        )
    faults: list[RowcastError] = []
    client = create_client(server.url, server.token(), retry=SOON, on_error=faults.append)
    try:
        for _ in range(20):
            await write(connection, dice)
        channel = client.channel("board")
        rows = channel.rows("todos")
        undone = channel.rows("todos", filter="done=eq.false", select=["task"])
        folded: dict[Any, Any] = {}
        following = asyncio.ensure_future(fold(rows.__aiter__(), folded, 5000))
        await channel.subscribe()
        await rows.ready()
        for number in range(120):
            await write(connection, dice)
            if number % 20 == 10:
                await channel.subscribe()
                assert client._link._socket is not None
                client._link._socket.transport.abort()
                await client.wait_until("reconnecting")
            if number in (50, 90):  # it is told of a gap, and rows are taken anew
                client._core.joins[channel.topic].place.position = "nonsense"
        await connection.execute("insert into todos values (5000, 'last', false)")
        async with asyncio.timeout(30):
            await following
        seen = await connection.fetch(f"select * from todos where {visible}")
        table = {row["id"]: dict(row) for row in seen}
        assert rows == folded == table
        assert [fault.gap.reason for fault in faults if isinstance(fault, GapError)] == ["unreadable"] * 2
        some = {id_: {"id": id_, "task": row["task"]} for id_, row in table.items() if not row["done"]}
        assert undone == some
    finally:
        await client.close()
        await connection.close()


async def test_a_snapshot_comes_before_the_changes_and_again_after_a_gap(server: Any) -> None:
    batches: asyncio.Queue[Snapshot] = asyncio.Queue(99)
    gaps: asyncio.Queue[Gap] = asyncio.Queue(9)
    changes: asyncio.Queue[Change] = asyncio.Queue(99)
    connection = await asyncpg.connect(server.database)
    try:
        insert = "insert into todos select n, 'x' from generate_series($1::int, $2) n"
        await connection.execute(insert, 1, 5)
        async with create_client(server.url, server.token()) as client:
            channel = client.channel("todos").on("gap", gaps.put)
            asked: Any = {"table": "todos", "snapshot": {"order": "id.desc", "limit": 3, "batch": 2}}
            channel.on("postgres_changes", asked, changes.put, on_snapshot=batches.put)
            await channel.subscribe(resume="nonsense")
            async with asyncio.timeout(20):
                first, last = await batches.get(), await batches.get()
                assert (await gaps.get()).reason == "unreadable"
                assert [row["id"] for row in first.rows + last.rows] == [5, 4, 3]
                assert (first.first, first.last, last.first, last.last) == (True, False, False, True)
                assert last.key == ("id",)
                await connection.execute(insert, 6, 6)
                assert (await changes.get()).new["id"] == 6
            assert changes.empty()
    finally:
        await connection.close()


async def test_rows_that_the_role_may_not_read_are_refused(server: Any) -> None:
    connection = await asyncpg.connect(server.database)
    try:
        await connection.execute("create table hidden (id int primary key)")
        await connection.execute("alter publication supabase_realtime add table hidden")
    finally:
        await connection.close()
    async with create_client(server.url, make_token("anon")) as client:
        channel = client.channel("board")
        rows = channel.rows("hidden")
        channel.subscribe()
        with pytest.raises(JoinError):
            await rows.ready()
