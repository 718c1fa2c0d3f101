"""Taking Rowcast out: what it made, and nothing else.

First the event triggers and the lease, so that nothing is captured or installed anew; then table by table,
each in a short transaction with a lock timeout, so that no writer waits long and no two tables are locked at
once; then the rest in one. What was there before, and what others have come to depend on, stays, and is
named.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg

from rowcast.db.connection import ADVISORY_NODE, ADVISORY_TABLES, UNHURRIED, connect
from rowcast.db.migrations import alone, check_owner
from rowcast.db.notes import API_ROLES, CALLED, FUNCTION, MESSAGES, OWN_MEMBERSHIP, PUBLICATION, ROLES
from rowcast.errors import UninstallError

_LOCK_TIMEOUT = "200ms"
_PATIENCE = 30.0
_RETRY = (0.05, 1.0)

_STANDS = "select to_regclass('rowcast.notes') is not null"
_SERVERS = """
select distinct l.pid, coalesce(host(a.client_addr), 'this host') as host
from pg_locks as l left join pg_stat_activity as a on a.pid = l.pid
where l.locktype = 'advisory' and l.mode = 'ShareLock' and l.granted
  and l.database = (select oid from pg_database where datname = current_database())
  and l.classid = ($1::bigint >> 32)::oid and l.objid = ($1::bigint & 4294967295)::oid and l.objsubid = 1
order by 1
"""
_TRIGGERS = """
select g.tgrelid as oid, n.nspname, k.relname, format('%I.%I', n.nspname, k.relname) as name,
       array_agg(quote_ident(g.tgname) order by g.tgname) as triggers,
       pg_has_role(k.relowner, 'usage') as mine
from pg_trigger as g join pg_proc as p on p.oid = g.tgfoid
join pg_class as k on k.oid = g.tgrelid join pg_namespace as n on n.oid = k.relnamespace
where not g.tgisinternal and g.tgparentid = 0 and p.pronamespace = 'rowcast'::regnamespace
group by 1, 2, 3, k.relowner order by 4
"""
# A table is found by its oid, so that renaming it changes nothing, and by name in a copy of the database.
_WATCHED = """
select w.kind, w.was, format('%I.%I', n.nspname, k.relname) as name, k.oid, k.relreplident::text as identity,
       exists (select from pg_publication as p join pg_publication_rel as r on r.prpubid = p.oid
               where p.pubname = $1 and r.prrelid = k.oid) as member,
       -- Without an identity, its updates would fail there.
       (select min(t.pubname)
        from pg_publication_tables as t join pg_publication as p on p.pubname = t.pubname
        where t.pubname <> $1 and (p.pubupdate or p.pubdelete) and t.schemaname = n.nspname
          and t.tablename = k.relname) as elsewhere,
       (select quote_ident(i.relname) from pg_index as x join pg_class as i on i.oid = x.indexrelid
        where x.indrelid = k.oid and i.relname = substr(w.was, 3)) as index
from rowcast.notes as w
join pg_class as k on k.relkind in ('r', 'p') and k.oid = coalesce(
  (select o.oid from pg_class as o where o.oid = w.of and o.relkind in ('r', 'p')), to_regclass(w.name))
join pg_namespace as n on n.oid = k.relnamespace
where w.kind in ('identity', 'published') order by w.kind desc, 3
"""
_MEMBERSHIPS = f"""
select name, {OWN_MEMBERSHIP} as own
from unnest($1::text[]) as name where exists (select from pg_roles where rolname = name)
"""
_ACCESS = f"""
select string_agg(lower(a.privilege_type), ', ' order by a.privilege_type)
from pg_class as k, aclexplode(k.relacl) as a join pg_roles as r on r.oid = a.grantee
where k.oid = ({MESSAGES}) and r.rolname = $1 and pg_has_role(k.relowner, 'usage')
  and lower(a.privilege_type) in ('select', 'insert', 'update')
  and lower(a.privilege_type) <> all (string_to_array($2, ', '))
"""
# Everything in our schema, a statement for each kind of thing: within one, their order does not matter.
_CONTENTS = """
select 'view' as kind, string_agg(format('%I.%I', n.nspname, k.relname), ', ') as names
from pg_class as k join pg_namespace as n on n.oid = k.relnamespace
where n.nspname = 'rowcast' and k.relkind = 'v'
union all
select 'function', string_agg(p.oid::regprocedure::text, ', ')
from pg_proc as p where p.pronamespace = 'rowcast'::regnamespace and p.prorettype <> 'trigger'::regtype
union all
select 'trigger function', string_agg(p.oid::regprocedure::text, ', ')
from pg_proc as p where p.pronamespace = 'rowcast'::regnamespace and p.prorettype = 'trigger'::regtype
union all
select 'table', string_agg(format('%I.%I', n.nspname, k.relname), ', ')
from pg_class as k join pg_namespace as n on n.oid = k.relnamespace
where n.nspname = 'rowcast' and k.relkind in ('r', 'p')
union all
-- Those of identity columns are gone by then.
select 'sequence', string_agg(format('%I.%I', n.nspname, k.relname), ', ')
from pg_class as k join pg_namespace as n on n.oid = k.relnamespace
where n.nspname = 'rowcast' and k.relkind = 'S'
  and not exists (select from pg_depend as d where d.classid = 'pg_class'::regclass and d.objid = k.oid
                  and d.deptype in ('a', 'i') and d.refclassid = 'pg_class'::regclass)
"""


@dataclass(slots=True)
class Removal:
    """What was taken out, what stays and why, and SQL for an administrator to take out the rest."""

    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    admin_sql: list[str] = field(default_factory=list)


async def uninstall(dsn: str, *, force: bool = False) -> Removal | None:
    """Take Rowcast out of the database at ``dsn``; None where it is not there. It may be run again.

    Raises UninstallError while servers are connected, unless ``force``, when a table stays locked, and when
    something of the user's depends on what is in our schema; MigrationError when that belongs to somebody
    else.
    """
    connection = await connect(dsn, purpose="uninstall", pooled=True)
    try:
        if not await connection.fetchval(_STANDS):
            if await connection.fetchval("select to_regnamespace('rowcast') is null"):
                return None
            raise UninstallError("An older Rowcast migrated this database. Run `rowcast migrate` first.")
        await check_owner(connection)
        servers = await connection.fetch(_SERVERS, ADVISORY_NODE)
        if servers and not force:
            named = ", ".join(f"pid {one['pid']} from {one['host']}" for one in servers)
            raise UninstallError(f"Servers are connected: {named}. Stop them first, or give --force.")
        # Servers that go on leave the triggers alone while this is held.
        async with alone(dsn, ADVISORY_TABLES):
            # Another run may have ended meanwhile.
            if not await connection.fetchval(_STANDS):
                return None
            return await _Uninstall(connection).run()
    finally:
        await connection.close()


class _Uninstall:
    """One run, on one connection."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._found: dict[tuple[str, str], str | None] = {}
        self._done = Removal()

    async def run(self) -> Removal:
        rows = await self._connection.fetch("select kind, name, was from rowcast.notes")
        self._found = {(row["kind"], row["name"]): row["was"] for row in rows}
        await self._gently("the event triggers", self._stop)
        for table in await self._connection.fetch(_TRIGGERS):
            await self._gently(table["name"], functools.partial(self._release, table))
            self._done.removed.append(f"the triggers of {table['name']}")
        for table in await self._connection.fetch(_WATCHED, PUBLICATION):
            await self._gently(table["name"], functools.partial(self._restore, table))
        await self._gently("the schema rowcast", self._rest)
        return self._done

    async def _gently(self, what: str, change: Callable[[], Awaitable[None]]) -> None:
        """Change something in a transaction that waits for no lock for long, and begins anew instead."""
        loop = asyncio.get_running_loop()
        deadline, delay = loop.time() + _PATIENCE, _RETRY[0]
        while True:
            before = Removal(list(self._done.removed), list(self._done.kept), list(self._done.admin_sql))
            try:
                async with self._connection.transaction():
                    await self._execute(UNHURRIED)
                    await self._execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'")
                    await self._execute("set local search_path = pg_catalog, pg_temp")
                    # Our own event trigger is not to put back what is taken out.
                    await self._execute("set local rowcast.installing = 'on'")
                    await change()
                return
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                self._done = before
                if loop.time() >= deadline:
                    raise UninstallError(
                        f"{what} is locked by an open transaction. End it (see pg_stat_activity), and run "
                        "`rowcast uninstall` again: it goes on where it ended."
                    ) from None
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY[1])

    async def _execute(self, statement: str) -> None:
        await self._connection.execute(statement)

    async def _attempt(self, what: str, statement: str) -> bool:
        """Run a statement; where others depend on the thing, or its owner is another, it stays."""
        try:
            async with self._connection.transaction():
                await self._execute(statement)
        except asyncpg.DependentObjectsStillExistError as error:
            detail = "; ".join((error.detail or str(error)).splitlines())
            self._done.kept.append(f"{what}: {detail}")
            return False
        except asyncpg.InsufficientPrivilegeError:
            self._done.kept.append(f"{what}: it takes an administrator")
            self._done.admin_sql.append(f"{statement};")
            return False
        self._done.removed.append(what)
        return True

    def _is_ours(self, kind: str, name: str) -> bool:
        return (kind, name) in self._found and self._found[kind, name] is None

    async def _stop(self) -> None:
        triggers = await self._connection.fetch(
            "select e.evtname, n.nspname from pg_event_trigger as e join pg_proc as p on p.oid = e.evtfoid"
            " join pg_namespace as n on n.oid = p.pronamespace"
            " where n.nspname in ('rowcast', 'rowcast_admin') order by 1"
        )
        for row in triggers:
            await self._attempt(f"the event trigger {row['evtname']}", f"drop event trigger {row['evtname']}")
        await self._execute("select setval('rowcast.lease_until', 0)")

    async def _release(self, table: asyncpg.Record) -> None:
        # On a table of somebody else's they may be made, and not dropped: they go with their function.
        for trigger in table["triggers"] if table["mine"] else ():
            await self._execute(f"drop trigger if exists {trigger} on {table['name']}")

    async def _restore(self, table: asyncpg.Record) -> None:
        name, was = table["name"], table["was"]
        if table["kind"] == "published":
            # Our own publication goes as a whole.
            if table["member"] and not self._is_ours("publication", PUBLICATION):
                await self._attempt(
                    f"{name} from the publication {PUBLICATION}",
                    f"alter publication {PUBLICATION} drop table {name}",
                )
            return
        if table["identity"] != "f":
            return
        what = f"REPLICA IDENTITY FULL of {name}"
        if table["elsewhere"]:
            self._done.kept.append(f"{what}: the publication {table['elsewhere']} publishes it, too")
        elif was.startswith("i") and table["index"] is None:
            self._done.kept.append(f"{what}: the index that it had before, {was[2:]}, is gone")
        else:
            identity = {"d": "default", "n": "nothing"}.get(was) or f"using index {table['index']}"
            await self._attempt(what, f"alter table {name} replica identity {identity}")

    async def _rest(self) -> None:
        if self._is_ours("publication", PUBLICATION):
            if await self._connection.fetchval(
                "select exists (select from pg_publication where pubname = $1)", PUBLICATION
            ):
                await self._attempt(f"the publication {PUBLICATION}", f"drop publication {PUBLICATION}")
        else:
            self._done.kept.append(f"the publication {PUBLICATION}: it was there before")
        memberships = await self._connection.fetch(_MEMBERSHIPS, list(ROLES))
        made_by_admin = await self._made_by_admin()
        await self._schema()
        for schema in ("realtime", "auth"):
            await self._outside(schema)
        if await self._connection.fetchval("select to_regnamespace('rowcast_admin') is not null"):
            await self._attempt("the schema rowcast_admin", "drop schema rowcast_admin cascade")
        # Last, since it is what Postgres may refuse.
        for row in memberships:
            name = row["name"]
            if self._is_ours("role", name) and name not in made_by_admin:
                await self._attempt(f"the role {name}", f"drop role {name}")
                continue
            if name in made_by_admin:
                self._done.kept.append(f"the role {name}: an administrator made it")
                while_granted = "  -- refused while anything is granted to it"
                self._done.admin_sql.append(f"drop role if exists {name};{while_granted}")
            else:
                self._done.kept.append(f"the role {name}: it was there before")
                if row["own"] and self._is_ours("membership", name):
                    await self._attempt(f"membership in {name}", f"revoke {name} from current_user")

    async def _made_by_admin(self) -> frozenset[str]:
        if not await self._connection.fetchval("select to_regclass('rowcast_admin.made') is not null"):
            return frozenset()
        if await self._connection.fetchval("select rolsuper from pg_roles where rolname = current_user"):
            return frozenset()
        rows = await self._connection.fetch("select name from rowcast_admin.made where kind = 'role'")
        return frozenset(row["name"] for row in rows)

    async def _schema(self) -> None:
        try:
            for row in await self._connection.fetch(_CONTENTS):
                match row["kind"], row["names"]:
                    case _, None:
                        pass
                    case "trigger function", names:
                        # With the triggers on tables of others.
                        await self._execute(f"drop function {names} cascade")
                    case kind, names:
                        await self._execute(f"drop {kind} {names}")
            await self._execute("drop schema rowcast")
        except asyncpg.DependentObjectsStillExistError as error:
            detail = "; ".join((error.detail or str(error)).splitlines())
            raise UninstallError(
                f"Something of yours depends on the schema rowcast: {detail}. Capturing has ended. Drop it, "
                "and run `rowcast uninstall` again."
            ) from None
        self._done.removed.append("the schema rowcast")

    async def _outside(self, schema: str) -> None:
        if not await self._connection.fetchval("select to_regnamespace($1) is not null", schema):
            return
        if schema == "realtime":
            if self._is_ours("table", "realtime.messages"):
                if await self._connection.fetchval(f"select exists ({MESSAGES})"):
                    await self._attempt("the table realtime.messages", "drop table realtime.messages")
            else:
                await self._give_back_access()
        for name in (one for one in CALLED if one.startswith(f"{schema}.")):
            if self._is_ours("function", name) and await self._connection.fetchval(
                f"select exists ({FUNCTION}) from unnest(array[$1]) as name", name
            ):
                await self._attempt(f"the function {name}", f"drop function {name}")
        if self._is_ours("schema", schema):
            await self._attempt(f"the schema {schema}", f"drop schema {schema}")
            return
        self._done.kept.append(f"the schema {schema}: it was there before")
        for role in API_ROLES:
            if self._is_ours("usage", f"{schema} {role}") and await self._connection.fetchval(
                "select has_schema_privilege(n.oid, 'usage with grant option') and exists ("
                " select from aclexplode(n.nspacl) as a join pg_roles as r on r.oid = a.grantee"
                " where r.rolname = $2 and a.privilege_type = 'USAGE')"
                " from pg_namespace as n where n.nspname = $1",
                schema,
                role,
            ):
                await self._execute(f"revoke usage on schema {schema} from {role}")

    async def _give_back_access(self) -> None:
        for role in API_ROLES:
            was = self._found.get(("access", role)) or ""
            if given := await self._connection.fetchval(_ACCESS, role, was):
                await self._execute(f"revoke {given} on realtime.messages from {role}")
