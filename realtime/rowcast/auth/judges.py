"""The functions that judge rows by a rule, on one connection: made when they are first needed, and asked.

They live in the session's temporary schema and belong to the role whose rule they judge by. What a policy
calls is anybody's code, and it runs in this session: so the transaction is read-only and rolled back, the
role cannot be changed inside it, no statement is prepared under a name that such code could take, and the
connection must be used for nothing else.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from rowcast.auth.rules import Rule
from rowcast.db.connection import LOST, Session
from rowcast.db.roles import PATIENCE, end_sessions

_BEGIN: Final = (
    "begin read only; set local search_path = pg_catalog, pg_temp; set local statement_timeout = {0};"
    " set local row_security = on; set local plan_cache_mode = force_generic_plan;"
    " set local max_parallel_workers_per_gather = 0; select rowcast.pin('all')"
)
# The rest is what a policy could leave in a session beyond its transaction.
_END: Final = "rollback; deallocate all; select pg_advisory_unlock_all()"
# The role is set while the statement runs: it was parsed, and its rights looked at, as whoever connected.
_ASK: Final = (
    "select pg_temp.{0}(pg_catalog.set_config('role', $1, true), $2, $3, $4, $5),"
    " extract(epoch from clock_timestamp() - statement_timestamp())::float8"
)
_MAKE: Final = "select rowcast.make_image_judge($1, $2, $3, $4, $5::jsonb, $6, $7)"
_MAKE_LIVE: Final = "select rowcast.make_live_judge($1, $2, $3, $4, $5::jsonb)"
_DROP: Final = "drop function if exists pg_temp.{0}(text, text[], text[], oid, text)"
_AT_WORK: Final = """
select pid from pg_stat_activity
where pid = any ($1) and state = 'active' and wait_event_type is distinct from 'Client'
"""
_numbers: Final = itertools.count(1)


class Barred(Exception):
    """The role of a rule cannot be assumed."""


class Unmade(Exception):
    """There is no function for a rule: the table is not what the rule says it is."""


class Judges:
    """The functions on the connection that was given last. ``seconds`` bounds each question."""

    def __init__(self, seconds: float, search_path: str) -> None:
        self._seconds, self._search_path = seconds, search_path
        self._connection: Session | None = None
        self._made: dict[tuple[int, str, bool], tuple[str, Rule]] = {}
        #: Backends that gave no answer in time, and by which rule they judged.
        self._orphans: dict[int, Rule] = {}
        self._spent = 0.0

    async def use(self, connection: Session) -> list[tuple[Rule, bool]]:
        """Ask on this connection from now on.

        Returns the rules whose questions got no answer in time on others, and whether Postgres was still at
        work on them: else it is the network that was slow, or silent.
        """
        if connection is not self._connection:
            self._connection = connection
            self._made.clear()
        if not self._orphans:
            return []
        pids = list(self._orphans)
        at_work = {pid for (pid,) in await connection.fetch(_AT_WORK, pids)}
        await end_sessions(connection, list(pids))
        return [(self._orphans.pop(pid), pid in at_work) for pid in pids]

    @property
    def spent(self) -> float:
        """Seconds that Postgres was at work on questions: what the network takes is no policy's fault."""
        return self._spent

    async def ask(
        self, rule: Rule, images: Sequence[str], claims: Sequence[str], *, origin: int, live: bool
    ) -> list[str]:
        """What ``make_judge`` says that its functions answer. ``origin`` is what ``tableoid`` means.

        Raises ``asyncpg.QueryCanceledError`` after ``seconds``, Barred, Unmade, and TimeoutError where
        Postgres did not give up in time: the connection has been ended then.
        """
        try:
            return await self._asked(rule, images, claims, origin, live)
        except asyncpg.UndefinedFunctionError:
            # DROP OWNED takes a role's functions along.
            self._made.pop((rule.oid, rule.role, live), None)
            return await self._asked(rule, images, claims, origin, live)

    async def _asked(
        self, rule: Rule, images: Sequence[str], claims: Sequence[str], origin: int, live: bool
    ) -> list[str]:
        assert self._connection is not None
        connection = self._connection
        name = await self._name(connection, rule, live)
        pid = connection.get_server_pid()
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds + PATIENCE), _undone(connection, self._seconds):
                statement = await connection.prepare(_ASK.format(name), name="")
                row = await statement.fetchrow(
                    rule.role, list(images), list(claims), origin, self._search_path
                )
                assert row is not None
                found, seconds = row
                self._spent += seconds
                return list(found)
        except TimeoutError:
            self._orphans[pid] = rule
            raise
        except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError) as error:
            raise Barred(rule.role) from error
        except asyncpg.PostgresError:
            self._spent += min(time.monotonic() - began, self._seconds)
            raise

    async def _name(self, connection: Session, rule: Rule, live: bool) -> str:
        key = (rule.oid, rule.role, live)
        known = self._made.get(key)
        if known is not None and known[1] == rule:
            return known[0]
        name = f"rowcast_judge_{next(_numbers)}"
        try:
            async with connection.transaction():
                await connection.execute(f"set local statement_timeout = {int(self._seconds * 1000)}")
                if known is not None:
                    await connection.execute(_DROP.format(known[0]))
                if live:
                    await self._make_live(connection, name, rule)
                else:
                    await self._make(connection, name, rule)
        except (*LOST, asyncpg.QueryCanceledError):
            raise
        except asyncpg.InsufficientPrivilegeError as error:
            raise Barred(rule.role) from error
        except asyncpg.PostgresError as error:
            raise Unmade(f"{rule.schema}.{rule.table}") from error
        self._made[key] = name, rule
        return name

    async def _make(self, connection: Session, name: str, rule: Rule) -> None:
        statement = await connection.prepare(_MAKE, name="")
        await statement.fetchval(
            name,
            rule.role,
            rule.schema,
            rule.table,
            json.dumps(rule.columns),
            rule.condition,
            rule.reads_tableoid,
        )

    async def _make_live(self, connection: Session, name: str, rule: Rule) -> None:
        statement = await connection.prepare(_MAKE_LIVE, name="")
        await statement.fetchval(name, rule.role, rule.schema, rule.table, json.dumps(rule.key))


@asynccontextmanager
async def _undone(connection: Session, seconds: float) -> AsyncIterator[None]:
    """A transaction of which nothing stays, whatever happens in it. ``seconds`` bounds each statement."""
    try:
        await connection.execute(_BEGIN.format(int(seconds * 1000)))
        yield
    except asyncpg.PostgresError:
        if not connection.is_closed():
            await connection.execute(_END)
        raise
    except BaseException:
        # Something of it may still run, under the role.
        connection.terminate()
        raise
    await connection.execute(_END)
