"""Messages that the database sends: each that was committed, once, and in one order with the changes."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from capture.conftest import Reading
from rowcast.capture.messages import Sentry, message_of
from rowcast.capture.stored import Stored
from rowcast.capture.stream import Stream
from rowcast.db.pool import create_pool
from rowcast.hub.feed import Subscriber
from rowcast.hub.lanes import Lane
from rowcast.hub.messages import Messages
from rowcast.hub.topics import Member, Topics
from rowcast.model.binding import parse_binding
from rowcast.model.message import Message
from rowcast.protocol.frames import payload_of
from rowcast.protocol.join import Replay
from rowcast.protocol.messages import Version
from support import databases
from support.pgbouncer import pgbouncer
from support.streams import SERVICE, Kept, streaming
from support.waiting import until_well

pytestmark = pytest.mark.anyio

NOTES = """create table notes (id int primary key, tx int);
alter publication supabase_realtime add table notes;
grant select on notes to service_role"""
ODD = "é \" \\ ' : / % \u2028 😀 -- $$"


async def messages(reader: Reading) -> list[Message]:
    return [message_of(row) for row in await reader.rows()]


async def warnings_of(connection: asyncpg.Connection, statement: str, *arguments: object) -> list[str]:
    """What Postgres warned of."""
    found: list[str] = []

    def listen(_: object, message: Any) -> None:
        found.append(message.message)

    connection.add_log_listener(listen)
    await connection.execute(statement, *arguments)
    connection.remove_log_listener(listen)
    return found


async def test_what_is_sent_is_read_with_all_that_it_says(
    capturing: asyncpg.Connection, reader: Reading
) -> None:
    large = json.dumps({"id": "own", "text": "é" * 20_000})
    await capturing.execute("select realtime.send($1, $2, $3)", large, ODD, ODD)
    await capturing.execute("select realtime.send('[1, null]', 'e', 't', false)")
    await capturing.execute("select realtime.send(null, 'e', 't', null)")
    await capturing.execute("select realtime.send_binary($1, 'b', 't')", bytes(range(256)) * 100)
    await capturing.execute("select realtime.send_binary(null, 'b', 't', false)")
    first, listed, nothing, binary, empty = await messages(reader)
    assert (first.topic, first.event, first.private, first.raw) == (ODD, ODD, True, False)
    assert json.loads(first.payload) == json.loads(large)
    assert (listed.payload, listed.private) == (b"[1, null]", False)
    assert (json.loads(nothing.payload), nothing.private) == ({"id": nothing.id}, True)
    assert (binary.payload, binary.raw) == (bytes(range(256)) * 100, True)
    assert (empty.payload, empty.raw, empty.private) == (b"", True, False)
    kept = await capturing.fetch("select id::text from realtime.messages")
    assert {row["id"] for row in kept} == {first.id, listed.id, nothing.id, binary.id, empty.id}


async def test_a_message_from_any_insert_is_read_and_a_row_without_an_event_or_payload_is_none(
    capturing: asyncpg.Connection, reader: Reading
) -> None:
    part = await capturing.fetchval("select 'messages_' || to_char(now() at time zone 'utc', 'YYYY_MM_DD')")
    for table, event in (("messages", "through the root"), (part, "into the partition")):
        await capturing.execute(
            f"insert into realtime.{table} (topic, extension, event, payload, private)"
            f" select 't', 'broadcast', '{event} ' || n, '{{}}', true from generate_series(1, 2) as n"
        )
    await capturing.execute(
        "insert into realtime.messages (topic, extension, event, payload, private)"
        " values ('t', 'broadcast', null, '{}', true), ('t', 'broadcast', 'e', null, true),"
        " ('t', 'broadcast', 'e', '{}', null)"
    )
    assert [one.event for one in await messages(reader)] == [
        *("through the root 1", "through the root 2", "into the partition 1", "into the partition 2")
    ]


async def test_what_cannot_be_sent_is_a_warning_and_no_error(
    capturing: asyncpg.Connection, reader: Reading
) -> None:
    for statement, text in (
        ("select realtime.send('{}', null, 't')", "topic and event may not be null"),
        ("select realtime.send('{}', 'e', null)", "topic and event may not be null"),
        ("select realtime.send_binary('', null, 't')", "topic and event may not be null"),
        (
            "select realtime.send_binary('', repeat('é', 128), 't')",
            "the topic of a binary message may have 246 bytes, and its event 255",
        ),
    ):
        assert await warnings_of(capturing, statement) == [f"WarnSendingBroadcastMessage: {text}"]
    for operation, level, text in (
        ("TRUNCATE", "ROW", "Unexpected operation type: TRUNCATE"),
        ("INSERT", "STATEMENT", "function can only be triggered for each row, not for each statement"),
    ):
        with pytest.raises(asyncpg.RaiseError, match=f"^Failed to process the row: {text}$"):
            await capturing.execute(
                "select realtime.broadcast_changes('t', 'e', $1, 'a', 'b', null::record, null::record, $2)",
                operation,
                level,
            )
    # A day without a partition, as when no server ran for days.
    await capturing.execute(
        "do $$ declare part record; begin"
        "  for part in select inhrelid::regclass as name from pg_inherits"
        "    where inhparent = 'realtime.messages'::regclass loop"
        "    execute format('drop table %s', part.name); end loop; end $$"
    )
    (warning,) = await warnings_of(capturing, "select realtime.send('{}', 'e', 't')")
    assert warning == 'WarnSendingBroadcastMessage: no partition of relation "messages" found for row'
    with pytest.raises(asyncpg.CheckViolationError, match="no partition of relation"):
        await capturing.execute(
            "insert into realtime.messages (topic, extension, event, payload)"
            " values ('t', 'broadcast', 'e', '{}')"
        )
    assert await messages(reader) == []
    # It is made by whoever keeps them, and a new one has the trigger.
    await capturing.execute("select rowcast.keep_messages('72 hours')")
    assert await warnings_of(capturing, "select realtime.send('{}', 'e', 't')") == []
    assert [one.event for one in await messages(reader)] == ["e"]


async def test_it_is_written_with_the_rights_of_whoever_sends_and_users_triggers_have_their_say(
    capturing: asyncpg.Connection, reader: Reading
) -> None:
    await capturing.execute(
        """
        create policy own on realtime.messages for insert to anon with check (realtime.topic() = 'open');
        create function public.louder(text) returns text language sql as 'select upper($1)';
        create function public.shout() returns trigger language plpgsql as $$
        begin
          if new.event = 'never' then return null; end if;
          new.event := louder(new.event);
          return new;
        end $$;
        create trigger shout before insert on realtime.messages
          for each row execute function public.shout();
        """
    )
    await capturing.execute("set role anon")
    assert await warnings_of(capturing, "select realtime.send('{}', 'e', 'open')") == []
    (warning,) = await warnings_of(capturing, "select realtime.send('{}', 'e', 'closed')")
    assert "row-level security" in warning
    await capturing.execute("select realtime.send('{}', 'never', 'open')")
    await capturing.execute("reset role")
    assert [(one.topic, one.event) for one in await messages(reader)] == [("open", "E")]


async def test_nothing_is_written_while_no_server_renews_its_lease(
    capturing: asyncpg.Connection, reader: Reading
) -> None:
    await capturing.execute("select setval('rowcast.lease_until', 0)")
    await capturing.execute("select realtime.send('{}', 'e', 't')")
    assert await capturing.fetchval("select count(*) from realtime.messages") == 1
    assert await capturing.fetchval("select count(*) from rowcast.outbox_0") == 0


async def test_a_sleeping_reader_is_woken_by_the_commit(capturing: asyncpg.Connection, migrated: str) -> None:
    heard = asyncio.Event()
    listener = await asyncpg.connect(migrated)
    await listener.add_listener("rowcast", lambda *_: heard.set())
    await capturing.execute("select setval('rowcast.asleep_until', extract(epoch from now())::bigint + 60)")
    await capturing.execute("select realtime.send('{}', 'e', 't')")
    async with asyncio.timeout(30):
        await heard.wait()
    await listener.close()


async def test_the_trigger_is_made_again_on_another_table_and_said_to_be_missing_without_one(
    capturing: asyncpg.Connection, reader: Reading
) -> None:
    sentry = Sentry()
    assert await sentry.look(capturing)
    assert sentry.standing.is_set()
    await capturing.execute('alter table realtime.messages disable trigger "!rowcast_message"')
    with capture_logs() as logs:
        for _ in range(2):
            await sentry.look(capturing)
    assert [log["event"] for log in logs] == ["messages_not_captured"]
    assert not sentry.standing.is_set()
    assert sentry.fault == 'the trigger "!rowcast_message" of realtime.messages is disabled'
    await capturing.execute("drop table realtime.messages")
    await sentry.look(capturing)
    assert not sentry.standing.is_set()
    # Of an older release of Supabase's, without bytes; and one that is no table of messages at all.
    await capturing.execute(
        "create table realtime.messages (id uuid default gen_random_uuid(), topic varchar, extension text,"
        " event text, payload jsonb, private bool)"
    )
    await sentry.look(capturing)
    assert sentry.standing.is_set()
    await capturing.execute("select realtime.send('{}', 'e', 't')")
    await capturing.execute("insert into realtime.messages (topic) values ('no message')")
    assert [one.event for one in await messages(reader)] == ["e"]
    await capturing.execute("alter table realtime.messages drop column event")
    (warning,) = await warnings_of(
        capturing, "insert into realtime.messages (topic, payload) values ('t', '{}')"
    )
    assert warning == ('Rowcast leaves out a message of realtime.messages: record "new" has no field "event"')


async def test_code_of_others_does_not_run_for_a_column_of_their_type(
    capturing: asyncpg.Connection, reader: Reading
) -> None:
    await capturing.execute(
        """
        drop table realtime.messages;
        create type named as enum ('e');
        create function run(named) returns text language plpgsql as $$
        begin raise warning 'run as %', current_user; return 'e'; end $$;
        create cast (named as text) with function run(named) as implicit;
        create table realtime.messages (id uuid default gen_random_uuid(), topic text, extension text,
          event named, payload jsonb, private bool default true);
        """
    )
    assert await capturing.fetchval("select rowcast.follow_messages()") is None
    (warning,) = await warnings_of(
        capturing, "insert into realtime.messages (topic, event, payload) values ('t', 'e', '{}')"
    )
    assert warning.endswith("its columns are not those that Supabase gives it")
    assert await messages(reader) == []


@dataclass
class Ear(Kept):
    """A socket of a channel that hears a table and a topic: one lane, of which it keeps everything."""

    heard: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def write(self, frames: Sequence[bytes]) -> None:
        self.heard += [json.loads(payload_of(frame)[1]) for frame in frames]
        self._more.set()

    def said(self) -> list[tuple[int, int]]:
        """Transaction and number of each change and each message."""
        found = []
        for one in self.heard:
            payload = one["payload"]
            record = payload["data"]["record"] if "data" in payload else payload["payload"]
            found.append((record["tx"], record["id"] if "data" in payload else record["n"]))
        return found


@contextlib.asynccontextmanager
async def listening(dsn: str, topics: Topics, stream: Stream) -> AsyncIterator[Ear]:
    ear = Ear()
    lane = Lane(ear, 1 << 30)
    ear.subscriber = Subscriber("realtime:t", Version.V1, lane, ear.lost)
    topics.enter(Member("realtime:t", True, Version.V1, lane))
    await stream.subscribe(ear.subscriber, [parse_binding({"event": "*", "table": "notes"})], SERVICE)
    await stream.ready()
    yield ear


async def test_committed_messages_come_once_in_one_order_with_the_changes_and_no_transaction_is_split(
    migrated: str,
) -> None:
    databases.execute(migrated, NOTES)
    topics = Topics()
    rnd = random.Random(7)
    committed: dict[int, list[int]] = {}

    async def write(first: int) -> None:
        connection = await asyncpg.connect(migrated)
        try:
            for tx in range(first, first + 25):
                told: list[int] = []
                transaction = connection.transaction()
                await transaction.start()
                for n in range(tx * 100, tx * 100 + rnd.randint(1, 6)):
                    inner = connection.transaction()
                    await inner.start()
                    if rnd.random() < 0.5:
                        await connection.execute("insert into notes values ($1, $2)", n, tx)
                    else:
                        await connection.execute(
                            "select realtime.send(jsonb_build_object('tx', $1::int, 'n', $2::int), 'e', 't')",
                            tx,
                            n,
                        )
                    if rnd.random() < 0.2:
                        await inner.rollback()
                    else:
                        await inner.commit()
                        told.append(n)
                if rnd.random() < 0.2:
                    await transaction.rollback()
                else:
                    await transaction.commit()
                    committed[tx] = told
        finally:
            await connection.close()

    publish = Messages(topics, "realtime:", 1 << 20).publish
    # Pages that no batch of all writers fits.
    async with (
        streaming(migrated, tell=publish, page_size=7) as stream,
        listening(migrated, topics, stream) as ear,
    ):
        await asyncio.gather(*(write(1000 * number) for number in range(1, 5)))
        await ear.until(lambda: len(ear.heard) >= sum(map(len, committed.values())))
        await stream.ready()
        said = ear.said()
    assert sorted(said) == sorted((tx, n) for tx, told in committed.items() for n in told)
    order = list(dict.fromkeys(tx for tx, _ in said))
    # Each transaction as a whole, in the order in which it was written; one after the other for each writer.
    assert said == [(tx, n) for tx in order for n in committed[tx]]
    for number in range(1, 5):
        mine = [tx for tx in order if tx // 1000 == number]
        assert mine == sorted(mine)


async def test_a_message_that_is_too_large_is_dropped_and_the_next_one_is_not(migrated: str) -> None:
    databases.execute(migrated, NOTES)
    topics = Topics()
    publish = Messages(topics, "realtime:", 1000).publish
    with capture_logs() as logs:
        async with (
            streaming(migrated, tell=publish) as stream,
            listening(migrated, topics, stream) as ear,
        ):
            databases.execute(
                migrated,
                """select realtime.send(jsonb_build_object('text', repeat('x', 1000)), 'e', 't');
                select realtime.send(jsonb_build_object('tx', 1, 'n', 2), 'e', 't')""",
            )
            await ear.until(lambda: bool(ear.heard))
            assert ear.said() == [(1, 2)]
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["message_too_large"]


async def test_where_the_trigger_does_not_stand_it_is_told_and_nothing_is_certain_until_it_does(
    migrated: str,
) -> None:
    databases.execute(migrated, 'alter table realtime.messages disable trigger "!rowcast_message"')
    async with streaming(migrated) as stream:
        await until_well(lambda: not stream.degraded())
        assert list(stream.degraded()) == ["messages"]
        ready = asyncio.create_task(stream.ready())
        databases.execute(migrated, 'alter table realtime.messages enable trigger "!rowcast_message"')
        async with asyncio.timeout(30):
            await ready
        assert stream.degraded() == {}


async def test_behind_a_pooler_of_transactions_messages_are_heard_and_replayed(migrated: str) -> None:
    databases.execute(migrated, NOTES)
    topics = Topics()
    with pgbouncer(migrated) as pooler:
        publish = Messages(topics, "realtime:", 1000).publish
        async with (
            streaming(pooler.address, pooled=True, tell=publish) as stream,
            listening(migrated, topics, stream) as ear,
        ):
            sender = await asyncpg.connect(pooler.address, statement_cache_size=0)
            await sender.execute(
                "insert into notes values (1, 7); select realtime.send('{\"tx\": 7, \"n\": 2}', 'e', 't')"
            )
            await sender.close()
            await ear.until(lambda: len(ear.heard) == 2)
            assert ear.said() == [(7, 1), (7, 2)]
        pool = await create_pool(pooler.address, 1)
        (message,) = await Stored(pool, 1000).newest("t", Replay(1, 25), private=True)
        assert (message.event, json.loads(message.payload)["n"]) == ("e", 2)
        # Together no larger than that.
        assert await Stored(pool, 10).newest("t", Replay(1, 25), private=True) == []
        pool.terminate()
