"""The migration runner: versioned SQL once, repeatable functions whenever they change.

``NNNN_name.sql`` runs once, in a transaction of its own; its checksum stands in ``rowcast.migrations``.
``functions/*.sql`` are run again, all in one transaction, when any of them differs from what
``rowcast.functions`` holds. Two runners of one database wait for each other.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import asyncpg

from rowcast import __version__
from rowcast.db import notes
from rowcast.db.connection import ADVISORY_MIGRATE, UNHURRIED, connect
from rowcast.db.ledger import Applied, Ledger, Script, plan
from rowcast.db.rights import HINT, Missing, missing
from rowcast.errors import MigrationError

_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
# Later files use what earlier ones define.
_FUNCTION_ORDER = (
    "casts",
    "capture",
    "relations",
    "publication",
    "triggers",
    "tables",
    "catalog",
    "retention",
    "messages",
    "broadcasts",
    "visibility",
    "rights",
)
_MADE = re.compile(r"^create or replace (?:function|view) rowcast\.(\w+)", re.MULTILINE)
_GONE = """select to_regproc('rowcast.unfit') is null or exists (
  select from unnest($1::text[]) as name
  where not exists (select from pg_proc where pronamespace = 'rowcast'::regnamespace and proname = name)
    and not exists (select from pg_class where relnamespace = 'rowcast'::regnamespace and relname = name))"""
_RETRY_SECONDS = 0.1
_SETTLE_TRIES = 10

_LEDGER = """
create schema if not exists rowcast;
create table if not exists rowcast.migrations (
  version int primary key, name text not null, checksum text not null,
  applied_at timestamptz not null default clock_timestamp());
create table if not exists rowcast.functions (
  name text primary key, checksum text not null, applied_at timestamptz not null default clock_timestamp());
alter table rowcast.migrations add column if not exists release text, add column if not exists beside text;
alter table rowcast.functions add column if not exists release text;
"""
_TRY_LOCKS = "select bool_and(pg_try_advisory_xact_lock(key)) from unnest($1::bigint[]) as key"
_LEDGER_STANDS = "select to_regclass('rowcast.notes') is not null"
_OWNER = """
select r.rolname as name, r.rolsuper as superuser, pg_has_role(r.oid, 'usage') as mine,
       (select rolsuper from pg_roles where rolname = current_user) as by_superuser
from pg_namespace as n join pg_roles as r on r.oid = n.nspowner where n.nspname = 'rowcast'
"""


def folder() -> Path:
    """Where the SQL lies: inside the installed package, or at the top of a checkout."""
    here = Path(__file__).resolve().parent.parent
    for place in (here / "migrations", here.parent.parent / "migrations"):
        if place.is_dir():
            return place
    raise MigrationError("The SQL files are missing from this installation. Reinstall the rowcast package.")


def scripts(place: Path | None = None) -> tuple[list[Script], list[Script]]:
    """The versioned scripts in order, and the repeatable ones in order."""
    place = place or folder()
    versioned = [
        Script(int(match[1]), match[2], path.read_text())
        for path in sorted(place.glob("*.sql"))
        if (match := _NAME.fullmatch(path.name))
    ]
    found = {path.stem: path for path in (place / "functions").glob("*.sql")}
    order_ = [*_FUNCTION_ORDER, *sorted(set(found) - set(_FUNCTION_ORDER))]
    return versioned, [Script(None, name, found[name].read_text()) for name in order_ if name in found]


async def migrate(
    dsn: str,
    *,
    dry_run: bool = False,
    beside: bool = False,
    timeout: float = 120.0,
    place: Path | None = None,
    release: str = __version__,
    say: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Bring the database at ``dsn`` to this version, and return the names of what was run (or would be).

    ``say`` is called with what the user should know, a line each: what is missing here and cannot be made. A
    database that a newer release migrated is left as it is, which is an error unless ``beside``.

    Raises MigrationError when the ledger is newer than the code or a file that has run was edited, and when
    the schema belongs to somebody else.
    """
    async with asyncio.timeout(timeout), alone(dsn):
        connection = await connect(dsn, purpose="migrate", pooled=True, patience=None)
        try:
            await check_owner(connection)
            if not dry_run:
                await _begin(connection)
            versioned, repeatable = scripts(place)
            ledger = await _ledger(connection)
            if ledger.functions and await _damaged(connection, repeatable):
                ledger = replace(
                    ledger,
                    functions={name: replace(one, checksum="") for name, one in ledger.functions.items()},
                )
            planned = plan(versioned, repeatable, ledger, release)
            if planned.older is not None:
                if not beside:
                    raise MigrationError(f"{planned.older} Migrate with a release at least as new.")
                say(planned.older)
                return []
            if not dry_run:
                await _run(connection, planned.scripts, release)
                await _settle(connection)
                if (sentence := (await missing(connection)).sentence()) is not None:
                    say(sentence)
            return [_label(script) for script in planned.scripts]
        finally:
            await connection.close()


async def is_migrated(dsn: str) -> bool:
    """Whether the database at ``dsn`` was migrated by any release. Raises as ``connect`` does."""
    connection = await connect(dsn, purpose="migrate", pooled=True)
    try:
        return bool(await connection.fetchval(_LEDGER_STANDS))
    finally:
        await connection.close()


async def whats_missing(dsn: str, timeout: float = 30.0) -> Missing:
    """What an administrator would have to make in the database at ``dsn``, for the role of that address."""
    async with asyncio.timeout(timeout):
        connection = await connect(dsn, purpose="migrate", pooled=True)
        try:
            return await missing(connection)
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def alone(dsn: str, *locks: int) -> AsyncIterator[None]:
    """Be the only one who migrates the database at ``dsn`` while the context is open, and hold ``locks`` too.

    A transaction of its own does so: a session holds no lock behind a pooler.
    """
    wanted = [ADVISORY_MIGRATE, *locks]
    connection = await connect(dsn, purpose="migrate", pooled=True)
    try:
        while True:
            async with connection.transaction():
                await connection.execute(UNHURRIED)
                # Trying, not waiting: a statement that waits for a lock holds a snapshot, and with it vacuum.
                if await connection.fetchval(_TRY_LOCKS, wanted):
                    yield
                    return
            await asyncio.sleep(_RETRY_SECONDS)
    finally:
        await connection.close()


async def check_owner(connection: asyncpg.Connection) -> None:
    """Raise MigrationError unless the schema, if there is one, is the current role's to change."""
    owner = await connection.fetchrow(_OWNER)
    if owner is None:
        return
    if owner["by_superuser"] and not owner["superuser"]:
        # Its owner could have put anything into what a superuser runs here.
        raise MigrationError(
            f"The schema rowcast belongs to {owner['name']}, who is no superuser: run this as that role, and "
            "what `rowcast migrate --print-admin-sql` prints for it as a superuser."
        )
    if not owner["mine"]:
        raise MigrationError(f"The schema rowcast belongs to {owner['name']}: run this as {owner['name']}.")


async def _begin(connection: asyncpg.Connection) -> None:
    """Have a ledger, and note how everything outside our schema is found."""
    try:
        async with connection.transaction():
            if not await connection.fetchval(_LEDGER_STANDS):
                await connection.execute(_LEDGER + notes.TABLE)
            await notes.look(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(f"Postgres says: {error}. {HINT}") from None


async def _run(connection: asyncpg.Connection, planned: Sequence[Script], release: str) -> None:
    for script in planned:
        if script.version is None:
            continue
        async with connection.transaction():
            await connection.execute(UNHURRIED)
            await connection.execute(script.sql)
            await connection.execute(
                "insert into rowcast.migrations (version, name, checksum, release, beside)"
                " values ($1, $2, $3, $4, $5)",
                script.version,
                script.name,
                script.checksum,
                release,
                script.beside or release,
            )
    async with connection.transaction():
        await connection.execute(UNHURRIED)
        for script in planned:
            if script.version is not None:
                continue
            await connection.execute(script.sql)
            await connection.execute(
                "insert into rowcast.functions (name, checksum, release) values ($1, $2, $3)"
                " on conflict (name) do update set checksum = excluded.checksum, release = excluded.release,"
                " applied_at = clock_timestamp()",
                script.name,
                script.checksum,
                release,
            )


async def _settle(connection: asyncpg.Connection) -> None:
    for left in reversed(range(_SETTLE_TRIES)):
        try:
            await connection.execute("select rowcast.settle()")
            return
        except (asyncpg.InternalServerError, asyncpg.DeadlockDetectedError, asyncpg.UndefinedObjectError):
            # Roles are the cluster's: another database changed the same one at this moment.
            if not left:
                raise
            await asyncio.sleep(_RETRY_SECONDS)


async def _damaged(connection: asyncpg.Connection, repeatable: Sequence[Script]) -> bool:
    """Whether somebody dropped what the repeatable files make, or took rights away that they give."""
    made = [name for script in repeatable for name in _MADE.findall(script.sql)]
    return bool(await connection.fetchval(_GONE, made)) or bool(
        await connection.fetchval("select rowcast.unfit() is not null")
    )


async def _ledger(connection: asyncpg.Connection) -> Ledger:
    if not await connection.fetchval(_LEDGER_STANDS):
        return Ledger()
    done = await connection.fetch("select * from rowcast.migrations")
    functions = await connection.fetch("select * from rowcast.functions")
    return Ledger(
        {
            row["version"]: Applied(
                row["checksum"], row["release"] or "", row["beside"] or row["release"] or ""
            )
            for row in done
        },
        {row["name"]: Applied(row["checksum"], row["release"] or "", "") for row in functions},
    )


def _label(script: Script) -> str:
    return f"functions/{script.name}" if script.version is None else f"{script.version:04}_{script.name}"
