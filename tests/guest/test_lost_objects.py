"""What somebody takes away from a running server: rights, functions, triggers, the whole schema."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.request import urlopen

import asyncpg
import pytest

from rowcast.capture.parts import SCHEMA_MISSING
from rowcast.capture.stream import Stream
from rowcast.db.migrations import migrate
from support.server import Server
from support.streams import streaming, subscribed
from support.waiting import until, until_so

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

TABLE = """
create table things (id bigint primary key);
grant select on things to service_role;
alter publication supabase_realtime add table things;
"""


@pytest.fixture
async def owner(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection to a database with a captured table, whose lease runs."""
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLE + "select rowcast.renew_lease(3600)")
    yield connection
    await connection.close()


async def _now(value: bool) -> bool:
    return value


async def fault(stream: Stream, holds: Callable[[str | None], bool]) -> str | None:
    """Wait until what is said of capture is as wanted."""
    await until(lambda: _now(holds(stream.faults().get("capture"))))
    return stream.faults().get("capture")


@pytest.mark.parametrize(
    ("taken", "names"),
    [
        ("revoke insert on rowcast.outbox_0 from rowcast_capture", "insert into rowcast.outbox_0"),
        ("revoke usage on schema rowcast from rowcast_capture", "the schema rowcast"),
        ("revoke usage on sequence rowcast.seq from rowcast_capture", "use rowcast.seq"),
        (
            "revoke select on sequence rowcast.current_outbox from rowcast_capture",
            "use rowcast.current_outbox",
        ),
        ("revoke execute on function rowcast.pin(text) from rowcast_capture", "call rowcast.pin"),
        ("alter function rowcast.capture_insert() owner to anon", "anon may not"),
        ("drop owned by rowcast_capture cascade", "is gone"),
        ("drop function rowcast.capture_insert() cascade", "is gone"),
        ("drop function rowcast.pin(text)", "is gone"),
    ],
)
async def test_what_was_taken_away_is_said_and_migrating_gives_it_back(
    owner: asyncpg.Connection, migrated: str, taken: str, names: str
) -> None:
    async with streaming(migrated) as stream:
        await fault(stream, lambda text: text is None and not stream.faults())
        await owner.execute(taken)
        text = await fault(stream, lambda text: text is not None)
        assert text is not None
        assert names in text
        assert text.endswith("run rowcast migrate")
        assert await migrate(migrated)
        await fault(stream, lambda text: text is None)
        kept = await subscribed(stream, "things")
        await owner.execute("insert into things values (1)")
        await kept.until(lambda: len(kept.changes) == 1)


async def test_migrating_twice_runs_nothing_where_nothing_is_lost(migrated: str) -> None:
    assert await migrate(migrated) == []


@pytest.mark.parametrize(
    "taken",
    [
        "revoke insert on rowcast.outbox_0 from rowcast_capture",
        "revoke usage on sequence rowcast.seq from rowcast_capture",
    ],
)
async def test_a_write_that_cannot_be_captured_fails_and_names_how_to_stop_capturing(
    owner: asyncpg.Connection, taken: str
) -> None:
    await owner.execute(taken)
    with pytest.raises(asyncpg.InsufficientPrivilegeError) as failed:
        await owner.execute("insert into things values (1)")
    assert "rowcast unwatch" in str(failed.value.as_dict().get("context"))


async def test_a_write_fails_too_where_the_flags_cannot_be_read(owner: asyncpg.Connection) -> None:
    # Newer releases of Postgres give null for a sequence that may not be read, older ones an error.
    await owner.execute("revoke select on sequence rowcast.current_outbox from rowcast_capture")
    with pytest.raises(asyncpg.PostgresError):
        await owner.execute("insert into things values (1)")
    assert await owner.fetchval("select count(*) from things") == 0


async def test_a_dropped_schema_disturbs_no_writer_and_ends_channels_until_it_is_back(
    owner: asyncpg.Connection, migrated: str
) -> None:
    written = 0
    stop = asyncio.Event()

    async def write() -> None:
        nonlocal written
        writer = await asyncpg.connect(migrated)
        try:
            while not stop.is_set():
                await writer.execute("insert into things values ($1)", written + 1)
                written += 1
        finally:
            writer.terminate()

    async with streaming(migrated) as stream, asyncio.TaskGroup() as tasks:
        kept = await subscribed(stream, "things")
        tasks.create_task(write())
        await kept.until(lambda: len(kept.changes) > 10)
        # In the order in which writers lock; the server reads several tables at once, in another.
        while True:
            with contextlib.suppress(asyncpg.DeadlockDetectedError):
                async with owner.transaction():
                    await owner.execute("lock table things; drop schema rowcast cascade")
                break
        await kept.until(lambda: kept.losses == 1)
        assert await fault(stream, lambda text: text == SCHEMA_MISSING) == SCHEMA_MISSING
        # Another table takes the number that things had among the versions.
        await owner.execute("create table other (name text primary key, note text)")
        await owner.execute("grant select on other to service_role")
        await owner.execute("alter publication supabase_realtime drop table things")
        await owner.execute("alter publication supabase_realtime add table other")
        await migrate(migrated)
        await fault(stream, lambda text: text is None and not stream.faults())
        again = await subscribed(stream, "other")
        await owner.execute("insert into other values ('a', 'b')")
        await again.until(lambda: len(again.changes) == 1)
        assert again.changes[0]["record"] == {"name": "a", "note": "b"}
        assert (again.losses, kept.losses) == (0, 1)
        stop.set()
    assert await owner.fetchval("select count(*) from things") == written


async def test_a_server_says_that_the_schema_is_gone_and_does_not_spin(
    owner: asyncpg.Connection, migrated: str, serve: Callable[..., Awaitable[Server]]
) -> None:
    server = await serve(migrated)
    await owner.execute("drop schema rowcast cascade")

    def ready() -> dict[str, str]:
        try:
            with urlopen(f"{server.url}/readyz") as answer:
                return dict(json.load(answer))
        except Exception as refused:
            return dict(json.loads(refused.read())["faults"])  # type: ignore[attr-defined]

    async def told() -> bool:
        return await asyncio.to_thread(ready) == {"capture": SCHEMA_MISSING}

    await until(told)
    # Each part tries again, on a connection of its own, and one line tells of it.
    sessions = "select sessions from pg_stat_database where datname = current_database()"
    before = await owner.fetchval(sessions)
    await until_so(owner, f"select ({sessions}) >= $1", before + 12)
    assert server.printed().count("schema_missing") == 1
    assert len(server.printed().splitlines()) < 20
    await migrate(migrated)

    async def well() -> bool:
        return (await asyncio.to_thread(ready)).get("status") == "ready"

    await until(well)


async def test_subscribers_of_a_dropped_publication_are_told_and_writers_go_on(
    owner: asyncpg.Connection, migrated: str
) -> None:
    async with streaming(migrated) as stream:
        kept = await subscribed(stream, "things")
        await owner.execute("drop publication supabase_realtime; insert into things values (1)")
        await kept.until(lambda: len(kept.told) == 1)
        assert kept.told[0][0] == "error"
        assert not await owner.fetchval("select exists (select from rowcast.standing_triggers)")
        await owner.execute("create publication supabase_realtime for table things")
        await kept.until(lambda: len(kept.told) == 2)
        await owner.execute("insert into things values (2)")
        await kept.until(lambda: len(kept.changes) == 1)
        assert kept.changes[0]["record"] == {"id": 2}


async def test_a_dropped_trigger_comes_back(owner: asyncpg.Connection, migrated: str) -> None:
    async with streaming(migrated) as stream:
        kept = await subscribed(stream, "things")
        await owner.execute('drop trigger "!rowcast_insert" on things')

        async def stand() -> bool:
            return bool(await owner.fetchval("select count(*) = 4 from rowcast.standing_triggers"))

        await until(stand)
        await owner.execute("insert into things values (1)")
        await kept.until(lambda: len(kept.changes) == 1)


@pytest.mark.parametrize("which", ["all", "user"])
async def test_disabled_triggers_stay_so_and_it_is_said(
    owner: asyncpg.Connection, migrated: str, which: str
) -> None:
    async with streaming(migrated) as stream:
        kept = await subscribed(stream, "things")
        await owner.execute(f"alter table things disable trigger {which}; insert into things values (1)")
        await kept.until(lambda: len(kept.told) == 1)
        assert "its triggers are disabled" in kept.told[0][1]
        await owner.execute(f"alter table things enable trigger {which}")
        await kept.until(lambda: len(kept.told) == 2)
        await owner.execute("insert into things values (2)")
        await kept.until(lambda: len(kept.changes) == 1)
        assert kept.changes[0]["record"] == {"id": 2}
