"""Private channels that hear row changes: the cases of the original's own tests, against the real server."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from rowcast.db.migrations import migrate
from rowcast.dev.postgres import Postgres
from rowcast.protocol.messages import Version
from support.server import Server
from support.tokens import make_token
from transcripts.frames import OK, Change
from transcripts.policies import COLUMNS, ONE, TABLE, TWO, note
from transcripts.stage import Client, Stage, both
from transcripts.steps import on

pytestmark = pytest.mark.anyio

TOPIC = "realtime:room"
UNREADABLE = "You do not have permissions to read from this Channel topic: room"
AWAY = "UnableToConnectToProject: Realtime was unable to connect to the project database"


@pytest.fixture
async def rooms(stage: Stage) -> AsyncIterator[Stage]:
    """The stage with ``rls_notes``, and no policy on ``realtime.messages`` but a test's own."""
    await stage.run(TABLE)
    yield stage
    await stage.run("drop policy if exists room on realtime.messages")


async def allow(stage: Stage, condition: str) -> None:
    await stage.run(
        f"create policy room on realtime.messages for select to authenticated using ({condition})"
    )


async def join(client: Client, ref: str = "1") -> list[int]:
    entries = on("rls_notes")
    await client.say(
        TOPIC, "phx_join", {"config": {"private": True, "postgres_changes": [entries]}}, ref, ref
    )
    said = await client.hear()
    payload = said["payload"] if client.version is Version.V1 else said[4]
    assert payload["status"] == "ok", payload
    ids = [entry["id"] for entry in payload["response"]["postgres_changes"]]
    client.joined[TOPIC] = (ref, ids)
    await client.hears_event(TOPIC, OK)
    return ids


async def is_refused(client: Client, reason: str) -> None:
    await client.say(TOPIC, "phx_join", {"config": {"private": True, "postgres_changes": [on("rls_notes")]}})
    answer = {"status": "error", "response": {"reason": reason}}
    await client.hears(TOPIC, "phx_reply", answer, "1", "1")


async def refresh(client: Client, **claims: Any) -> None:
    await client.say(TOPIC, "access_token", {"access_token": make_token("authenticated", **claims)}, "9")


async def is_shut(client: Client, text: str) -> None:
    """What ends the channel, and then nothing more."""
    payload = {"message": text, "status": "error", "extension": "system", "channel": "room"}
    await client.hears(TOPIC, "system", payload, None, "1")
    await client.hears(TOPIC, "phx_close", {}, "1", "1")


async def hears_its_rows(stage: Stage, client: Client, sub: str, id_: int) -> None:
    other = TWO if sub == ONE else ONE
    await stage.run(f"insert into rls_notes values ({id_}, '{sub}', 'a'), ({id_ + 1}, '{other}', 'b')")
    await client.hears_event(TOPIC, Change("INSERT", "rls_notes", COLUMNS, note(id_, sub, "a")))
    await stage.settle()
    await client.hears_nothing(listening=True)


@both
async def test_case_37_a_token_that_may_not_read_ends_a_private_channel(
    rooms: Stage, version: Version
) -> None:
    await allow(rooms, f"auth.uid() = '{ONE}'")
    async with rooms.client(version, "authenticated", sub=ONE) as client:
        await join(client)
        await hears_its_rows(rooms, client, ONE, 1)
        await refresh(client, sub=TWO)
        await is_shut(client, UNREADABLE)
        await rooms.run(f"insert into rls_notes values (3, '{ONE}', 'a'), (4, '{TWO}', 'b')")
        await rooms.settle()
        await client.hears_nothing(listening=False)


@both
async def test_case_38_of_a_public_channel_no_policy_is_asked_again(rooms: Stage, version: Version) -> None:
    async with rooms.client(version, "authenticated", sub=ONE) as client:
        await client.subscribe(TOPIC, on("rls_notes"))
        await refresh(client, sub=TWO)
        await client.hears_event(TOPIC, OK)
        await hears_its_rows(rooms, client, TWO, 1)


@both
async def test_case_39_a_right_to_presence_that_is_gone_ends_the_channel_and_one_that_stays_does_not(
    rooms: Stage, version: Version
) -> None:
    await allow(rooms, "extension = 'broadcast' or (auth.jwt() ->> 'present')::bool")
    async with rooms.client(version, "authenticated", sub=ONE, present=True) as client:
        config = {"private": True, "presence": {"enabled": True}, "postgres_changes": [on("rls_notes")]}
        await client.say(TOPIC, "phx_join", {"config": config})
        said = await client.hear()
        payload = said["payload"] if version is Version.V1 else said[4]
        client.joined[TOPIC] = ("1", [entry["id"] for entry in payload["response"]["postgres_changes"]])
        while (await client.hear())["event" if version is Version.V1 else 3] != "system":
            pass
        await refresh(client, sub=TWO, present=True)
        await client.hears_event(TOPIC, OK)
        await hears_its_rows(rooms, client, TWO, 1)
        await refresh(client, sub=TWO, present=False)
        await is_shut(client, "You no longer have permission to read from this Channel topic: room")


@both
async def test_case_47_who_may_read_and_not_write_hears_changes(rooms: Stage, version: Version) -> None:
    await allow(rooms, "realtime.topic() = 'room'")
    async with rooms.client(version, "authenticated", sub=ONE) as client:
        await join(client)
        await hears_its_rows(rooms, client, ONE, 1)


@both
async def test_case_48_a_private_join_is_refused_where_nothing_may_be_read(
    rooms: Stage, version: Version
) -> None:
    async with rooms.client(version, "authenticated", sub=ONE) as client:
        await is_refused(client, f"Unauthorized: {UNREADABLE}")
        await allow(rooms, "realtime.topic() = 'elsewhere'")
        await is_refused(client, f"Unauthorized: {UNREADABLE}")
        await client.hears_nothing(listening=False)


@both
@pytest.mark.parametrize(
    ("condition", "role", "let_in"),
    [
        ("true", "authenticated", True),
        ("true", "anon", False),
        ("true", "nosuchrole", False),
        ("current_user = 'authenticated'", "authenticated", True),
        (f"auth.uid() = '{ONE}'", "authenticated", True),
        (f"auth.uid() = '{TWO}'", "authenticated", False),
        ("1 / (length(realtime.topic()) - 4) = 1", "authenticated", False),
        ("auth.uid()::text::int = 1", "authenticated", False),
    ],
)
async def test_case_49_policies_by_role_and_by_user_let_in_or_refuse(
    rooms: Stage, condition: str, role: str, let_in: bool, version: Version
) -> None:
    await allow(rooms, condition)
    async with rooms.client(version, role, sub=ONE) as client:
        if let_in:
            await join(client)
            await hears_its_rows(rooms, client, ONE, 1)
        else:
            await is_refused(client, f"Unauthorized: {UNREADABLE}")


@both
async def test_case_31_without_the_database_private_joins_are_refused_and_public_ones_wait_and_broadcast(
    cluster: Callable[..., Postgres], tmp_path: Path, version: Version
) -> None:
    postgres = cluster()
    await migrate(postgres.dsn)
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(TABLE)
    await connection.close()
    server = Server(postgres.dsn, tmp_path / "server.log")
    await server.start()
    try:
        postgres.stop()
        async with Stage(server, connection).client(version, "authenticated", sub=ONE) as client:
            await is_refused(client, AWAY)
            ids = await client.join("realtime:public", on("rls_notes"), ref="2")
            assert len(ids) == 1
            await client.join("realtime:nothing", ref="3", config={"broadcast": {"self": True}})
            await client.say("realtime:nothing", "broadcast", {"event": "e"}, "4", "3")
            await client.hears("realtime:nothing", "broadcast", {"event": "e"}, None, None)
            postgres.start()
            await client.hears_event("realtime:public", OK)
            connection = await asyncpg.connect(postgres.dsn)
            await connection.execute(f"insert into rls_notes values (1, '{ONE}', 'a')")
            await connection.close()
            await client.hears_event(
                "realtime:public", Change("INSERT", "rls_notes", COLUMNS, note(1, ONE, "a"))
            )
    finally:
        await server.end()
