"""Snapshots: which rows somebody is given, in which order, by how many, and where the stream goes on."""

import asyncio

import asyncpg
import pytest

from rowcast.capture.cursors import Wanted
from rowcast.capture.reader import Reader
from rowcast.capture.snapshots import SnapshotError, Snapshots
from rowcast.model.claims import Subject
from support.snapshots import Table, asked, batches, fault, records, rows, snapshots, taken
from support.visible import subject
from support.waiting import until_so

pytestmark = pytest.mark.anyio

_GONE = """select not exists (select from pg_stat_activity
    where application_name = 'rowcast snapshots' and datname = current_database())"""
_WAITS = """
select exists (select from pg_locks as l join pg_stat_activity as a using (pid)
               where not l.granted and a.application_name = 'rowcast snapshots'
               and datname = current_database())
"""


@pytest.fixture
def source(migrated: str) -> Snapshots:
    return snapshots(migrated)


@pytest.fixture
async def notes(capturing: asyncpg.Connection) -> asyncpg.Connection:
    """A published table whose rows their owners may read, and one that everybody may."""
    await capturing.execute("""
        create table notes (id int primary key, owner text, body text);
        insert into notes values (1, 'ada', 'one'), (2, 'bob', 'two'), (3, 'ada', null);
        alter table notes enable row level security;
        create policy own on notes using (owner = auth.jwt() ->> 'sub');
        create table open (n int, "a b" text, primary key (n));
        insert into open select n, 'x' || n from generate_series(1, 7) as n;
        grant select on notes, open to anon, authenticated;
        alter publication supabase_realtime add table notes, open;
    """)
    return capturing


async def test_a_subscriber_is_given_the_rows_that_it_may_select(
    source: Snapshots, notes: asyncpg.Connection
) -> None:
    assert [row["id"] for row in await rows(source, notes, "notes", subject(sub="ada"))] == [1, 3]
    assert await rows(source, notes, "notes", subject(sub="eve")) == []
    assert len(await rows(source, notes, "open")) == 7


async def test_only_columns_that_were_asked_for_and_may_be_read_are_given(
    source: Snapshots, notes: asyncpg.Connection
) -> None:
    assert (await rows(source, notes, "notes", subject(sub="bob"), select=["body"])) == [
        {"id": 2, "body": "two"}
    ]
    await notes.execute("revoke select on open from anon; grant select (n) on open to anon")
    assert (await rows(source, notes, "open", snapshot={"limit": 1})) == [{"n": 1}]
    assert await fault(source, notes, "open", snapshot={"order": '"a b"'}) == "invalid column for order a b"
    await notes.execute("revoke select (n) on open from anon")
    assert "permission denied" in await fault(source, notes, "open")


async def test_rows_come_in_the_order_and_number_that_was_asked_for(
    source: Snapshots, notes: asyncpg.Connection
) -> None:
    found = await rows(source, notes, "open", snapshot={"order": "n.desc", "limit": 3})
    assert [row["n"] for row in found] == [7, 6, 5]
    await notes.execute('update open set "a b" = null where n = 4')
    found = await rows(source, notes, "open", snapshot={"order": '"a b".desc.nullslast,n'}, filter="n=gt.2")
    assert [row["n"] for row in found] == [7, 6, 5, 3, 4]
    await notes.execute("alter table open add j json")
    assert "42883" in await fault(source, notes, "open", snapshot={"order": "j"})


async def test_rows_come_in_batches_of_so_many_rows_and_bytes(
    migrated: str, notes: asyncpg.Connection
) -> None:
    few, _ = await batches(snapshots(migrated), notes, subject(), asked("open", snapshot={"batch": 3}))
    assert [len(batch.images) for batch in few] == [3, 3, 1]
    assert [batch.last for batch in few] == [False, False, True]
    small, _ = await batches(snapshots(migrated, limit=50), notes, subject(), asked("open"))
    assert [len(batch.images) for batch in small] == [2, 2, 2, 1]
    assert records(small) == records(few)
    one, _ = await batches(snapshots(migrated, limit=1), notes, subject(), asked("open"))
    assert [len(batch.images) for batch in one] == [1] * 7


async def test_an_empty_table_gives_one_batch_that_is_the_last(
    source: Snapshots, notes: asyncpg.Connection
) -> None:
    await notes.execute("delete from open")
    (batch,), faults = await batches(source, notes, subject(), asked("open"))
    assert (batch.images, batch.last, dict(faults)) == ([], True, {})


async def test_several_bindings_see_one_moment_and_a_fault_of_one_is_its_own(
    source: Snapshots, notes: asyncpg.Connection
) -> None:
    await notes.execute("create policy p on notes using (1 / (id - id) = 1)")
    entries = asked("open"), asked("notes"), asked("open", filter="n=lt.3")
    async with taken(source, notes, subject(sub="ada"), *entries) as found:
        await notes.execute("delete from open")
        given = [batch async for batch in found.batches()]
    assert {place: text.split(" (")[0] for place, text in found.faults.items()} == {
        1: "Postgres refused to read it"
    }
    assert [row["n"] for row in records(given, 0)] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["n"] for row in records(given, 2)] == [1, 2]


async def test_the_stream_goes_on_from_a_snapshot_without_loss_or_repetition(
    source: Snapshots, notes: asyncpg.Connection, migrated: str
) -> None:
    writer = await asyncpg.connect(migrated)
    open_write = writer.transaction()
    await open_write.start()
    await writer.execute("insert into open values (100)")
    async with taken(source, notes, subject(), asked("open")) as found:
        given = [row["n"] for row in records([batch async for batch in found.batches()])]
        await open_write.commit()
        await writer.execute("insert into open values (101)")
        reader = Reader()
        await reader.open(writer)
        reader.go_to(found.position)
        changes = [row.record for page in [p async for p in reader.read(writer)] for row in page.rows]
    await writer.close()
    assert given == [1, 2, 3, 4, 5, 6, 7]
    assert changes == ['{"n":100,"a b":null}', '{"n":101,"a b":null}']


async def test_the_rows_of_partitions_come_under_their_root_by_the_publications_filter(
    source: Snapshots, notes: asyncpg.Connection
) -> None:
    await notes.execute("""
        create table parted (n int primary key, body text) partition by range (n);
        create table low partition of parted for values from (0) to (10);
        create table high (body text, n int primary key);
        alter table parted attach partition high for values from (10) to (20);
        insert into parted select n, n::text from generate_series(8, 12) as n;
        grant select on parted to anon;
        alter publication supabase_realtime add table parted;
        create table kept (n int primary key); insert into kept values (1), (2); grant select on kept to anon;
        alter publication supabase_realtime add table kept where (n > 1);
    """)
    assert await rows(source, notes, "parted") == [{"n": n, "body": str(n)} for n in range(8, 13)]
    assert await rows(source, notes, "kept") == [{"n": 2}]
    await notes.execute("alter publication supabase_realtime add table low where (n > 8)")
    assert [row["n"] for row in await rows(source, notes, "parted")] == [9, 10, 11, 12]


async def test_a_table_that_is_rewritten_meanwhile_is_read_again(
    source: Snapshots, notes: asyncpg.Connection, migrated: str
) -> None:
    locker = await asyncpg.connect(migrated)
    altering = locker.transaction()
    await altering.start()
    await locker.execute("alter table open alter n type int8")
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(rows(source, other := await asyncpg.connect(migrated), "open"))
        # It has its moment by then, and waits for the table.
        await until_so(notes, _WAITS)
        await altering.commit()
    assert len(reading.result()) == 7
    await other.close()
    await locker.close()


async def test_none_is_taken_through_a_pooler_of_transactions(
    source: Snapshots, notes: asyncpg.Connection
) -> None:
    source.pooled = True
    with pytest.raises(SnapshotError, match="ROWCAST_DIRECT_URL"):
        await rows(source, notes, "open")


async def test_others_wait_for_a_place_and_who_does_not_take_its_rows_gives_it_up(
    migrated: str, notes: asyncpg.Connection
) -> None:
    source = snapshots(migrated, most=1, idle=0.2)
    async with taken(source, notes, subject(), asked("open", snapshot={"batch": 2})) as found:
        given = found.batches()
        assert len((await anext(given)).images) == 2
        # It has the only place, and asks for no more: the next one gets it.
        assert len(await rows(source, notes, "open")) == 7
        with pytest.raises(SnapshotError, match="not taken"):
            await anext(given)


async def test_a_snapshot_whose_rows_were_all_fetched_keeps_no_place_and_no_connection(
    migrated: str, notes: asyncpg.Connection
) -> None:
    source = snapshots(migrated, most=1)
    async with taken(source, notes, subject(), asked("open")) as found:
        given = found.batches()
        assert (await anext(given)).last
        assert len(await rows(source, notes, "open")) == 7
        await until_so(notes, _GONE)
        with pytest.raises(StopAsyncIteration):
            await anext(given)


async def test_who_goes_away_while_it_is_read_leaves_nothing_running(
    migrated: str, notes: asyncpg.Connection
) -> None:
    source = snapshots(migrated, most=1)
    locker, other = await asyncpg.connect(migrated), await asyncpg.connect(migrated)
    async with locker.transaction():
        await locker.execute("lock table open")
        reading = asyncio.create_task(rows(source, other, "open"))
        await until_so(notes, _WAITS)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until_so(notes, _GONE)
    assert len(await rows(source, notes, "open")) == 7
    await other.close()
    await locker.close()


async def test_nothing_holds_back_vacuum_while_rows_are_taken(
    migrated: str, notes: asyncpg.Connection
) -> None:
    source = snapshots(migrated)
    async with taken(source, notes, subject(), asked("open", snapshot={"batch": 1})) as found:
        given = found.batches()
        await anext(given)
        await notes.execute("delete from open")
        (holds,) = await notes.fetch(
            "select backend_xmin, backend_xid, state from pg_stat_activity"
            " where application_name = $1 and datname = current_database()",
            "rowcast snapshots",
        )
        assert tuple(holds) == (None, None, "idle")
        assert len([batch async for batch in given]) == 6


async def test_a_connection_that_is_lost_ends_the_rows_with_an_error(
    migrated: str, notes: asyncpg.Connection
) -> None:
    source = snapshots(migrated, most=1)
    async with taken(source, notes, subject(), asked("open", snapshot={"batch": 1})) as found:
        given = found.batches()
        await anext(given)
        await notes.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = $1 and datname = current_database()",
            "rowcast snapshots",
        )
        with pytest.raises(SnapshotError, match="was lost"):
            await anext(given)
    assert len(await rows(source, notes, "open")) == 7


async def test_a_table_that_is_gone_or_not_captured_is_a_fault(
    source: Snapshots, notes: asyncpg.Connection
) -> None:
    await notes.execute("create table bare (n int); grant select on bare to anon")
    assert await fault(source, notes, "bare") == "the table is not captured"
    assert "act as" in await fault(source, notes, "open", Subject("nobody"))
    async with source.take(subject(), [Wanted(asked("open"), [Table(1)])]) as found:
        assert found.faults == {0: "the table is gone"}
        assert [batch async for batch in found.batches()] == []


async def test_more_than_the_database_allows_on_its_disk_is_a_fault(
    source: Snapshots, notes: asyncpg.Connection
) -> None:
    name = await notes.fetchval("select current_database()")
    await notes.execute(f"alter database {name} set temp_file_limit = '64kB'")
    await notes.execute(f"alter database {name} set work_mem = '64kB'")
    await notes.execute("insert into open select n, repeat('x', 100) from generate_series(8, 5000) as n")
    assert "temp_file_limit" in await fault(source, notes, "open")
    assert len(await rows(source, notes, "open", filter="n=lt.8")) == 7
