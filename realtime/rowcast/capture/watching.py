"""Adding tables to the publication, and taking them out: what ``rowcast watch`` and ``unwatch`` do."""

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from rowcast.db.rights import HINT
from rowcast.errors import WatchError

_PUBLICATION: Final = "supabase_realtime"
_LOCK_TIMEOUT: Final = "200ms"
_PATIENCE: Final = 30.0
_RETRY: Final = (0.05, 1.0)

_DESCRIBE = """
select k.oid, k.relkind::text as kind, k.relpersistence::text as persistence,
       format('%I.%I', n.nspname, k.relname) as name
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
_COVERED = "select exists (select from rowcast.wanted_of(array[$1::oid]))"
# A table with its children that inherit, and whether the publication brings each of them, and names it.
_FAMILY = """
with recursive family as (
  select $1::oid as relid
  union select i.inhrelid from family as f join pg_inherits as i on i.inhparent = f.relid
  join pg_class as c on c.oid = i.inhrelid where not c.relispartition
)
select f.relid, format('%I.%I', n.nspname, k.relname) as name,
       exists (select from rowcast.wanted_of(array[f.relid])) as covered,
       exists (select from pg_publication_rel as r join pg_publication as p on p.oid = r.prpubid
               where p.pubname = $2 and r.prrelid = f.relid) as member
from family as f join pg_class as k on k.oid = f.relid join pg_namespace as n on n.oid = k.relnamespace
order by f.relid <> $1, name
"""
_REFUSAL = """
select format('%I.%I', n.nspname, k.relname) as name, w.refusal, w.relid = w.root as whole
from rowcast.wanted_tables() as w
join pg_class as k on k.oid = w.relid join pg_namespace as n on n.oid = k.relnamespace
where w.root = any($1::oid[]) and w.refusal is not null order by 1 limit 1
"""
_INSTALL = """
select rowcast.install(relid) from (
  select relid from rowcast.wanted_tables() where root = any($1::oid[])
  union select s.relid from rowcast.standing_triggers as s
  where s.relid = any($1::oid[])
    or s.relid in (select t.relid from unnest($1::oid[]) as o, pg_partition_tree(o) as t)
) as t
"""
_OWNERS = """
select quote_ident(o.rolname) as owner, quote_ident(current_user) as me,
       (select quote_ident(r.rolname) from pg_publication as p join pg_roles as r on r.oid = p.pubowner
        where p.pubname = $2) as publisher
from pg_class as k join pg_roles as o on o.oid = k.relowner where k.oid = $1
"""
_READ_BY = """
select distinct format('%I.%I', n.nspname, k.relname)
from pg_rewrite as w join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
join pg_class as k on d.refclassid = 'pg_class'::regclass and k.oid = d.refobjid
join pg_namespace as n on n.oid = k.relnamespace
where w.ev_class = $1 and k.relkind in ('r', 'p') order by 1
"""
_NAMES = """select n.nspname || '.' || k.relname
from pg_class as k join pg_namespace as n on n.oid = k.relnamespace
where k.relkind in ('r', 'p') and n.nspname not in ('rowcast', 'realtime', 'information_schema')
  and n.nspname not like 'pg\\_%'"""
_READERS = """
select quote_ident(r.rolname) as role, quote_ident(n.nspname) as schema,
       has_schema_privilege(r.oid, n.oid, 'usage') as usage,
       has_table_privilege(r.oid, k.oid, 'select') as selects
from pg_roles as r, pg_class as k join pg_namespace as n on n.oid = k.relnamespace
where r.rolname in ('anon', 'authenticated') and k.oid = $1 order by 1
"""
_KINDS: Final = {
    "v": "a view: its rows are not written, so there is nothing to capture. Watch the tables it reads",
    "m": "a materialized view, which Postgres cannot publish. Watch the tables it reads",
    "f": "a foreign table, whose changes are not seen here. Watch it in the database where it lives",
    "i": "an index. Watch its table",
    "I": "an index. Watch its table",
    "S": "a sequence. Watch the table whose column it numbers",
    "c": "a type. Watch a table",
    "t": "where Postgres keeps large values of a table. Watch that table",
}


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
    family = await connection.fetch(_FAMILY, table["oid"], _PUBLICATION)
    # Captured without being named, too: by FOR ALL TABLES, by its schema, or as a partition.
    added = [record for record in family if not record["covered"]]
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
        if added:
            names = ", ".join(f"only {record['name']}" for record in added)
            await connection.execute(f"alter publication {_PUBLICATION} add table {names}")
        for record in added:
            await connection.execute("select rowcast.note_published($1)", record["relid"])
        if refused := await connection.fetchrow(_REFUSAL, [record["relid"] for record in family]):
            raise WatchError(_refusal(table["name"], refused))

    await _locked(connection, publish, "ADD", table, [record["relid"] for record in family])
    return Outcome(table["name"], bool(added), _grants(await connection.fetch(_READERS, table["oid"]), table))


def _refusal(name: str, refused: asyncpg.Record) -> str:
    text = f"{name} cannot be captured: "
    if not refused["whole"]:
        text += f"of its partition {refused['name']}, "
    if refused["refusal"] == "it is unlogged":
        return text + f"it is unlogged. Run ALTER TABLE {refused['name']} SET LOGGED; first."
    if refused["refusal"].startswith("its JSON "):
        return text + f"{refused['refusal']}. {HINT} Run `rowcast migrate` afterwards."
    others = "" if refused["whole"] else " Watch the other partitions by their names."
    return text + f"{refused['refusal']}." + others


def _grants(roles: Sequence[asyncpg.Record], table: asyncpg.Record) -> str | None:
    """What lets clients read a table, or None where they may."""
    outside = [role["role"] for role in roles if not role["usage"]]
    blind = [role["role"] for role in roles if not role["selects"]]
    usage = f"GRANT USAGE ON SCHEMA {roles[0]['schema']} TO {', '.join(outside)};" if outside else ""
    selects = f"GRANT SELECT ON {table['name']} TO {', '.join(blind)};" if blind else ""
    return f"{usage} {selects}".strip() or None


async def unwatch(connection: asyncpg.Connection, name: str) -> Outcome:
    """Take a table out of the publication, and return once it is no longer captured. Raises WatchError."""
    table = await _described(connection, name)

    family = await connection.fetch(_FAMILY, table["oid"], _PUBLICATION)
    named = [record for record in family if record["member"]]

    async def withdraw() -> None:
        if named:
            names = ", ".join(f"only {record['name']}" for record in named)
            await connection.execute(f"alter publication {_PUBLICATION} drop table {names}")
        for record in named:
            await connection.execute("select rowcast.forget_published($1)", record["relid"])
        if await connection.fetchval(_COVERED, table["oid"]):
            # The transaction is rolled back: nothing is half done.
            raise WatchError(
                f"{table['name']} stays captured: the publication {_PUBLICATION} lists all tables, its "
                "whole schema, or a table it is a part of. Change the publication, or unwatch that table."
            )

    await _locked(connection, withdraw, "DROP", table, [record["relid"] for record in family])
    return Outcome(table["name"], bool(named))


async def _described(connection: asyncpg.Connection, name: str) -> asyncpg.Record:
    schema, table = split_name(name)
    found = await connection.fetchrow(_DESCRIBE, schema, table)
    if found is None:
        names = [record[0] for record in await connection.fetch(_NAMES)]
        near = difflib.get_close_matches(f"{schema}.{table}", names, n=1)
        raise WatchError(
            f"There is no table {schema}.{table}." + (f" Did you mean {near[0]}?" if near else "")
        )
    if found["persistence"] == "t":
        raise WatchError(
            f"{found['name']} is temporary: only its own session sees it. Watch a permanent table."
        )
    if schema in ("rowcast", "realtime", "information_schema") or schema.startswith("pg_"):
        raise WatchError(
            f"{found['name']} belongs to the server or to Postgres itself and is never captured. "
            "Watch a table of your own."
        )
    if found["kind"] in _KINDS:
        read = [record[0] for record in await connection.fetch(_READ_BY, found["oid"])]
        more = ": " + ", ".join(read) if read else ""
        raise WatchError(f"{found['name']} is {_KINDS[found['kind']]}{more}.")
    if found["persistence"] == "u":
        raise WatchError(
            f"{found['name']} is unlogged, and Postgres publishes logged tables only. "
            f"Run ALTER TABLE {found['name']} SET LOGGED; first."
        )
    return found


async def _locked(
    connection: asyncpg.Connection,
    change: Callable[[], Awaitable[None]],
    verb: str,
    table: asyncpg.Record,
    family: Sequence[int],
) -> None:
    """Change the publication and follow it, without making anybody wait long for us."""
    loop = asyncio.get_running_loop()
    deadline, delay = loop.time() + _PATIENCE, _RETRY[0]
    while True:
        try:
            async with connection.transaction():
                await connection.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'")
                await change()
                await connection.execute(_INSTALL, family)
            return
        except asyncpg.LockNotAvailableError:
            if loop.time() >= deadline:
                raise WatchError(
                    f"{table['name']} is locked by an open transaction. "
                    "End it (see pg_stat_activity), and try again."
                ) from None
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY[1])
        except asyncpg.InsufficientPrivilegeError as error:
            raise WatchError(await _rights(connection, error, verb, table)) from None


async def _rights(connection: asyncpg.Connection, error: Exception, verb: str, table: asyncpg.Record) -> str:
    """Who may do what the current role may not, and how."""
    name = table["name"]
    owners = await connection.fetchrow(_OWNERS, table["oid"], _PUBLICATION)
    if owners is None:
        return f"{error}. {name} is gone."
    trigger = f"GRANT TRIGGER ON {name} TO {owners['me']}; " if verb == "ADD" else ""
    return (
        f"{error}. {name} belongs to {owners['owner']}, and the publication {_PUBLICATION} to "
        f"{owners['publisher']}. Connect as a superuser, or as a role that is a member of both; or let such "
        f"a one run {trigger}ALTER PUBLICATION {_PUBLICATION} {verb} TABLE {name};"
    )
