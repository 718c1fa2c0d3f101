"""Adding tables to the publication, and taking them out: what ``rowcast watch`` and ``unwatch`` do."""

import asyncio
import difflib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import asyncpg

from rowcast.errors import WatchError

_PUBLICATION: Final = "supabase_realtime"
_LOCK_TIMEOUT: Final = "200ms"
_PATIENCE: Final = 30.0
_RETRY: Final = (0.05, 1.0)

_DESCRIBE = """
select k.oid, k.relkind::text as kind, k.relpersistence::text as persistence,
       format('%I.%I', n.nspname, k.relname) as name,
       exists (select from pg_publication_rel as r join pg_publication as p on p.oid = r.prpubid
               where p.pubname = $3 and r.prrelid = k.oid) as member
from pg_class as k join pg_namespace as n on n.oid = k.relnamespace
where n.nspname = $1 and k.relname = $2
"""
# Postgres looks at the table that is written: each partition and each child has an identity of its own.
_UNIDENTIFIED = """
with recursive family as (
  select $1::oid as relid
  union select i.inhrelid from family as f join pg_inherits as i on i.inhparent = f.relid
)
select format('%I.%I', n.nspname, k.relname)
from family as f join pg_class as k on k.oid = f.relid join pg_namespace as n on n.oid = k.relnamespace
where k.relkind = 'r' and k.relreplident <> 'f' and not exists (
  select from pg_index as x
  where x.indrelid = k.oid and x.indisvalid and x.indimmediate
    and case k.relreplident when 'd' then x.indisprimary when 'i' then x.indisreplident else false end)
order by 1
"""
_PUBLISHED = "select exists (select from pg_publication where pubname = $1)"
_COVERED = "select exists (select from rowcast.wanted_tables() where relid = $1::oid)"
_REFUSAL = """select refusal from rowcast.wanted_tables()
where relid = $1::oid and refusal <> 'its partitions are captured'"""
_NAMES = """select n.nspname || '.' || k.relname
from pg_class as k join pg_namespace as n on n.oid = k.relnamespace
where k.relkind in ('r', 'p') and n.nspname not in ('rowcast', 'realtime', 'information_schema')
  and n.nspname not like 'pg\\_%'"""
_READERS = """select rolname from pg_roles where rolname in ('anon', 'authenticated')
  and not (has_table_privilege(oid, $1::oid, 'select'))"""
_KINDS: Final = {
    "v": "a view: its rows are not written, so there is nothing to capture. Watch the tables it reads",
    "m": "a materialized view, which Postgres cannot publish",
    "f": "a foreign table, which Postgres cannot publish. Watch it where it lives",
    "i": "an index",
    "S": "a sequence",
    "c": "a type",
}
_PERSISTENCE: Final = {"u": "unlogged", "t": "temporary"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done. ``hint`` is what the caller may want to do next, or None."""

    table: str
    changed: bool
    hint: str | None = None


def split_name(text: str) -> tuple[str, str]:
    """Schema and table, from ``table`` or ``schema.table``; either may be in double quotes."""
    parts, part, quoted, at = [], "", False, 0
    while at < len(text):
        character = text[at]
        if character == '"':
            if quoted and text[at + 1 : at + 2] == '"':
                part += '"'
                at += 1
            else:
                quoted = not quoted
        elif character == "." and not quoted:
            parts.append(part)
            part = ""
        else:
            part += character
        at += 1
    parts.append(part)
    if quoted or len(parts) > 2 or not all(parts):
        raise WatchError(
            f"{text!r} is no name of a table. Write table or schema.table; names with dots in quotes."
        )
    return ("public", parts[0]) if len(parts) == 1 else (parts[0], parts[1])


async def watch(connection: asyncpg.Connection, name: str, *, identity_full: bool = False) -> Outcome:
    """Add a table to the publication, and return once it is captured. Raises WatchError."""
    table = await _described(connection, name)
    if not await connection.fetchval(_PUBLISHED, _PUBLICATION):
        raise WatchError(
            f"The publication {_PUBLICATION} is missing. Make it with CREATE PUBLICATION {_PUBLICATION};"
        )
    # Captured without being named, too: by FOR ALL TABLES, by its schema, or as a partition.
    covered = table["member"] or await connection.fetchval(_COVERED, table["oid"])
    lacking = [record[0] for record in await connection.fetch(_UNIDENTIFIED, table["oid"])]
    if lacking and not identity_full:
        # Postgres itself refuses UPDATE and DELETE on a published table that has none.
        raise WatchError(
            "Postgres refuses updates and deletes on published tables without a replica identity: a primary "
            f"key that is not DEFERRABLE, or one set by ALTER TABLE. {', '.join(lacking)} has none. Run "
            + " ".join(f"ALTER TABLE {one} REPLICA IDENTITY FULL;" for one in lacking)
            + " first, or give --replica-identity-full."
        )

    async def publish() -> None:
        for one in dict.fromkeys([table["name"], *lacking]) if identity_full else ():
            await connection.execute("select rowcast.note_identity($1::text::regclass)", one)
            await connection.execute(f"alter table {one} replica identity full")
        if not covered:
            await connection.execute(f"alter publication {_PUBLICATION} add table {table['name']}")
            await connection.execute("select rowcast.note_published($1)", table["oid"])
        if refusal := await connection.fetchval(_REFUSAL, table["oid"]):
            raise WatchError(f"{table['name']} cannot be captured: {refusal}.")

    await _locked(connection, publish, table["oid"], table["name"])
    readers = [record["rolname"] for record in await connection.fetch(_READERS, table["oid"])]
    hint = f"GRANT SELECT ON {table['name']} TO {', '.join(readers)};" if readers else None
    return Outcome(table["name"], not covered, hint)


async def unwatch(connection: asyncpg.Connection, name: str) -> Outcome:
    """Take a table out of the publication, and return once it is no longer captured. Raises WatchError."""
    table = await _described(connection, name)

    async def withdraw() -> None:
        if table["member"]:
            await connection.execute(f"alter publication {_PUBLICATION} drop table {table['name']}")
            await connection.execute("select rowcast.forget_published($1)", table["oid"])
        if await connection.fetchval(_COVERED, table["oid"]):
            # The transaction is rolled back: nothing is half done.
            raise WatchError(
                f"{table['name']} stays captured: the publication {_PUBLICATION} lists all tables, its "
                "whole schema, or a table it is a part of. Change the publication, or unwatch that table."
            )

    await _locked(connection, withdraw, table["oid"], table["name"])
    return Outcome(table["name"], bool(table["member"]))


async def _described(connection: asyncpg.Connection, name: str) -> asyncpg.Record:
    schema, table = split_name(name)
    found = await connection.fetchrow(_DESCRIBE, schema, table, _PUBLICATION)
    if found is None:
        names = [record[0] for record in await connection.fetch(_NAMES)]
        near = difflib.get_close_matches(f"{schema}.{table}", names, n=1)
        raise WatchError(
            f"There is no table {schema}.{table}." + (f" Did you mean {near[0]}?" if near else "")
        )
    if found["kind"] in _KINDS:
        raise WatchError(f"{found['name']} is {_KINDS[found['kind']]}.")
    if found["persistence"] in _PERSISTENCE:
        raise WatchError(
            f"{found['name']} is {_PERSISTENCE[found['persistence']]}: Postgres publishes logged tables only."
        )
    if schema in ("rowcast", "realtime", "information_schema") or schema.startswith("pg_"):
        raise WatchError(
            f"{found['name']} belongs to the server or to Postgres itself and is never captured."
        )
    return found


async def _locked(
    connection: asyncpg.Connection, change: Callable[[], Awaitable[None]], oid: int, name: str
) -> None:
    """Change the publication and follow it, without making anybody wait long for us."""
    loop = asyncio.get_running_loop()
    deadline, delay = loop.time() + _PATIENCE, _RETRY[0]
    while True:
        try:
            async with connection.transaction():
                await connection.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'")
                await change()
                await connection.execute(
                    "select rowcast.install(relid) from ("
                    "select relid from rowcast.wanted_tables() where root = $1::oid"
                    " union select relid from rowcast.standing_triggers where relid = $1::oid) as t",
                    oid,
                )
            return
        except asyncpg.LockNotAvailableError:
            if loop.time() >= deadline:
                raise WatchError(
                    f"{name} is locked by an open transaction. End it (see pg_stat_activity), and try again."
                ) from None
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY[1])
        except asyncpg.InsufficientPrivilegeError as error:
            raise WatchError(f"{error}. Run this as the owner of {name} and of the publication.") from None
