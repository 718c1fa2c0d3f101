"""The migration runner: versioned SQL once, repeatable functions whenever they change.

``NNNN_name.sql`` runs once, in a transaction of its own; its checksum stands in ``rowcast.migrations``.
``functions/*.sql`` are run again, all in one transaction, when any of them differs from what
``rowcast.functions`` holds. Two runners of one database wait for each other.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from rowcast.db.connection import ADVISORY_MIGRATE, connect
from rowcast.errors import MigrationError

_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
# Later files use what earlier ones define.
_FUNCTION_ORDER = ("capture", "relations", "publication", "triggers", "tables", "catalog", "retention", "messages")
_RETRY_SECONDS = 0.1

_LEDGER = """
create schema if not exists rowcast;
create table if not exists rowcast.migrations (
  version int primary key, name text not null, checksum text not null,
  applied_at timestamptz not null default clock_timestamp());
create table if not exists rowcast.functions (
  name text primary key, checksum text not null, applied_at timestamptz not null default clock_timestamp());
"""


@dataclass(frozen=True, slots=True)
class Script:
    """One SQL file. ``version`` is None for a repeatable one."""

    version: int | None
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


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
    order = [*_FUNCTION_ORDER, *sorted(set(found) - set(_FUNCTION_ORDER))]
    return versioned, [Script(None, name, found[name].read_text()) for name in order if name in found]


async def migrate(
    dsn: str,
    *,
    dry_run: bool = False,
    timeout: float = 120.0,
    place: Path | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> list[str]:
    """Bring the database at ``dsn`` to this version, and return the names of what was run (or would be).

    Raises MigrationError when the ledger is newer than the code or a file that has run was edited.
    """
    async with asyncio.timeout(timeout):
        connection = await connect(dsn, purpose="migrate", patience=None)
        try:
            if on_notice is not None:
                connection.add_log_listener(lambda _, message: on_notice(str(message)))
            return await _run(connection, scripts(place), dry_run)
        finally:
            await connection.close()


async def _run(
    connection: asyncpg.Connection, files: tuple[Sequence[Script], Sequence[Script]], dry_run: bool
) -> list[str]:
    versioned, repeatable = files
    # Trying, not waiting: a statement that waits for a lock holds a snapshot, and with it vacuum.
    while not await connection.fetchval("select pg_try_advisory_lock($1)", ADVISORY_MIGRATE):  # noqa: ASYNC110
        await asyncio.sleep(_RETRY_SECONDS)
    if dry_run:
        exists = await connection.fetchval("select to_regclass('rowcast.migrations') is not null")
        done, current = await _ledger(connection) if exists else ({}, {})
        pending, changed = _pending(versioned, done), _changed(repeatable, current)
        return [_label(script) for script in [*pending, *(repeatable if changed else [])]]
    await connection.execute(_LEDGER)
    done, current = await _ledger(connection)
    pending, changed = _pending(versioned, done), _changed(repeatable, current)
    for script in pending:
        async with connection.transaction():
            await connection.execute(script.sql)
            await connection.execute(
                "insert into rowcast.migrations (version, name, checksum) values ($1, $2, $3)",
                script.version,
                script.name,
                script.checksum,
            )
    # Views and functions depend on each other: when one differs, all are run.
    if changed:
        async with connection.transaction():
            for script in repeatable:
                await connection.execute(script.sql)
                await connection.execute(
                    "insert into rowcast.functions (name, checksum) values ($1, $2) on conflict (name)"
                    " do update set checksum = excluded.checksum, applied_at = clock_timestamp()",
                    script.name,
                    script.checksum,
                )
    return [_label(script) for script in [*pending, *(repeatable if changed else [])]]


async def _ledger(connection: asyncpg.Connection) -> tuple[dict[int, str], dict[str, str]]:
    done = await connection.fetch("select version, checksum from rowcast.migrations")
    current = await connection.fetch("select name, checksum from rowcast.functions")
    return {row["version"]: row["checksum"] for row in done}, {
        row["name"]: row["checksum"] for row in current
    }


def _pending(versioned: Sequence[Script], done: dict[int, str]) -> list[Script]:
    known = {script.version: script for script in versioned}
    if newer := sorted(set(done) - set(known)):
        raise MigrationError(
            f"The database has migration {newer[-1]}, which this version of Rowcast does not know. "
            "Run a Rowcast at least as new as the one that migrated it."
        )
    for version, checksum in done.items():
        if known[version].checksum != checksum:
            raise MigrationError(
                f"Migration {version} was edited after it ran. Put the file back as it was, "
                "and make the change in a new migration."
            )
    return [script for script in versioned if script.version not in done]


def _changed(repeatable: Sequence[Script], current: dict[str, str]) -> bool:
    return any(current.get(script.name) != script.checksum for script in repeatable)


def _label(script: Script) -> str:
    return f"functions/{script.name}" if script.version is None else f"{script.version:04}_{script.name}"
