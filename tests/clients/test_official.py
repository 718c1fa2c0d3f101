"""The official clients, unmodified, against the real server: subscribe, changes, and on after its restart."""

import asyncpg
import pytest
from websockets.asyncio.client import connect

from support.official import Driven, binding, rows
from support.server import Server


async def test_insert_update_and_delete_arrive(client: Driven, db: asyncpg.Connection) -> None:
    await client.subscribe("room", binding())
    await db.execute("insert into todos values (1, 'water the plants')")
    await db.execute("update todos set done = true")
    await db.execute("delete from todos")
    assert rows(await client.changes("room", 3)) == [
        ("INSERT", {"id": 1, "task": "water the plants", "done": False}, {}),
        ("UPDATE", {"id": 1, "task": "water the plants", "done": True}, {"id": 1}),
        ("DELETE", {}, {"id": 1}),
    ]


async def test_each_subscription_hears_its_own_event_only(client: Driven, db: asyncpg.Connection) -> None:
    await client.subscribe("inserts", binding("INSERT"))
    await client.subscribe("deletes", binding("DELETE"))
    await db.execute("insert into todos values (1, 'a')")
    await db.execute("update todos set task = 'b'")
    await db.execute("delete from todos")
    await db.execute("insert into todos values (2, 'c')")
    await db.execute("delete from todos")
    assert [new["id"] for _, new, _ in rows(await client.changes("inserts", 2))] == [1, 2]
    assert [old["id"] for _, _, old in rows(await client.changes("deletes", 2))] == [1, 2]


async def test_many_rows_of_one_transaction_arrive_in_order(client: Driven, db: asyncpg.Connection) -> None:
    await client.subscribe("room", binding("INSERT"))
    await db.execute("insert into todos select n, 'task ' || n from generate_series(1, 200) n")
    assert [new["id"] for _, new, _ in rows(await client.changes("room", 200))] == list(range(1, 201))


async def test_rolled_back_writes_never_arrive(client: Driven, db: asyncpg.Connection) -> None:
    await client.subscribe("room", binding())
    transaction = db.transaction()
    await transaction.start()
    await db.execute("insert into todos values (1, 'not to be')")
    await transaction.rollback()
    await db.execute("insert into todos values (2, 'to be')")
    assert [new["id"] for _, new, _ in rows(await client.changes("room", 1))] == [2]


async def test_an_unsubscribed_channel_hears_nothing_more(client: Driven, db: asyncpg.Connection) -> None:
    await client.subscribe("room", binding())
    await client.subscribe("other", binding())
    await client.tell("unsubscribe", channel="room")
    assert (await client.event("unsubscribed", channel="room"))["result"] == "ok"
    await db.execute("insert into todos values (1, 'for the other channel')")
    assert [new["id"] for _, new, _ in rows(await client.changes("other", 1))] == [1]
    assert not [event for event in client.seen if event["event"] == "change"]


async def test_changes_go_on_after_a_restart_of_the_server(
    client: Driven, server: Server, db: asyncpg.Connection
) -> None:
    await client.subscribe("room", binding())
    await db.execute("insert into todos values (1, 'before')")
    assert [new["id"] for _, new, _ in rows(await client.changes("room", 1))] == [1]
    address = f"{server.websocket}?apikey={server.token()}"
    async with connect(address) as one, connect(address) as another:
        # Sockets are closed in any order: while others are open, who comes back is refused.
        for other in (one, another):
            await other.send('{"topic":"realtime:other","event":"phx_join","payload":{},"ref":"1"}')
            await other.recv()
        await server.restart()
    await client.ready("room")
    await db.execute("insert into todos values (2, 'after')")
    assert [new["id"] for _, new, _ in rows(await client.changes("room", 1))] == [2]


async def test_a_table_that_is_not_published_is_an_error_that_names_it(
    client: Driven, db: asyncpg.Connection
) -> None:
    await client.tell("subscribe", channel="room", bindings=[binding(table="nowhere")])
    assert "nowhere" in await client.refused("room")


WAIT = {"postgres_changes_options": {"wait": True}}


async def told_first(client: Driven, channel: str) -> str:
    """The first status that a subscription reports, with its error."""
    event = await client.event("status", channel=channel)
    return f"{event['status']} {event['error']}"


async def test_a_client_that_waits_is_subscribed_once_its_changes_are(
    client: Driven, db: asyncpg.Connection
) -> None:
    if client.official.package != "supabase-js":
        pytest.skip("this client has no such option")
    await client.tell("subscribe", channel="room", bindings=[binding()], config=WAIT)
    assert await told_first(client, "room") == "SUBSCRIBED None"
    await db.execute("insert into todos values (1, 'certain to arrive')")
    assert [new["id"] for _, new, _ in rows(await client.changes("room", 1))] == [1]


async def test_a_client_that_waits_is_told_why_it_is_not_subscribed(client: Driven) -> None:
    if client.official.package != "supabase-js":
        pytest.skip("this client has no such option")
    bindings = [binding(), binding(table="nowhere")]
    await client.tell("subscribe", channel="room", bindings=bindings, config=WAIT)
    told = await told_first(client, "room")
    assert told.startswith("CHANNEL_ERROR RealtimeDisabledForConfiguration: ")
    assert "nowhere" in told
