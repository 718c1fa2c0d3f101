"""Triggers follow the publication: what the event triggers could not do at once is done here, in the
background.

CREATE TRIGGER waits for open writers and blocks new ones behind it, so it runs with a short lock timeout and
is tried again; never because a client joined.
"""

import asyncio
import random
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg
import structlog

from rowcast.db.connection import ADVISORY_TABLES, Session
from rowcast.model.binding import WILDCARD

_LOCK_TIMEOUT = "50ms"
_RETRY_SECONDS = 0.05
# Tables that one statement compares with their triggers: it takes a millisecond or two for each.
_COMPARED = 100

#: Why a table that nothing forbids is not captured yet.
WAITING: Final = "its triggers are not installed yet: a transaction that wrote to it is open"

log = structlog.get_logger("rowcast.tables")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the publication, under the name its changes carry.

    ``reason`` says why it is not captured. ``relations`` are the versions its changes refer to now: one, or
    one for each partition. Of the roles that were asked about, ``closed`` are those that may not read it, and
    ``partly`` those that may read some columns only, with these.
    """

    oid: int
    schema: str
    table: str
    captured: bool
    reason: str | None
    relations: tuple[int, ...] = ()
    closed: frozenset[str] = frozenset()
    partly: frozenset[tuple[str, frozenset[str]]] = frozenset()


_MATCHING = """
select t.root as oid, n.nspname as schema, k.relname as table, bool_and(t.captured) as captured,
       min(case when t.relid = t.root then t.reason
                else format('its part %s is not captured: %s', t.relid::regclass, t.reason) end
       ) filter (where t.reason is not null) as reason,
       coalesce(array_agg(distinct t.relation) filter (where t.relation is not null), '{}') as relations
from rowcast.states as t
join pg_class as k on k.oid = t.root join pg_namespace as n on n.oid = k.relnamespace
where ($1 = '*' or n.nspname = $1) and ($2 = '*' or k.relname = $2)
group by 1, 2, 3
"""
_KEPT = """
select t.*, coalesce(sum(c.changes), 0)::bigint as changes, coalesce(sum(c.bytes), 0)::bigint as bytes,
       max(c.last) as last, extract(epoch from clock_timestamp() - min(c.unread))::float8 as lag
from rowcast.tables as t
left join rowcast.relations as r on r.oid = t.relid
left join rowcast.kept_changes() as c on c.relation = r.id
group by t.schema_name, t.table_name, t.way, t.captured, t.reason, t.rls, t.since, t.relid, t.root,
         t.relation, t.filter, t.mend
order by t.schema_name, t.table_name
"""


@dataclass(frozen=True, slots=True)
class Status:
    """What an operator sees of a table of the publication, or of a partition.

    ``reason`` says why it is not captured, ``mend`` what to run. ``since`` is the first moment of capture
    without interruption; ``changes`` and ``bytes`` are what the outbox keeps of it, the last made at
    ``last``. ``lag`` is how long ago the oldest was made that no server has read, in seconds; 0 where all
    were.
    """

    schema: str
    table: str
    captured: bool
    reason: str | None
    mend: str | None
    since: datetime | None
    filter: str | None
    rls: bool
    changes: int
    bytes: int
    last: datetime | None
    lag: float


async def matching(connection: Session, schema: str = WILDCARD, table: str = WILDCARD) -> list[Table]:
    """The tables of the publication by these names, each of which may be ``*``."""
    found = await connection.fetch(_MATCHING, schema, table)
    return [
        Table(
            record["oid"],
            record["schema"],
            record["table"],
            record["captured"],
            record["reason"],
            tuple(record["relations"]),
        )
        for record in found
    ]


async def status(connection: Session) -> list[Status]:
    """Every table and partition of the publication. Reads the whole outbox once."""
    return [
        Status(
            record["schema_name"],
            record["table_name"],
            record["captured"],
            # What waits for a lock has no reason to be told to those who wait with it.
            record["reason"] or (None if record["captured"] else WAITING),
            record["mend"],
            record["since"],
            record["filter"],
            record["rls"],
            record["changes"],
            record["bytes"],
            record["last"],
            record["lag"] or 0.0,
        )
        for record in await connection.fetch(_KEPT)
    ]


async def reconcile(
    connection: asyncpg.Connection,
    settled: dict[int, int] | None = None,
    faults: dict[int, str] | None = None,
) -> bool:
    """Install and remove triggers until they are what the publication wants, as far as locks allow.

    Returns whether all is done. Nodes take turns: one that finds another at work leaves it to that one.
    The caller keeps ``settled``, what the tables looked like that needed nothing, and ``faults``, why tables
    could not be captured. Only tables that look different are compared with their triggers, since to compare
    ten thousand takes seconds; and a fault is logged when it is a new one.
    """
    settled = {} if settled is None else settled
    faults = {} if faults is None else faults
    records = await connection.fetch("select relid, looks from rowcast.looks()")
    looks: dict[int, int] = {record["relid"]: record["looks"] for record in records}
    changed = [oid for oid, look in looks.items() if settled.get(oid) != look]
    settled.clear()
    settled.update(looks)
    for oid in changed:
        del settled[oid]
    done = True
    found: dict[int, str] = {}
    for some in (changed[at : at + _COMPARED] for at in range(0, len(changed), _COMPARED)):
        stale = {oid for (oid,) in await connection.fetch("select rowcast.stale_tables($1::oid[])", some)}
        for oid in stale:
            try:
                done = await _install(connection, oid) and done
            except asyncpg.PostgresError as error:
                if connection.is_closed():
                    raise
                # One table must not keep the others, the lease and the trimming from being done; the timer
                # tries it again.
                found[oid] = str(error)
        settled.update({oid: looks[oid] for oid in some if oid not in stale})
    for oid, fault in found.items():
        if faults.get(oid) != fault:
            log.error("table_not_captured", table=await _name(connection, oid), reason=fault)
    faults.clear()
    faults.update(found)
    await connection.execute("select rowcast.drop_filters()")
    return done


async def _install(connection: asyncpg.Connection, oid: int) -> bool:
    name = await _name(connection, oid)
    try:
        async with connection.transaction():
            if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", ADVISORY_TABLES):
                return False
            await connection.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'")
            captured = await connection.fetchval("select rowcast.install($1)", oid)
    except asyncpg.LockNotAvailableError:
        await asyncio.sleep(_RETRY_SECONDS * (1 + random.random()))
        return False
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedObjectError, asyncpg.InternalServerError):
        return False  # it was dropped or changed at this moment
    log.info("table_captured" if captured else "table_released", table=name)
    return True


async def _name(connection: asyncpg.Connection, oid: int) -> str:
    return str(await connection.fetchval("select $1::oid::regclass::text", oid))
