"""Private channels with the official clients: joined, refused and ended by policies."""

import asyncpg

from support.official import Driven, binding, rows
from support.server import Server
from support.tokens import make_token

USER = "11111111-1111-1111-1111-111111111111"
POLICY = f"""create policy room on realtime.messages for select to authenticated
using (realtime.topic() = 'room' and auth.uid() = '{USER}')"""


async def test_a_private_channel_hears_changes_where_a_policy_allows_it(
    client: Driven, db: asyncpg.Connection
) -> None:
    await db.execute(POLICY)
    await client.use(make_token("authenticated", sub=USER))
    await client.tell("subscribe", channel="room", bindings=[binding()], private=True)
    await client.ready("room")
    await db.execute("insert into todos values (1, 'a')")
    assert [new["id"] for _, new, _ in rows(await client.changes("room", 1))] == [1]


async def test_a_private_channel_is_refused_where_none_does(
    client: Driven, server: Server, db: asyncpg.Connection
) -> None:
    await db.execute(POLICY)
    others = (server.token(), make_token("authenticated", sub=USER.replace("1", "2")))
    for number, token in enumerate(others):
        await client.use(token)
        name = "room" if number == 0 else "elsewhere"
        await client.tell("subscribe", channel=name, bindings=[binding()], private=True)
        status = await client.event("status", channel=name, status="CHANNEL_ERROR")
        text = f"Unauthorized: You do not have permissions to read from this Channel topic: {name}"
        assert text in str(status["error"])


async def test_a_token_that_may_not_read_ends_a_private_channel(
    client: Driven, db: asyncpg.Connection
) -> None:
    """Conformance case 37."""
    await db.execute(POLICY)
    await client.use(make_token("authenticated", sub=USER))
    await client.tell("subscribe", channel="room", bindings=[binding()], private=True)
    await client.ready("room")
    await db.execute("drop policy room on realtime.messages")
    await client.use(make_token("authenticated", sub=USER, again=True))
    text = "You do not have permissions to read from this Channel topic: room"
    if client.official.package is None:
        status = await client.event("status", channel="room", status="CHANNEL_ERROR")
        assert text in str(status["error"])
    else:
        event = await client.event("system", channel="room", payload={"status": "error"})
        assert event["payload"]["message"] == text
        await client.event("status", channel="room", status="CLOSED")


async def test_a_public_channel_needs_no_policy_and_hears_what_it_may(
    client: Driven, db: asyncpg.Connection
) -> None:
    await client.subscribe("room", binding())
    await client.use(make_token("authenticated", sub=USER))
    await client.ready("room")
    await db.execute("insert into todos values (1, 'a')")
    assert [new["id"] for _, new, _ in rows(await client.changes("room", 1))] == [1]
