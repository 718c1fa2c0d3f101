"""Triggers that wait for nobody long, and faults that are said once."""

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
import structlog

from rowcast.auth.access import Access
from rowcast.capture import acceptance, tables
from rowcast.capture.acceptance import Acceptance, Refused
from rowcast.capture.relations import Relations
from rowcast.capture.tables import matching, reconcile, status
from rowcast.model.binding import parse_binding
from support.waiting import until_so

pytestmark = pytest.mark.anyio

BLOCKERS = "select pg_blocking_pids($1)"
WAITING = """select exists (select from pg_locks as l where l.pid = $1 and not l.granted
and l.relation = 't'::regclass and l.mode = $2)"""
TABLE = "create table t (id int primary key, n int); insert into t values (1, 1), (2, 1);"
PUBLISHED = "alter publication supabase_realtime add table t"


async def test_while_a_writers_transaction_is_open_triggers_give_up_and_writers_behind_them_go_on(
    capturing: asyncpg.Connection, migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long enough for the second writer to be seen behind the one who waits.
    monkeypatch.setattr(tables, "_LOCK_TIMEOUT", "5s")
    first, second, keeper = [await asyncpg.connect(migrated) for _ in range(3)]
    try:
        await capturing.execute(TABLE)
        begun = first.transaction()
        await begun.start()
        await first.execute("update t set n = 2 where id = 1")
        # The event trigger gives up, and the publication is changed all the same.
        await capturing.execute(PUBLISHED)
        assert [one.captured for one in await matching(capturing)] == [False]
        installing = asyncio.create_task(reconcile(keeper))
        await until_so(capturing, WAITING, keeper.get_server_pid(), "ShareRowExclusiveLock")
        writing = asyncio.create_task(second.execute("update t set n = 3 where id = 2"))
        await until_so(capturing, WAITING, second.get_server_pid(), "RowExclusiveLock")
        assert await capturing.fetchval(BLOCKERS, second.get_server_pid()) == [keeper.get_server_pid()]
        assert await installing is False
        assert await writing == "UPDATE 1"
        assert first.is_in_transaction()
        assert [one.reason for one in await status(capturing)] == [tables.WAITING]
        await begun.commit()
        assert await reconcile(keeper)
        assert [one.captured for one in await matching(capturing)] == [True]
    finally:
        for connection in (first, second, keeper):
            await connection.close()


async def test_a_table_that_cannot_be_captured_is_logged_once_until_the_reason_is_another(
    capturing: asyncpg.Connection,
) -> None:
    await capturing.execute(TABLE + "create table reasons (why text); insert into reasons values ('first')")
    await capturing.execute("""
        create function refuse() returns event_trigger language plpgsql
          as $$ begin raise exception '%', (select why from public.reasons); end $$;
        create event trigger refuse on ddl_command_start when tag in ('CREATE TRIGGER')
          execute function refuse();
    """)
    await capturing.execute(PUBLISHED)
    settled: dict[int, int] = {}
    faults: dict[int, str] = {}
    with structlog.testing.capture_logs() as logs:
        for why in ("first", "first", "first", "second", "second"):
            await capturing.execute("update reasons set why = $1", why)
            assert await reconcile(capturing, settled, faults)
    assert [(entry["event"], entry["table"], entry["reason"]) for entry in logs] == [
        ("table_not_captured", "t", "first"),
        ("table_not_captured", "t", "second"),
    ]


async def test_a_table_without_the_right_to_create_triggers_says_so_and_what_to_run(
    capturing: asyncpg.Connection,
) -> None:
    role = f"guest_{uuid4().hex}"
    await capturing.execute(TABLE + "drop event trigger rowcast_follow_ddl" + "; " + PUBLISHED)
    await capturing.execute(f"create role {role}; grant usage on schema rowcast to {role}")
    await capturing.execute(f"grant execute on all functions in schema rowcast to {role}")
    await capturing.execute(f"grant select on all tables in schema rowcast to {role}; set role {role}")
    try:
        (table,) = await matching(capturing)
        assert table.reason == "the server may not create triggers on it"
        (shown,) = await status(capturing)
        assert (shown.captured, shown.reason) == (False, table.reason)
        assert shown.mend == f"GRANT TRIGGER ON public.t TO {role}; (as its owner, postgres)"
    finally:
        await capturing.execute(f"reset role; drop owned by {role}; drop role {role}")


async def test_what_the_outbox_keeps_of_a_table_is_counted(capturing: asyncpg.Connection) -> None:
    await capturing.execute(TABLE + PUBLISHED + "; insert into t values (3, 3)")
    await capturing.execute(
        "alter table t add column m text; update t set m = repeat('m', 1000) where id < 3"
    )
    (shown,) = await status(capturing)
    assert (shown.captured, shown.changes, shown.bytes > 2000) == (True, 3, True)
    assert shown.since is not None
    assert shown.last is not None
    assert shown.last > shown.since


async def test_a_table_whose_triggers_were_restored_from_another_database_is_not_captured_yet(
    capturing: asyncpg.Connection,
) -> None:
    await capturing.execute(TABLE + PUBLISHED)
    # As a dump brings them: the version that the triggers name is of a table of the old database.
    await capturing.execute("update rowcast.relations set oid = 1")
    (table,) = await tables.matching(capturing, "public", "t")
    assert (table.captured, table.reason) == (False, None)
    assert await reconcile(capturing)
    (table,) = await tables.matching(capturing, "public", "t")
    assert table.captured


async def test_the_lag_of_a_table_is_that_of_its_oldest_change_that_no_server_has_read(
    capturing: asyncpg.Connection,
) -> None:
    await capturing.execute(TABLE + PUBLISHED + "; insert into t values (3, 3)")
    (never_read,) = await status(capturing)
    assert never_read.last is not None
    await capturing.execute("select rowcast.mark()")
    (read,) = await status(capturing)
    assert (read.changes, read.lag) == (1, 0.0)
    await capturing.execute("insert into t values (4, 4)")
    await capturing.execute("insert into t values (5, 5)")
    (behind,) = await status(capturing)
    older = await capturing.fetchval(
        "select extract(epoch from five.at - four.at)::float8"
        " from rowcast.outbox_0 as four, rowcast.outbox_0 as five"
        " where four.record like '%:4}' and five.record like '%:5}'"
    )
    assert never_read.lag > 0.0
    # It counts from the older of the two.
    assert behind.lag > older > 0.0


@pytest.fixture
async def accepting(migrated: str) -> AsyncIterator[Acceptance]:
    """What decides about subscriptions of a database."""
    async with asyncpg.create_pool(migrated, min_size=1, max_size=2) as pool:
        yield Acceptance(pool, Access(["anon"]), Relations(), asyncio.Event())


BINDING = parse_binding({"event": "*", "schema": "shop", "table": "t"})


async def test_who_may_not_read_is_told_the_grant_and_the_log_says_it_once(
    capturing: asyncpg.Connection, accepting: Acceptance
) -> None:
    await capturing.execute("create schema shop; create table shop.t (id int primary key)")
    await capturing.execute("alter publication supabase_realtime add table shop.t")
    usage, selects = "GRANT USAGE ON SCHEMA shop TO anon;", "GRANT SELECT ON shop.t TO anon;"
    with structlog.testing.capture_logs() as logs:
        for grant in (usage, selects):
            for _ in range(2):
                with pytest.raises(Refused, match=grant):
                    await accepting.accept(BINDING, "anon")
            await capturing.execute(grant)
        await accepting.accept(BINDING, "anon")
    assert [(entry["role"], entry["table"], entry["reason"].split(": ")[1]) for entry in logs] == [
        ("anon", "shop.t", usage),
        ("anon", "shop.t", selects),
    ]


async def test_who_waits_for_triggers_in_vain_is_told_that_they_wait(
    capturing: asyncpg.Connection, accepting: Acceptance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "_CAPTURE_WAIT", 0.0)
    await capturing.execute("drop event trigger rowcast_follow_ddl; create schema shop")
    await capturing.execute("create table shop.t (id int primary key)")
    await capturing.execute("alter publication supabase_realtime add table shop.t")
    with pytest.raises(Refused, match=tables.WAITING):
        await accepting.accept(BINDING, "anon")


async def test_what_a_join_asks_is_never_compiled_by_postgres(capturing: asyncpg.Connection) -> None:
    limit = float(await capturing.fetchval("show jit_above_cost"))
    question = tables._MATCHING.replace("$1", "'public'").replace("$2", "'t'")
    for statement in (question, "select * from rowcast.tables", "select * from rowcast.looks()"):
        (plan,) = json.loads(await capturing.fetchval(f"explain (format json) {statement}"))
        assert plan["Plan"]["Total Cost"] < limit / 10
