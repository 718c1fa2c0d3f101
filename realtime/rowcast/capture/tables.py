"""Triggers follow the publication: what the event triggers could not do at once is done here, in the
background.

CREATE TRIGGER waits for open writers and blocks new ones behind it, so it runs with a short lock timeout and
is tried again; never because a client joined.
"""

import asyncio
import random
from dataclasses import dataclass

import asyncpg
import structlog

from rowcast.db.connection import ADVISORY_TABLES, Session
from rowcast.model.binding import WILDCARD

_LOCK_TIMEOUT = "50ms"
_RETRY_SECONDS = 0.05
# Tables that one statement compares with their triggers: it takes a millisecond or two for each.
_COMPARED = 100

log = structlog.get_logger("rowcast.tables")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the publication, under the name its changes carry.

    ``reason`` says why it is not captured. ``relations`` are the versions its changes refer to now: one, or
    one for each partition. ``closed`` names the roles that may not read it, of those that were asked about.
    """

    oid: int
    schema: str
    table: str
    captured: bool
    reason: str | None
    relations: tuple[int, ...] = ()
    closed: frozenset[str] = frozenset()


_MATCHING = """
select w.root as oid, n.nspname as schema, k.relname as table,
       bool_and(c.relid is not null and c.enabled or coalesce(w.refusal = 'its partitions are captured',
       false)) as captured, max(w.refusal) as refusal, bool_or(not c.enabled) as disabled,
       coalesce(array_agg(distinct c.relation) filter (where c.relation is not null), '{}') as relations
from rowcast.wanted_tables() as w
join pg_class as k on k.oid = w.root join pg_namespace as n on n.oid = k.relnamespace
left join rowcast.captured as c on c.relid = w.relid
where ($1 = '*' or n.nspname = $1) and ($2 = '*' or k.relname = $2)
group by 1, 2, 3
"""


async def matching(connection: Session, schema: str = WILDCARD, table: str = WILDCARD) -> list[Table]:
    """The tables of the publication by these names, each of which may be ``*``."""
    found = await connection.fetch(_MATCHING, schema, table)
    return [
        Table(
            record["oid"],
            record["schema"],
            record["table"],
            record["captured"],
            record["refusal"] or ("its triggers are disabled" if record["disabled"] else None),
            tuple(record["relations"]),
        )
        for record in found
    ]


async def reconcile(connection: asyncpg.Connection, settled: dict[int, int] | None = None) -> bool:
    """Install and remove triggers until they are what the publication wants, as far as locks allow.

    Returns whether all is done. Nodes take turns: one that finds another at work leaves it to that one.
    ``settled`` is kept by the caller: what the tables looked like that needed nothing. Only those that look
    different are compared with their triggers, since to compare ten thousand takes seconds.
    """
    settled = {} if settled is None else settled
    records = await connection.fetch("select relid, looks from rowcast.looks()")
    looks: dict[int, int] = {record["relid"]: record["looks"] for record in records}
    changed = [oid for oid, look in looks.items() if settled.get(oid) != look]
    settled.clear()
    settled.update(looks)
    for oid in changed:
        del settled[oid]
    done = True
    for some in (changed[at : at + _COMPARED] for at in range(0, len(changed), _COMPARED)):
        stale = {oid for (oid,) in await connection.fetch("select rowcast.stale_tables($1::oid[])", some)}
        for oid in stale:
            done = await _install(connection, oid) and done
        settled.update({oid: looks[oid] for oid in some if oid not in stale})
    return done


async def _install(connection: asyncpg.Connection, oid: int) -> bool:
    name = await connection.fetchval("select $1::oid::regclass::text", oid)
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
    except asyncpg.PostgresError as error:
        if connection.is_closed():
            raise
        # One table must not keep the others, the lease and the trimming from being done; the timer tries
        # it again.
        log.error("table_not_captured", table=name, reason=str(error))
        return True
    log.info("table_captured" if captured else "table_released", table=name)
    return True
