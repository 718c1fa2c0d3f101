"""Opaque API keys with the official clients: they open the connection, and stand for a role in channels."""

from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from support.official import OFFICIAL, Official, binding, drive, rows
from support.server import Server
from support.tokens import make_token

PUBLISHABLE, SECRET = "sb_publishable_of_the_tests_0", "sb_secret_of_the_tests_000000"


@pytest.mark.parametrize("official", OFFICIAL, ids=lambda official: official.name)
async def test_an_opaque_key_is_as_good_as_a_token(
    official: Official, todos: str, serve: Callable[..., Awaitable[Server]]
) -> None:
    server = await serve(todos, ROWCAST_API_KEYS=f"{PUBLISHABLE}=anon,{SECRET}=service_role")
    connection = await asyncpg.connect(todos)
    # Only users may read what is theirs; the service reads everything.
    await connection.execute("revoke select on todos from anon; grant select on todos to service_role")
    async with drive(official) as service, drive(official) as public:
        await service.connect(server.url, SECRET)
        await service.subscribe("room", binding())
        await public.connect(server.url, PUBLISHABLE)
        await public.tell("subscribe", channel="room", bindings=[binding()])
        assert "GRANT SELECT ON public.todos TO anon" in await public.refused("room")
        # A user who has signed in has a token beside the key.
        await public.use(make_token("authenticated"))
        await public.ready("room")
        await connection.execute("insert into todos values (1, 'a')")
        for client in (service, public):
            assert [new["id"] for _, new, _ in rows(await client.changes("room", 1))] == [1]
    await connection.close()
