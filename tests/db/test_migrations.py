"""Migrating while others do, and while an older release serves."""

import asyncio
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from rowcast import __version__
from rowcast.db.migrations import folder, migrate, scripts
from rowcast.db.notes import ROLES
from rowcast.errors import MigrationError
from rowcast_client import Change, create_client
from support import databases
from support.server import Server
from support.sites import Sites

pytestmark = pytest.mark.anyio

NEXT = "99.0.0"
BODIES = (
    "select string_agg(prosrc, '' order by oid) from pg_proc where pronamespace = 'rowcast'::regnamespace"
)
Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The SQL of a release to come: a migration more, and every function changed in its text."""
    place = tmp_path / "migrations"
    shutil.copytree(folder(), place)
    (place / "0999_next.sql").write_text(
        f"-- Works beside: {__version__}\nalter table rowcast.marks add column later int;\n"
    )
    for path in (place / "functions").glob("*.sql"):
        path.write_text(
            re.sub(r"^( *begin\n)", r"\1-- of the next release\n", path.read_text(), flags=re.MULTILINE)
        )
    return place


async def ask(dsn: str, query: str, *arguments: object) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", ["superuser", "creator"])
async def test_databases_of_one_cluster_migrate_at_once(sites: Sites, kind: str) -> None:
    """They make the same roles."""
    made = [sites.make(kind) for _ in range(4)]
    said: list[str] = []
    done = await asyncio.gather(*(migrate(site.owner, say=said.append) for site in made))
    versioned, repeatable = scripts()
    assert [len(names) for names in done] == [len(versioned) + len(repeatable)] * 4
    assert len(set(said)) == len(said) / 4 if kind == "creator" else not said
    for site in made:
        assert await migrate(site.owner) == []
        owner = (
            "select proowner::regrole::text from pg_proc where oid = 'rowcast.capture_insert()'::regprocedure"
        )
        assert await ask(site.owner, owner) == "rowcast_capture"
    assert await ask(
        made[0].admin, "select count(*) from pg_roles where rolname = any ($1::text[])", ROLES
    ) == len(ROLES)


async def test_one_database_migrated_by_several_at_once_is_migrated_once(database: str) -> None:
    done = await asyncio.gather(*(migrate(database) for _ in range(4)))
    versioned, repeatable = scripts()
    assert sorted(map(len, done)) == [0, 0, 0, len(versioned) + len(repeatable)]


async def test_a_failing_migration_leaves_nothing_of_itself_and_is_run_again(
    database: str, next_release: Path
) -> None:
    path = next_release / "0999_next.sql"
    text = path.read_text()
    path.write_text(text + "create table rowcast.half (id int); select 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(database, place=next_release)
    assert await ask(database, "select to_regclass('rowcast.half') is null")
    path.write_text(text)
    assert "0999_next" in await migrate(database, place=next_release)


async def test_an_older_release_never_puts_its_functions_back(migrated: str, next_release: Path) -> None:
    await migrate(migrated, place=next_release, release=NEXT)
    bodies = await ask(migrated, BODIES)
    assert "of the next release" in str(bodies)
    said: list[str] = []
    assert await migrate(migrated, beside=True, say=said.append) == []
    assert said == [f"The database was migrated by Rowcast {NEXT}; this is {__version__}."]
    with pytest.raises(MigrationError, match="Migrate with a release at least as new"):
        await migrate(migrated)
    with pytest.raises(MigrationError, match="at least as new"):
        await migrate(migrated, dry_run=True)
    assert await ask(migrated, BODIES) == bodies


async def test_a_server_delivers_all_while_the_next_release_migrates_under_it_and_may_restart(
    todos: str, serve: Serve, next_release: Path
) -> None:
    server = await serve(todos)
    connection = await asyncpg.connect(todos)
    heard: list[int] = []
    more = asyncio.Event()
    written = 0

    def on_change(change: Change) -> None:
        heard.append(change.new["id"])
        more.set()

    async def write(until: asyncio.Event) -> None:
        nonlocal written
        while not until.is_set():
            written += 1
            await connection.execute("insert into todos values ($1, 'x')", written)

    async def hears_all() -> None:
        async with asyncio.timeout(30):
            while len(heard) < written:
                more.clear()
                await more.wait()
        assert written > 0
        assert heard == list(range(1, written + 1))

    try:
        async with create_client(server.url, server.token()) as client:
            await (
                client.channel("one")
                .on("postgres_changes", on_change, event="*", schema="public", table="todos")
                .subscribe()
            )
            done = asyncio.Event()
            writing = asyncio.create_task(write(done))
            for number in range(3):
                await migrate(todos, place=next_release, release=NEXT)
                for path in (next_release / "functions").glob("*.sql"):
                    path.write_text(f"{path.read_text()}-- {number}\n")
            done.set()
            await writing
            await hears_all()
        # A rolling deployment restarts the older one, too.
        await server.restart()
        assert f"migrated by Rowcast {NEXT}" in server.printed()
        heard.clear()
        written = 0
        await connection.execute("truncate todos")
        async with create_client(server.url, server.token()) as client:
            await (
                client.channel("two")
                .on("postgres_changes", on_change, event="INSERT", schema="public", table="todos")
                .subscribe()
            )
            done = asyncio.Event()
            writing = asyncio.create_task(write(done))
            await migrate(todos, place=next_release, release=NEXT)
            done.set()
            await writing
            await hears_all()
        assert "of the next release" in str(await ask(todos, BODIES))
    finally:
        await connection.close()


async def test_a_server_that_does_not_work_beside_the_newer_schema_says_so_and_ends(
    migrated: str, serve: Serve, next_release: Path
) -> None:
    path = next_release / "0999_next.sql"
    path.write_text(path.read_text().replace(f"Works beside: {__version__}", "Works beside: 98.0.0"))
    await migrate(migrated, place=next_release, release=NEXT)
    with pytest.raises(
        AssertionError, match=f"(?s)exit code 1.*at least as new as the one that migrated it, {NEXT}"
    ):
        await serve(migrated)


async def test_a_database_that_kept_no_releases_and_no_notes_is_brought_on(migrated: str) -> None:
    databases.execute(
        migrated,
        "alter table rowcast.migrations drop column release, drop column beside;"
        "alter table rowcast.functions drop column release; drop table rowcast.notes",
    )
    assert await migrate(migrated) == []
    # What stood then may be anybody's.
    assert (
        await ask(migrated, "select was from rowcast.notes where kind = 'role' and name = 'anon'") == "there"
    )
