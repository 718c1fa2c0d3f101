"""Channels that go on where they were, gaps, snapshots and transactions, over real sockets."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rowcast_client import (
    CallbackError,
    Change,
    Client,
    Gap,
    GapError,
    RowcastError,
    Snapshot,
    StoreError,
    Transaction,
    UsageError,
)

pytestmark = pytest.mark.anyio

Connect = Callable[..., Client]
TOPIC = "realtime:todos"


class Shelf:
    """A store in memory, which tells what it is asked."""

    def __init__(self, **positions: str) -> None:
        self.positions = dict(positions)
        self.saves: asyncio.Queue[str] = asyncio.Queue(1000)
        self.faults = 0

    async def load(self, key: str) -> str | None:
        self._fail()
        return self.positions.get(key)

    async def save(self, key: str, position: str) -> None:
        self._fail()
        self.positions[key] = position
        self.saves.put_nowait(position)

    async def saved(self) -> str:
        async with asyncio.timeout(10):
            return await self.saves.get()

    def _fail(self) -> None:
        if self.faults:
            self.faults -= 1
            raise OSError("secret")


def resumed(join: list[Any]) -> Any:
    return join[4]["config"].get("resume")


async def test_a_channel_goes_on_after_the_last_change_received_and_drops_repeats(
    peer: Any, connect: Connect, heard: Any
) -> None:
    gate = asyncio.Event()

    async def slow(change: Change) -> None:
        await gate.wait()
        heard.change(change)

    channel = connect().channel("todos").on("postgres_changes", slow, table="todos").subscribe()
    line = await peer.line()
    assert resumed(await line.accept(position="p0")) is None
    await channel
    await line.insert(TOPIC, {"id": 1}, seq=1, position="p1")
    await line.insert(TOPIC, {"id": 2}, seq=2, position="p1")  # more about it was to come
    await line.socket.close(4008)
    line = await peer.line()
    assert resumed(await line.accept(position="p1")) == {"position": "p1"}
    await line.insert(TOPIC, {"id": 2}, seq=2, position="p2")
    await line.insert(TOPIC, {"id": 3}, seq=3, position="p3")
    gate.set()
    assert [(await heard.next_change()).new["id"] for _ in range(3)] == [1, 2, 3]
    await line.say(None, None, TOPIC, "phx_error", {})
    assert resumed(await line.accept()) == {"position": "p3"}


async def test_a_gap_is_told_to_who_listens_and_is_an_error_elsewhere(peer: Any, connect: Connect) -> None:
    gaps: asyncio.Queue[Gap] = asyncio.Queue(9)
    faults: asyncio.Queue[RowcastError] = asyncio.Queue(9)
    client = connect(on_error=faults.put_nowait)
    client.channel("a").on("postgres_changes", print, table="a").on("gap", gaps.put).subscribe(resume="p0")
    line = await peer.line()
    join = await line.accept()
    assert resumed(join) == {"position": "p0"}
    what: dict[str, Any] = {"gap": {"reason": "retention", "from": "p0"}, "position": "p7"}
    await line.system(join, "error", "Changes are missing: they are gone", **what)
    assert await gaps.get() == Gap("retention", "p0", "p7", "Changes are missing: they are gone")
    assert faults.empty()
    client.channel("b").on("postgres_changes", print, table="b").subscribe()
    join = await line.accept()
    await line.system(join, "error", "Changes are missing: they are gone", **what)
    error = await faults.get()
    assert isinstance(error, GapError)
    assert (error.gap.reason, client.channel("b").state) == ("retention", "joined")


async def test_a_snapshot_comes_in_batches_before_the_changes(
    peer: Any, connect: Connect, heard: Any
) -> None:
    batches: asyncio.Queue[Snapshot] = asyncio.Queue(9)
    channel = connect().channel("todos")
    asked: Any = {"table": "todos", "snapshot": {"order": "id.desc", "limit": 2}}
    channel.on("postgres_changes", asked, heard.change, on_snapshot=batches.put).subscribe()
    line = await peer.line()
    join = await line.accept(position="p0")
    (entry,) = join[4]["config"]["postgres_changes"]
    assert entry["snapshot"] == {"order": "id.desc", "limit": 2}
    await line.rows(TOPIC, [2], "p0", last=False)
    await line.rows(TOPIC, [1], "p0")
    await line.insert(TOPIC, {"id": 3}, seq=3, position="p3")
    assert (await heard.next_change()).new == {"id": 3}
    first, last = batches.get_nowait(), batches.get_nowait()
    assert (first.rows, first.first, first.last) == ([{"id": 2}], True, False)
    assert (last.rows, last.first, last.last, last.key) == ([{"id": 1}], False, True, ("id",))
    assert (last.position, last.schema, last.table) == ("p0", "public", "todos")


async def test_a_transaction_comes_in_one_call_or_in_parts(peer: Any, connect: Connect, heard: Any) -> None:
    heard_of: asyncio.Queue[Transaction] = asyncio.Queue(9)
    channel = connect().channel("todos").on("postgres_changes", heard.change, table="todos")
    channel.on("transaction", [{"table": "todos"}], heard_of.put).subscribe()
    line = await peer.line()
    join = await line.accept(position="p0")
    config = join[4]["config"]
    assert (len(config["postgres_changes"]), config["rowcast"]["group"]) == (1, "transaction")

    async def part(*seqs: int, position: str, last: bool) -> None:
        row: dict[str, Any] = {"schema": "public", "table": "todos", "type": "INSERT", "columns": []}
        changes = [{"data": row | {"record": {"id": seq}, "seq": seq}, "ids": [1]} for seq in seqs]
        stamp = "2026-03-01T10:20:30.123Z"
        payload = {"changes": changes, "commit_timestamp": stamp, "position": position, "last": last}
        await line.say(None, None, TOPIC, "transaction", payload)

    await part(1, 2, position="p0", last=False)
    await part(3, position="p3", last=True)
    one, two = await heard_of.get(), await heard_of.get()
    assert [change.seq for change in one.changes + two.changes] == [1, 2, 3]
    assert (one.last, two.last, two.position) == (False, True, "p3")
    assert two.commit_timestamp is not None
    assert [(await heard.next_change()).seq for _ in range(3)] == [1, 2, 3]


async def test_a_store_says_where_to_begin_and_keeps_what_callbacks_have_passed(
    peer: Any, connect: Connect, heard: Any
) -> None:
    store = Shelf(worker="p5")
    channel = connect().channel("todos").on("postgres_changes", heard.change, table="todos")
    channel.subscribe(resume=store, key="worker", save_every=0)
    line = await peer.line()
    assert resumed(await line.accept(position="p5")) == {"position": "p5"}
    await line.insert(TOPIC, {"id": 6}, seq=6, position="p6")
    assert await store.saved() == "p6"
    await line.socket.close(1012)
    line = await peer.line()
    assert resumed(await line.accept(position="p6")) == {"position": "p6"}


async def test_a_store_without_a_position_is_given_that_of_the_subscription(
    peer: Any, connect: Connect, heard: Any
) -> None:
    for every in (3600, None):
        store, client = Shelf(), connect()
        channel = client.channel("todos").on("postgres_changes", heard.change, table="todos")
        channel.subscribe(resume=store, save_every=every)
        line = await peer.line()
        assert resumed(await line.accept(position="p0")) is None
        assert await store.saved() == "p0"
        await line.insert(TOPIC, {"id": 1}, seq=1, position="p1")
        await heard.next_change()
        await client.close()
        assert store.positions == {"todos": "p1" if every else "p0"}


async def test_a_first_position_that_cannot_be_saved_undoes_nothing_later(
    peer: Any, connect: Connect, heard: Any
) -> None:
    store, faults = Shelf(), asyncio.Queue[RowcastError](9)
    client = connect(on_error=faults.put_nowait)
    channel = client.channel("todos").on("postgres_changes", heard.change, table="todos")
    channel.subscribe(resume=store, save_every=None)
    line = await peer.line()
    join = await line.accept(confirm=False)
    store.faults = 1
    await line.system(join, "ok", "Subscribed to PostgreSQL", position="p0")
    assert isinstance(await faults.get(), StoreError)
    for number in (1, 2):
        await line.insert(TOPIC, {"id": number}, seq=number, position=f"p{number}")
        await heard.next_change()
    assert await store.saved() == "p1"
    await client.close()
    assert store.positions == {"todos": "p1"}


async def test_a_callback_that_raises_is_called_again_and_nothing_passes_it(
    peer: Any, connect: Connect, heard: Any
) -> None:
    store, tries = Shelf(), 0
    faults: list[RowcastError] = []

    def fails_twice(change: Change) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ValueError("no")

    channel = connect(on_error=faults.append).channel("todos")
    channel.on("postgres_changes", heard.change, table="todos")
    channel.on("postgres_changes", fails_twice, table="todos").subscribe(resume=store, save_every=0)
    line = await peer.line()
    await line.accept(position="p0")
    for number in (1, 2):
        await line.insert(TOPIC, {"id": number}, seq=number, position=f"p{number}")
    assert [await store.saved() for _ in range(3)] == ["p0", "p1", "p2"]
    assert (tries, heard.changes.qsize()) == (4, 2)
    assert [type(fault) for fault in faults] == [CallbackError, CallbackError]


@pytest.mark.parametrize("how", ["unsubscribe", "close"])
async def test_a_callback_that_never_works_is_given_up_with_the_channel_and_its_position_stays(
    peer: Any, connect: Connect, how: str
) -> None:
    called = asyncio.Event()

    def fails(change: Change) -> None:
        called.set()
        raise ValueError("no")

    store, client = Shelf(), connect(heartbeat_interval=3600)
    channel = client.channel("todos").on("postgres_changes", fails, table="todos")
    channel.subscribe(resume=store, save_every=0)
    line = await peer.line()
    join = await line.accept(position="p0")
    await line.insert(TOPIC, {"id": 1}, seq=1, position="p1")
    await called.wait()
    if how == "close":
        await client.close()
    else:
        leaving = asyncio.ensure_future(channel.unsubscribe())
        leave = await line.hear("phx_leave")
        await line.say(join[0], leave[1], TOPIC, "phx_reply", {"status": "ok", "response": {}})
        await leaving
    assert store.positions == {"todos": "p0"}


async def test_what_is_dropped_unseen_is_not_passed_by_the_status_after_it(
    peer: Any, connect: Connect
) -> None:
    called, gate = asyncio.Event(), asyncio.Event()

    async def slow(change: Change) -> None:
        called.set()
        await gate.wait()

    store, client = Shelf(todos="p0"), connect()
    channel = client.channel("todos").on("postgres_changes", slow, table="todos")
    channel.subscribe(resume=store)
    line = await peer.line()
    await line.accept(position="p0")
    for number in (1, 2):
        await line.insert(TOPIC, {"id": number}, seq=number, position=f"p{number}")
    await called.wait()
    await line.socket.close(1012)
    line = await peer.line()
    await line.accept(position="p2")
    await channel
    closing = asyncio.ensure_future(client.close())
    await asyncio.sleep(0)
    gate.set()
    await closing
    assert store.positions == {"todos": "p1"}


async def test_a_channel_that_is_subscribed_again_goes_on_after_its_last_callback(
    peer: Any, connect: Connect
) -> None:
    again, leaving = asyncio.Event(), list[asyncio.Future[None]]()

    async def leaves(change: Change) -> None:
        if change.seq == 2:
            leaving.append(asyncio.ensure_future(channel.unsubscribe()))
            await asyncio.sleep(0)
            channel.subscribe(resume=store)
            again.set()

    store = Shelf(todos="p0")
    channel = connect().channel("todos").on("postgres_changes", leaves, table="todos")
    channel.subscribe(resume=store, save_every=3600)
    line = await peer.line()
    join = await line.accept(position="p0")
    for number in (1, 2):
        await line.insert(TOPIC, {"id": number}, seq=number, position=f"p{number}")
    await again.wait()
    leave = await line.hear("phx_leave")
    await line.say(join[0], leave[1], TOPIC, "phx_reply", {"status": "ok", "response": {}})
    assert resumed(await line.accept(position="p2")) == {"position": "p2"}


async def test_a_store_that_fails_is_asked_again(peer: Any, connect: Connect, heard: Any) -> None:
    faults: list[RowcastError] = []
    store = Shelf(todos="p5")
    store.faults = 1
    channel = connect(on_error=faults.append).channel("todos")
    channel.on("postgres_changes", heard.change, table="todos")
    with pytest.raises(StoreError):
        await channel.subscribe(resume=store, save_every=0)
    line = await peer.line()
    assert resumed(await line.accept(position="p5")) == {"position": "p5"}
    await channel
    store.faults = 1
    await line.insert(TOPIC, {"id": 6}, seq=6, position="p6")
    assert await store.saved() == "p6"
    assert [type(fault) for fault in faults] == [StoreError, StoreError]
    assert "secret" not in "".join(map(str, faults))


async def test_a_quiet_channel_keeps_the_position_of_heartbeats(
    peer: Any, connect: Connect, heard: Any
) -> None:
    peer.beats = False
    client, store = connect(heartbeat_interval=0.05, heartbeat_timeout=60), Shelf()
    channel = client.channel("todos").on("postgres_changes", heard.change, table="todos")
    channel.subscribe(resume=store, save_every=0)
    line = await peer.line()
    await line.accept(position="p0")
    assert await store.saved() == "p0"
    beat = await line.heartbeats.get()
    await line.say(None, beat, "phoenix", "phx_reply", {"status": "ok", "response": {"position": "p9"}})
    assert await store.saved() == "p9"
    assert channel.position == "p9"


def test_what_cannot_be_meant_is_refused(heard: Any) -> None:
    client = Client("http://localhost", "key")
    channel = client.channel("a").on("postgres_changes", heard.change, table="a", on_snapshot=print)
    for wrong in (
        lambda: channel.on("postgres_changes", heard.change, table="b", snapshot=True),
        lambda: channel.on("postgres_changes", {"table": "b", "snapshot": 5}, print, on_snapshot=print),
        lambda: channel.on("postgres_changes", {"table": "b", "leave": 1}, print),
        lambda: channel.on(
            "postgres_changes", {"table": "a", "snapshot": {"limit": 1}}, print, on_snapshot=print
        ),
        lambda: channel.on("transaction", {"table": "b", "snapshot": True}, print),
        lambda: channel.on("gap", 5),  # type: ignore[call-overload]
        lambda: channel.subscribe(resume=""),
        lambda: channel.subscribe(resume=5),  # type: ignore[arg-type]
        lambda: channel.subscribe(key="k"),
        lambda: channel.subscribe(resume=Shelf(), key=""),
        lambda: channel.subscribe(resume=Shelf(), save_every=-1),
        lambda: channel.rows("a", key="id"),
    ):
        with pytest.raises(UsageError):
            wrong()
    with pytest.raises(UsageError):
        client.channel("b").on("transaction", print).subscribe()
    channel.rows("b")
    with pytest.raises(UsageError):
        channel.subscribe(resume=Shelf())
