"""Tokens and private channels against the real server: nothing lost, repeated, or heard without a right."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from rowcast_client import (
    AuthError,
    Change,
    Channel,
    JoinError,
    RetryPolicy,
    RowcastError,
    SubscribeStatus,
    create_client,
)

pytestmark = pytest.mark.anyio

ROUNDS = 8
POLICY = """create policy room on realtime.messages for select to authenticated
using (realtime.topic() = 'room' and auth.uid() = '11111111-1111-1111-1111-111111111111')"""
USER = "11111111-1111-1111-1111-111111111111"


class Kept:
    """Callbacks that keep what they hear."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.statuses: asyncio.Queue[tuple[SubscribeStatus, RowcastError | None]] = asyncio.Queue(1000)
        self._more = asyncio.Event()

    def change(self, change: Change) -> None:
        self.changes.append(change)
        self._more.set()

    def status(self, status: SubscribeStatus, error: RowcastError | None) -> None:
        self.statuses.put_nowait((status, error))

    async def next_status(self) -> tuple[SubscribeStatus, str]:
        async with asyncio.timeout(30):
            status, error = await self.statuses.get()
        return status, "" if error is None else error.message

    async def until(self, task: str, times: int = 1) -> None:
        """Wait until changes with this text have come so often."""
        async with asyncio.timeout(60):
            while sum(change.new["task"] == task for change in self.changes) < times:
                self._more.clear()
                await self._more.wait()

    @property
    def ids(self) -> list[int]:
        return [change.new["id"] for change in self.changes]


class Confirmations:
    """The server's words on a channel, of which "Subscribed to PostgreSQL" is counted."""

    def __init__(self, channel: Channel) -> None:
        self.number = 0
        self._more = asyncio.Event()
        channel.on("system", self._told)

    def _told(self, message: Any) -> None:
        if message["message"] == "Subscribed to PostgreSQL":
            self.number += 1
            self._more.set()

    async def after(self, number: int) -> None:
        async with asyncio.timeout(30):
            while self.number <= number:
                self._more.clear()
                await self._more.wait()


async def storm(database: str, enough: asyncio.Event) -> int:
    """Write rows from 1 on, in transactions of one to three, until it is enough, and a last one. Returns how
    many."""
    connection = await asyncpg.connect(database)
    try:
        number = 0
        while not enough.is_set():
            async with connection.transaction():
                for _ in range(1 + number % 3):
                    number += 1
                    await connection.execute("insert into todos (id, task) values ($1, 'x')", number)
        await connection.execute("insert into todos (id, task) values ($1, 'last')", number + 1)
        return number + 1
    finally:
        await connection.close()


async def write(database: str, *statements: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("roles", "filter_", "private"),
    [
        (["authenticated"], None, False),
        (["authenticated"], "task=like.%", True),  # which Postgres judges
        (["anon", "authenticated"], "id=gte.0", True),
        (["anon", "authenticated"], "task=like.%", False),
    ],
)
async def test_under_refreshes_without_end_each_change_comes_once_and_in_order(
    server: Any, roles: list[str], filter_: str | None, private: bool
) -> None:
    if private:
        await write(server.database, "create policy all_ on realtime.messages for select using (true)")
    kept, enough = Kept(), asyncio.Event()
    tokens = [server.token(role, sub=USER, number=number) for number in range(2) for role in roles]
    async with create_client(server.url, server.token(), token=tokens[-1]) as client:
        channel = client.channel("room", private=private)
        channel.on("postgres_changes", kept.change, table="todos", filter=filter_).subscribe(kept.status)
        confirmed = Confirmations(channel)
        await channel
        writing = asyncio.ensure_future(storm(server.database, enough))
        several = itertools.cycle(tokens)
        for number in range(ROUNDS):
            before = confirmed.number
            # Some come at once, some in the midst of the one before.
            for _ in range(1 + number % 3):
                client.set_token(next(several))
                for _ in range(number % 5):
                    await asyncio.sleep(0)
            await confirmed.after(before)
        enough.set()
        written = await writing
        await kept.until("last")
        assert kept.ids == list(range(1, written + 1))
        assert await kept.next_status() == ("SUBSCRIBED", "")
        assert kept.statuses.empty()


async def test_nothing_is_heard_under_a_role_that_may_not_read_once_that_is_said(server: Any) -> None:
    await write(server.database, "revoke select on todos from anon")
    kept = Kept()
    reader, other = server.token("authenticated"), server.token("anon")
    async with create_client(server.url, other, token=reader) as client:
        channel = client.channel("room").on("postgres_changes", kept.change, table="todos")
        await channel.subscribe(kept.status)
        assert await kept.next_status() == ("SUBSCRIBED", "")
        client.set_token(other)
        status, text = await kept.next_status()
        assert status == "CHANNEL_ERROR"
        assert "grant select" in text.lower()
        await write(server.database, "insert into todos (id, task) values (1, 'unheard')")
        client.set_token(reader)
        assert await kept.next_status() == ("SUBSCRIBED", "")
        await write(server.database, "insert into todos (id, task) values (2, 'heard')")
        await kept.until("heard")
        assert kept.ids == [2]


async def test_tokens_that_end_soon_are_followed_by_others_without_a_gap(server: Any) -> None:
    kept, calls, gone = Kept(), 0, asyncio.Event()
    enough = asyncio.Event()

    async def token() -> str:
        nonlocal calls
        calls += 1
        if calls == 3:
            gone.set()
        # Each is followed after half of its life: when the third is asked for, the first has ended.
        return str(server.token("authenticated", lifetime=5, number=calls))

    async with create_client(server.url, server.token(), token=token) as client:
        channels = [client.channel(name) for name in ("a", "b")]
        for channel in channels:
            channel.on("postgres_changes", kept.change, table="todos").subscribe(kept.status)
        for channel in channels:
            await channel
        writing = asyncio.ensure_future(storm(server.database, enough))
        async with asyncio.timeout(30):
            await gone.wait()
        enough.set()
        written = await writing
        await write(server.database, "insert into todos (id, task) values (0, 'the end')")
        await kept.until("the end", 2)
        assert sorted(kept.ids) == sorted([*range(written + 1)] * 2)
        assert [await kept.next_status() for _ in channels] == [("SUBSCRIBED", "")] * 2
        assert kept.statuses.empty()


async def test_without_another_token_a_channel_ends_and_is_joined_again(server: Any) -> None:
    kept, ended, calls = Kept(), False, 0

    def token() -> str:
        nonlocal calls
        calls += 1
        if calls > 1 and not ended:
            raise ValueError("not yet")
        return str(server.token("authenticated", lifetime=3600 if ended else 2))

    quick = RetryPolicy(first=0.02, cap=0.1)
    async with create_client(server.url, server.token(), token=token, retry=quick) as client:
        channel = client.channel("a").on("postgres_changes", kept.change, table="todos")
        await channel.subscribe(kept.status)
        assert await kept.next_status() == ("SUBSCRIBED", "")
        status, text = await kept.next_status()
        assert (status, text[:17]) == ("CHANNEL_ERROR", "Token has expired")
        assert calls > 1
        ended = True
        while (await kept.next_status())[0] != "SUBSCRIBED":
            pass


async def test_a_private_channel_is_joined_where_a_policy_allows_it_and_refused_elsewhere(
    server: Any,
) -> None:
    await write(server.database, POLICY)
    kept = Kept()
    user = server.token("authenticated", sub=USER)
    async with create_client(server.url, server.token(), token=user) as client:
        room = client.channel("room", private=True).on("postgres_changes", kept.change, table="todos")
        await room.subscribe(kept.status)
        await write(server.database, "insert into todos (id, task) values (1, 'private')")
        await kept.until("private")
        with pytest.raises(AuthError, match=r"from this Channel topic: other .*policy .* realtime\.messages"):
            await client.channel("other", private=True).subscribe()
        assert await kept.next_status() == ("SUBSCRIBED", "")
        client.set_token(server.token("anon"))
        status, text = await kept.next_status()
        unreadable = "You do not have permissions to read from this Channel topic: room"
        assert (status, text) == ("CHANNEL_ERROR", unreadable)
        with pytest.raises(AuthError, match="Unauthorized: You do not have"):
            await room


async def test_a_server_of_private_channels_says_what_to_ask_for(
    todos: str, serve: Callable[..., Any]
) -> None:
    server = await serve(todos, ROWCAST_PRIVATE_ONLY="true")
    async with create_client(server.url, server.token()) as client:
        with pytest.raises(JoinError, match=r"only allows private channels .*private=True"):
            await client.channel("room").subscribe()
