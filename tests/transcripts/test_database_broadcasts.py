"""The conversation about broadcasts from the database, as it was seen, to the byte but for ids.

D and E are clients of 1.0.0, on the private and the public channel of one name; D2 is one of 2.0.0.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rowcast.protocol.messages import Version
from transcripts.stage import PATIENCE, Client, Stage

pytestmark = pytest.mark.anyio

TOPIC = "realtime:dbt"
UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TABLE = """
create table bct (id int, v text);
create function tell() returns trigger language plpgsql as $$
begin
  perform realtime.broadcast_changes('dbt', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
  return null;
end $$;
create trigger tell after insert or update or delete on bct for each row execute function tell();
create policy seen on realtime.messages for select to authenticated using (true);
create policy written on realtime.messages for insert to authenticated with check (true);
"""
OLD, NEW = '{"v": "a", "id": 1}', '{"v": "b", "id": 1}'


def change(operation: str, record: str, old_record: str) -> str:
    return (
        f'{{"id": "ID", "table": "bct", "record": {record}, "schema": "public",'
        f' "operation": "{operation}", "old_record": {old_record}}}'
    )


# What was run, the event, the payload as it came, and whether it was for the private channel.
SENT: list[tuple[str, str, str, bool]] = [
    (
        "select realtime.send('{\"hello\":1}'::jsonb,'dbev','dbt',true)",
        "dbev",
        '{"id": "ID", "hello": 1}',
        True,
    ),
    (
        "select realtime.send('{\"hello\":2}'::jsonb,'dbev','dbt',false)",
        "dbev",
        '{"id": "ID", "hello": 2}',
        False,
    ),
    (
        "select realtime.send('{\"id\":\"own\",\"x\":1}'::jsonb,'dbev','dbt')",
        "dbev",
        '{"x": 1, "id": "own"}',
        True,
    ),
    ("insert into public.bct values (1,'a')", "INSERT", change("INSERT", OLD, "null"), True),
    ("update public.bct set v='b'", "UPDATE", change("UPDATE", NEW, OLD), True),
    ("delete from public.bct", "DELETE", change("DELETE", "null", NEW), True),
]


@pytest.fixture
async def told(stage: Stage) -> AsyncIterator[Stage]:
    await stage.run(TABLE)
    yield stage
    await stage.run(
        "drop table bct; drop function tell();"
        "drop policy seen on realtime.messages; drop policy written on realtime.messages"
    )


async def came(client: Client) -> bytes:
    """The next frame, with ID for each id."""
    frame = await asyncio.wait_for(client.connection.recv(), PATIENCE)
    return UUID.sub(b"ID", frame.encode() if isinstance(frame, str) else frame)


def text(event: str, payload: str) -> bytes:
    said = f'{{"event":"{event}","meta":{{"id":"ID"}},"payload":{payload},"type":"broadcast"}}'
    return f'{{"ref":null,"event":"broadcast","payload":{said},"topic":"{TOPIC}"}}'.encode()


def binary(event: str, payload: bytes, encoding: int) -> bytes:
    head = bytes((0x04, 0x0C, len(event), 0x2D, encoding))
    return head + f'{TOPIC}{event}{{"id":"ID"}}'.encode() + payload


async def join(client: Client, *, private: bool, **broadcast: Any) -> None:
    config = {"private": private, "broadcast": broadcast} if private else {}
    await client.say(TOPIC, "phx_join", {"config": config})
    answer = {"status": "ok", "response": {"postgres_changes": []}}
    await client.hears(TOPIC, "phx_reply", answer, "1", "1")


async def test_broadcasts_from_the_database_go_as_they_were_seen(told: Stage) -> None:
    begun = int(time.time() * 1000)
    async with (
        told.client(Version.V1, "authenticated") as d,
        told.client(Version.V1) as e,
        told.client(Version.V2, "authenticated") as d2,
    ):
        await join(d, private=True)
        await join(e, private=False)
        await join(d2, private=True)
        for statement, event, payload, private in SENT:
            await told.run(statement)
            for client in (d,) if private else (e,):
                assert await came(client) == text(event, payload)
            if private:
                assert await came(d2) == binary(event, payload.encode(), 1)
        await told.run("select realtime.send_binary('\\x0102ff'::bytea,'binev','dbt',true)")
        assert await came(d2) == binary("binev", b"\x01\x02\xff", 0)

        # A private channel's own broadcast, where the policies allow it.
        await d.say(TOPIC, "broadcast", {"type": "broadcast", "event": "pv", "payload": {"p": 1}}, "5")
        pushed = {"event": "pv", "payload": {"p": 1}, "type": "broadcast"}
        assert json.loads(await came(d2)) == [None, None, TOPIC, "broadcast", pushed]

        # The policies are for authenticated only.
        async with told.client(Version.V1) as f:
            await f.say(TOPIC, "phx_join", {"config": {"private": True}})
            reason = "Unauthorized: You do not have permissions to read from this Channel topic: dbt"
            refused = {"status": "error", "response": {"reason": reason}}
            await f.hears(TOPIC, "phx_reply", refused, "1", "1")

        # A replay: bytes count against the limit, and are left out for 1.0.0.
        async with told.client(Version.V1, "authenticated") as g:
            await join(g, private=True, replay={"since": begun, "limit": 3})
            for _, event, payload, _ in SENT[-2:]:
                said = json.loads(await came(g))
                meta = {"id": "ID", "replayed": True}
                wanted = {"event": event, "meta": meta, "payload": json.loads(payload), "type": "broadcast"}
                assert said == {"ref": None, "event": "broadcast", "payload": wanted, "topic": TOPIC}
            await g.hears_nothing(listening=False)
        async with told.client(Version.V1, "authenticated") as h:
            wrong = {"private": True, "broadcast": {"replay": {"since": "x", "limit": 1000}}}
            await h.say(TOPIC, "phx_join", {"config": wrong})
            reason = "UnableToReplayMessages: Replay params are not valid"
            refused = {"status": "error", "response": {"reason": reason}}
            await h.hears(TOPIC, "phx_reply", refused, "1", "1")
        for client in (d, e, d2):
            await client.hears_nothing(listening=False)
