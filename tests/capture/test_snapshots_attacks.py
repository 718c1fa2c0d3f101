"""What a policy's code might try on the session that reads a snapshot, and what does not come of it."""

import asyncpg
import pytest

from rowcast.capture.snapshots import SnapshotError, Snapshots
from support.snapshots import asked, batches, fault, records, rows, snapshots
from support.visible import subject
from support.waiting import until_so

pytestmark = pytest.mark.anyio

ADA = subject(sub="ada")
GONE = """select not exists (select from pg_stat_activity
    where application_name = 'rowcast snapshots' and datname = current_database())"""


@pytest.fixture
async def admin(capturing: asyncpg.Connection) -> asyncpg.Connection:
    """A database with a table ``notes`` whose policy calls ``trick()``, and one ``other`` of owners' rows."""
    await capturing.execute("""
        create table notes (id int primary key, owner text);
        insert into notes values (1, 'ada'), (2, 'bob');
        create table other (like notes including all); insert into other select * from notes;
        create table secrets (n int); insert into secrets values (7);
        create table written (n int); grant all on written to public;
        create sequence counted; grant all on sequence counted to public;
        grant create on schema public to public;
        create function trick() returns bool language sql as 'select true';
        alter table notes enable row level security;
        alter table other enable row level security;
        create policy p on notes using (trick() and owner = auth.jwt() ->> 'sub');
        create policy p on other using (owner = auth.jwt() ->> 'sub');
        grant select on notes, other to anon, authenticated;
        alter publication supabase_realtime add table notes, other;
    """)
    return capturing


async def _trick(admin: asyncpg.Connection, body: str) -> None:
    await admin.execute(
        "create or replace function trick() returns bool language plpgsql as"
        f" $trick$ begin {body}; return true; end $trick$"
    )


async def test_code_of_a_policy_neither_changes_the_role_nor_writes_nor_reads_more(
    admin: asyncpg.Connection, migrated: str
) -> None:
    source = snapshots(migrated)
    for attempt in (
        "perform set_config('role', session_user::text, true)",
        "perform set_config('role', 'none', false)",
        "execute 'reset role'",
        "execute 'set role authenticated'",
        "execute format('set role %I', session_user)",
        "execute 'set session authorization default'",
        "perform from secrets",
        "create table stolen ()",
        "insert into written values (1)",
        "perform set_config('transaction_read_only', 'off', true); insert into written values (1)",
        "perform nextval('counted')",
        "execute 'alter function pg_temp.rowcast_snapshot_0(text, text, text, int, int) security invoker'",
        "execute 'create function pg_temp.mine() returns int language sql as ''select 1'''",
        "commit",
        "raise sqlstate 'RW000'",
        "perform pg_read_file('/etc/passwd')",
    ):
        await _trick(admin, attempt)
        assert await fault(source, admin, "notes", ADA), attempt
    assert await admin.fetchval("select count(*) from written") == 0
    await _trick(admin, "if current_user <> 'anon' then raise 'who?'; end if")
    assert await rows(source, admin, "notes", ADA) == [{"id": 1, "owner": "ada"}]


async def test_what_a_policy_sets_reaches_neither_the_next_table_nor_the_next_subscriber(
    admin: asyncpg.Connection, migrated: str
) -> None:
    source = snapshots(migrated, most=1)
    for local in ("true", "false"):
        await _trick(
            admin,
            f"""
            perform set_config('request.jwt.claims', '{{"sub": "bob"}}', {local}),
                    set_config('search_path', 'nowhere', {local}), set_config('row_security', 'off', {local}),
                    set_config('statement_timeout', '1', {local})
            """,
        )
        found, _ = await batches(source, admin, ADA, asked("notes"), asked("other"))
        assert records(found, 1) == [{"id": 1, "owner": "ada"}]
        assert await rows(source, admin, "other", subject(sub="bob")) == [{"id": 2, "owner": "bob"}]


async def test_a_policy_cannot_take_rows_from_another_tables_snapshot_unnoticed(
    admin: asyncpg.Connection, migrated: str
) -> None:
    source = snapshots(migrated)
    await admin.execute("insert into other select n, 'ada' from generate_series(10, 20) as n")
    for attempt in ("move 1 from", "move all from", "close"):
        await _trick(admin, f"execute '{attempt} rowcast_snapshot_0'")
        with pytest.raises(SnapshotError, match="lost"):
            await batches(source, admin, ADA, asked("other", snapshot={"batch": 2}), asked("notes"))


async def test_what_a_policy_leaves_in_the_session_is_in_nobodys_way(
    admin: asyncpg.Connection, migrated: str
) -> None:
    source = snapshots(migrated)
    await _trick(
        admin,
        "if not exists (select from pg_prepared_statements) then"
        " execute 'prepare rowcast as select 1'; end if; perform pg_advisory_lock(42)",
    )
    found, _ = await batches(source, admin, ADA, asked("notes", snapshot={"batch": 1}), asked("other"))
    assert records(found, 1) == [{"id": 1, "owner": "ada"}]
    assert await admin.fetchval("select pg_try_advisory_lock(42)")


async def test_no_text_of_an_error_reaches_the_subscriber(admin: asyncpg.Connection, migrated: str) -> None:
    await _trick(admin, "raise 'the row of bob' using errcode = '42501', detail = 'the row of bob'")
    said = await fault(snapshots(migrated), admin, "notes", ADA)
    assert "permission denied" in said
    assert "bob" not in said
    # Nor is the database taken to be away because a policy says so.
    await _trick(admin, "raise 'the row of bob' using errcode = '57P01'")
    assert "57P01" in await fault(snapshots(migrated), admin, "notes", ADA)


async def test_a_policy_that_takes_for_ever_is_ended_and_its_place_given_to_others(
    admin: asyncpg.Connection, migrated: str
) -> None:
    source = snapshots(migrated, seconds=2.0, most=1)
    await _trick(admin, "perform pg_sleep(600)")
    found, faults = await batches(source, admin, ADA, asked("other"), asked("notes"))
    assert "ROWCAST_SNAPSHOT_TIMEOUT" in faults[1]
    assert records(found) == [{"id": 1, "owner": "ada"}]
    await _trick(
        admin, "loop begin perform pg_sleep(600); exception when query_canceled then null; end; end loop"
    )
    with pytest.raises(SnapshotError, match="ROWCAST_SNAPSHOT_TIMEOUT"):
        await rows(source, admin, "notes", ADA)
    await until_so(admin, GONE)
    assert await rows(snapshots(migrated), admin, "other", ADA) == [{"id": 1, "owner": "ada"}]


async def test_a_claim_or_a_name_is_no_sql(admin: asyncpg.Connection, migrated: str) -> None:
    source: Snapshots = snapshots(migrated)
    await _trick(admin, "null")
    for sub in ("'); reset role; --", "\\'", "%s%%", "$1", 'q"', "é😀"):
        await admin.execute("update notes set owner = $1 where id = 1", sub)
        assert await rows(source, admin, "notes", subject(sub=sub)) == [{"id": 1, "owner": sub}], sub
    await admin.execute("""
        create schema "s'%"; create table "s'%"."t"" %s ' \\ $1" ("c'%s "" \\" text primary key);
        insert into "s'%"."t"" %s ' \\ $1" values ('v'), ('it''s \\ %s $1');
        grant usage on schema "s'%" to anon; grant select on all tables in schema "s'%" to anon;
        alter publication supabase_realtime add table "s'%"."t"" %s ' \\ $1";
    """)
    column = "c'%s \" \\"
    filter_ = 'and=("c\'%s \\" \\\\".eq."it\'s \\\\ %s $1")'
    found = await rows(source, admin, "t\" %s ' \\ $1", schema="s'%", filter=filter_)
    assert found == [{column: "it's \\ %s $1"}]
