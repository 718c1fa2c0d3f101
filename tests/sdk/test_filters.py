"""Filters, columns and what the server says of a subscription later, as an application meets them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from rowcast_client import (
    Change,
    ChannelState,
    Client,
    JoinError,
    RetryPolicy,
    RowcastError,
    SystemMessage,
    UsageError,
    create_client,
)
from rowcast_client._core.connection import Connection
from rowcast_client._core.phases import Timing
from rowcast_client._core.wants import Authorize, Notify, Send, Want

pytestmark = pytest.mark.anyio

Connect = Callable[..., Client]
TODOS = {"event": "*", "schema": "public", "table": "todos"}
NOTES = {"event": "*", "schema": "public", "table": "notes"}


class Seen:
    """What a channel's callbacks were given, each kind in its order."""

    def __init__(self) -> None:
        self._changes: asyncio.Queue[Change] = asyncio.Queue(1000)
        self._statuses: asyncio.Queue[tuple[str, RowcastError | None]] = asyncio.Queue(1000)
        self._messages: asyncio.Queue[SystemMessage] = asyncio.Queue(1000)

    def change(self, change: Change) -> None:
        self._changes.put_nowait(change)

    def status(self, status: str, error: RowcastError | None) -> None:
        self._statuses.put_nowait((status, error))

    def message(self, message: SystemMessage) -> None:
        self._messages.put_nowait(message)

    async def changes(self, number: int) -> list[Change]:
        async with asyncio.timeout(30):
            return [await self._changes.get() for _ in range(number)]

    async def next_status(self) -> tuple[str, str]:
        """The next status, and the text of its error."""
        async with asyncio.timeout(30):
            status, error = await self._statuses.get()
            return str(status), error.message if error is not None else ""

    async def next_message(self) -> tuple[str, str]:
        async with asyncio.timeout(30):
            message = await self._messages.get()
            return message["status"], message["message"]

    @property
    def quiet(self) -> bool:
        """Whether no change and no status waits to be looked at."""
        return self._changes.empty() and self._statuses.empty()


@pytest.fixture
def seen() -> Seen:
    """Callbacks, and what they were given."""
    return Seen()


@pytest.fixture
async def client(server: Any) -> AsyncIterator[Client]:
    """A client of the real server that tries again soon."""
    async with create_client(server.url, server.token, retry=RetryPolicy(first=0.02, cap=0.1)) as client:
        yield client


@pytest.fixture
async def db(server: Any) -> AsyncIterator[asyncpg.Connection]:
    """A connection that writes, as the owner of the tables."""
    connection = await asyncpg.connect(server.database)
    yield connection
    await connection.close()


# What is asked for


async def test_both_forms_of_on_hand_filter_and_columns_to_the_server(peer: Any, connect: Connect) -> None:
    asked = {**TODOS, "filter": "done=eq.false", "select": ["id"]}
    channel = connect().channel("todos").on("postgres_changes", asked, print)
    channel.on("postgres_changes", print, table="todos", filter="id=gt.1", select=("id", "task"))
    channel.on("postgres_changes", {"table": "todos", "filter": "id=lt.5"}, print).subscribe()
    join = await (await peer.line()).accept()
    assert join[4]["config"]["postgres_changes"] == [
        {**TODOS, "filter": "done=eq.false", "select": ["id"]},
        {**TODOS, "filter": "id=gt.1", "select": ["id", "task"]},
        {**TODOS, "filter": "id=lt.5"},
    ]


@pytest.mark.parametrize(
    "wrong",
    [{"select": "id"}, {"select": ["id", 5]}, {"select": {"id": 1}}, {"filter": 5}, {"filter": ["a"]}],
)
async def test_a_filter_or_columns_of_another_kind_are_refused_where_they_are_given(
    connect: Connect, wrong: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        connect().channel("todos").on("postgres_changes", {**TODOS, **wrong}, print)


async def test_each_callback_hears_the_rows_that_pass_its_filter(
    client: Client, db: asyncpg.Connection, seen: Seen
) -> None:
    done, plants = Seen(), Seen()
    channel = client.channel("todos").on(
        "postgres_changes", done.change, table="todos", filter="done=is.true"
    )
    channel.on("postgres_changes", {"table": "todos", "filter": "task=like.%plants%"}, plants.change)
    channel.on("postgres_changes", seen.change, table="todos")
    await channel.subscribe()
    await db.execute("insert into todos values (1, 'water the plants'), (2, 'sleep')")
    await db.execute("update todos set done = true where id = 2")
    await db.execute("delete from todos where id = 1")
    assert len(await seen.changes(4)) == 4
    assert [(change.eventType, change.new["id"]) for change in await done.changes(1)] == [("UPDATE", 2)]
    # On DELETE the whole old row is looked at, also what it does not show.
    heard = [(change.eventType, change.new, change.old) for change in await plants.changes(2)]
    assert heard == [
        ("INSERT", {"id": 1, "task": "water the plants", "done": False}, {}),
        ("DELETE", {}, {"id": 1}),
    ]
    assert done.quiet
    assert plants.quiet


async def test_only_the_columns_asked_for_and_the_key_are_sent(
    client: Client, db: asyncpg.Connection, seen: Seen
) -> None:
    channel = client.channel("todos").on("postgres_changes", seen.change, table="todos", select=["done"])
    await channel.subscribe()
    await db.execute("insert into todos values (1, 'x')")
    await db.execute("delete from todos")
    insert, delete = await seen.changes(2)
    assert (insert.new, delete.old) == ({"id": 1, "done": False}, {"id": 1})


# What the server refuses


async def test_a_refused_filter_is_raised_with_the_servers_reason(client: Client, seen: Seen) -> None:
    channel = client.channel("todos").on("postgres_changes", print, table="todos", filter="colour=eq.red")
    with pytest.raises(JoinError, match="invalid column for filter colour") as raised:
        await channel.subscribe(seen.status)
    assert raised.value.code == "SubscriptionRefused"
    status, text = await seen.next_status()
    assert (status, text) == ("CHANNEL_ERROR", raised.value.message)


async def test_a_refused_binding_is_told_and_takes_no_other_with_it(
    client: Client, db: asyncpg.Connection, seen: Seen
) -> None:
    channel = client.channel("todos").on("postgres_changes", seen.change, table="todos", filter="id=gt.1")
    channel.on("postgres_changes", print, table="todos", filter="colour=eq.red")
    channel.on("postgres_changes", print, table="todos", filter="id=frobs.1")
    with pytest.raises(JoinError):
        await channel.subscribe(seen.status)
    texts = {await seen.next_status(), await seen.next_status()}
    assert {status for status, _ in texts} == {"CHANNEL_ERROR"}
    assert any("invalid column for filter colour" in text for _, text in texts)
    assert any("frobs" in text for _, text in texts)
    assert await seen.next_status() == ("SUBSCRIBED", "")
    assert channel.state is ChannelState.JOINED
    await db.execute("insert into todos values (1, 'x'), (2, 'y')")
    assert [change.new["id"] for change in await seen.changes(1)] == [2]


async def test_bindings_that_are_all_refused_are_asked_for_again(
    peer: Any, connect: Connect, seen: Seen
) -> None:
    channel = connect().channel("todos").on("postgres_changes", TODOS, print)
    channel.on("postgres_changes", NOTES, print).subscribe(seen.status)
    line = await peer.line()
    join = await line.accept(confirm=False)
    await line.system(join, "error", "no todos")
    await line.system(join, "error", "no notes")
    await line.hear("phx_leave")
    await line.accept()
    told = [await seen.next_status() for _ in range(3)]
    assert told == [("CHANNEL_ERROR", "no todos"), ("CHANNEL_ERROR", "no notes"), ("SUBSCRIBED", "")]


def test_one_refusal_for_all_bindings_is_told_again_when_no_other_word_comes() -> None:
    core = Connection(Timing(10, heartbeat_interval=25, heartbeat_timeout=5), RetryPolicy(random=lambda: 1.0))
    core.connect(0)
    core.opened(1, 0)
    (asked,) = core.subscribe("realtime:a", (TODOS, NOTES), 0)
    assert isinstance(asked, Authorize)
    ref = asked.join_ref
    core.authorized("realtime:a", ref, None, 0)

    def said(event: str, payload: dict[str, Any], now: float) -> list[Want]:
        return core.received(1, json.dumps([ref, ref, "realtime:a", event, payload]), now)

    echo = [{**TODOS, "id": 1}, {**NOTES, "id": 2}]
    said("phx_reply", {"status": "ok", "response": {"postgres_changes": echo}}, 1)
    wants = said("system", {"status": "error", "extension": "postgres_changes", "message": "none"}, 2)
    assert told(wants) == [("CHANNEL_ERROR", "none")]
    # Until the time of the join is over, another binding may be confirmed.
    assert core.deadline == 11
    wants = core.tick(11)
    assert told(wants) == [("CHANNEL_ERROR", "none")]
    assert [json.loads(want.text)[3] for want in wants if isinstance(want, Send)] == ["phx_leave"]
    (again,) = core.tick(11.2)
    assert isinstance(again, Authorize)


def told(wants: list[Want]) -> list[tuple[str, str]]:
    """The statuses, and the texts of their errors."""
    return [
        (str(want.status), want.error.message if want.error is not None else "")
        for want in wants
        if isinstance(want, Notify)
    ]


# What the server says later


async def test_an_error_of_a_subscribed_channel_is_told_and_the_channel_stays_joined(
    peer: Any, connect: Connect, seen: Seen
) -> None:
    channel = connect().channel("todos").on("postgres_changes", TODOS, seen.change)
    channel.on("system", seen.message).subscribe(seen.status)
    line = await peer.line()
    join = await line.accept()
    assert await seen.next_status() == ("SUBSCRIBED", "")
    await line.system(join, "error", "the table is gone")
    assert await seen.next_status() == ("CHANNEL_ERROR", "the table is gone")
    await line.insert("realtime:todos", {"id": 1})
    assert [change.new for change in await seen.changes(1)] == [{"id": 1}]
    assert channel.state is ChannelState.JOINED
    assert await channel is channel
    for _ in range(2):
        await line.system(join, "ok", "Subscribed to PostgreSQL")
    assert await seen.next_status() == ("SUBSCRIBED", "")
    assert [(await seen.next_message())[0] for _ in range(4)] == ["ok", "error", "ok", "ok"]
    # Of an ok that mends nothing no status is told, and nothing was left or joined meanwhile.
    assert seen.quiet
    assert line.frames.empty()


async def test_a_table_that_goes_away_and_comes_back_is_told_both_times(
    client: Client, db: asyncpg.Connection, seen: Seen
) -> None:
    channel = client.channel("todos").on("postgres_changes", seen.change, table="todos")
    channel.on("system", seen.message)
    await channel.subscribe(seen.status)
    assert await seen.next_status() == ("SUBSCRIBED", "")
    await db.execute("alter publication supabase_realtime drop table todos")
    status, text = await seen.next_status()
    assert (status, "table: todos" in text) == ("CHANNEL_ERROR", True)
    assert channel.state is ChannelState.JOINED
    await db.execute("insert into todos values (1, 'unheard')")
    await db.execute("alter publication supabase_realtime add table todos")
    assert await seen.next_status() == ("SUBSCRIBED", "")
    await db.execute("insert into todos values (2, 'heard')")
    assert [change.new["id"] for change in await seen.changes(1)] == [2]
    messages = [await seen.next_message() for _ in range(3)]
    assert messages == [
        ("ok", "Subscribed to PostgreSQL"),
        ("error", text),
        ("ok", "Subscribed to PostgreSQL"),
    ]


async def test_a_dropped_column_of_a_filter_is_told_and_the_other_binding_goes_on(
    client: Client, db: asyncpg.Connection, seen: Seen
) -> None:
    channel = client.channel("todos").on("postgres_changes", seen.change, table="todos", filter="id=gt.1")
    channel.on("postgres_changes", print, table="todos", filter="done=is.true")
    await channel.subscribe(seen.status)
    assert await seen.next_status() == ("SUBSCRIBED", "")
    await db.execute("alter table todos drop column done")
    status, text = await seen.next_status()
    assert (status, "invalid column for filter done" in text) == ("CHANNEL_ERROR", True)
    await db.execute("insert into todos values (1, 'x'), (2, 'y')")
    assert [change.new for change in await seen.changes(1)] == [{"id": 2, "task": "y"}]
