"""What a binding asks for, held against the catalog: when it is subscribed, and again whenever the catalog
changed.

A subscription is to a name. A binding that no longer fits (its table was dropped, renamed, taken from the
publication; a column of its filter is gone) sleeps until it fits again; its subscriber is told of both.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import asyncpg
import structlog

from rowcast.capture.filters import FilterError, Filters
from rowcast.capture.relations import Relations
from rowcast.capture.tables import WAITING, Table, matching
from rowcast.db.connection import AWAY, Session
from rowcast.model.binding import WILDCARD, Binding
from rowcast.model.change import Relation
from rowcast.model.predicate import Predicate
from rowcast.model.reading import NOTHING, Reading

_CAPTURE_WAIT: Final = 30.0
_RETRY: Final = 0.25
_STATEMENT_SECONDS: Final = 10.0
_EXCEPTION: Final = "An exception happened so please check your connect parameters:"

log = structlog.get_logger("rowcast.acceptance")


class Refused(Exception):
    """A binding that cannot be subscribed. The text goes to the client."""


class Rights(Protocol):
    """Who may read a table: what ``auth.access`` gives."""

    roles: frozenset[str]
    judges: bool

    def forget(self) -> None: ...
    async def load(self, connection: Session, oids: Iterable[int], *, fresh: bool = False) -> None: ...
    def refusal(self, role: str, oid: int) -> str | None: ...
    def columns(self, role: str, oid: int) -> frozenset[str] | None: ...
    def may_read(self, role: str, relation: Relation) -> Reading | None: ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """A binding that is good: its filter for each version of its tables, and which tables these are.

    ``judged`` says that Postgres has to judge whether rows of one of them are visible.
    """

    predicates: dict[int, Predicate]
    tables: frozenset[Table]
    judged: bool = False


class Acceptance:
    """Decides for one database."""

    def __init__(
        self, pool: asyncpg.Pool, rights: Rights, relations: Relations, tables_changed: asyncio.Event
    ) -> None:
        self._pool, self._rights, self._relations = pool, rights, relations
        self._tables_changed = tables_changed
        self.filters = Filters()
        self._told: set[tuple[str, int, str]] = set()
        #: Not set while the database is away, and one of those who wait asks for it.
        self._back = asyncio.Event()
        self._back.set()

    async def accept(self, binding: Binding, role: str) -> Accepted:
        """Accept a binding, its tables captured by then. Raises Refused."""
        if role not in self._rights.roles:
            raise Refused(f'The role "{role}" is not one that this server assumes. Add it to ROWCAST_ROLES.')
        while True:
            await self._back.wait()
            try:
                return await self._accept(binding, role)
            except AWAY:
                # A subscription waits for the database, as changes do.
                if self._back.is_set():
                    await self._until_back()

    async def _until_back(self) -> None:
        """Ask until there is an answer, for all who wait: each by itself would keep this server busy."""
        self._back.clear()
        try:
            while True:
                await asyncio.sleep(_RETRY)
                with contextlib.suppress(*AWAY):
                    async with self._pool.acquire(timeout=_STATEMENT_SECONDS) as connection:
                        await connection.execute("select")
                    return
        finally:
            self._back.set()

    async def _accept(self, binding: Binding, role: str) -> Accepted:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CAPTURE_WAIT
        while True:
            try:
                async with self._pool.acquire(timeout=_STATEMENT_SECONDS) as connection:
                    found = await self._with_rights(
                        connection, await matching(connection, binding.schema, binding.table)
                    )
                    waiting = [table for table in found if not table.captured and table.reason is None]
                    if not waiting or loop.time() >= deadline:
                        ready = [table for table in found if table not in waiting]
                        if waiting and not ready:
                            raise _refused(f"{waiting[0].schema}.{waiting[0].table}: {WAITING}", binding)
                        return await self.judge(connection, binding, role, ready)
            except KeyError:
                # A version of a table was forgotten between two questions.
                await asyncio.sleep(_RETRY)
                continue
            self._tables_changed.set()
            await asyncio.sleep(_RETRY)

    async def catalog(self, connection: Session) -> list[Table]:
        """Every table of the publication that is captured or will never be, with the rights on it known."""
        tables = [table for table in await matching(connection) if table.captured or table.reason is not None]
        return await self._with_rights(connection, tables)

    async def _with_rights(self, connection: Session, tables: Sequence[Table]) -> list[Table]:
        await self._rights.load(connection, [table.oid for table in tables], fresh=True)
        rights, roles = self._rights, self._rights.roles
        return [
            replace(
                table,
                closed=frozenset(role for role in roles if rights.refusal(role, table.oid) is not None),
                partly=frozenset(
                    (role, columns)
                    for role in roles
                    if (columns := rights.columns(role, table.oid)) is not None
                ),
            )
            for table in tables
        ]

    async def judge(
        self,
        connection: Session,
        binding: Binding,
        role: str,
        found: Sequence[Table],
        others: Mapping[int, Predicate] = {},
    ) -> Accepted:
        """The same for tables that were looked up already. Raises Refused.

        ``others`` are the binding's predicates for other versions of its tables.
        """
        if not found:
            raise _refused("Please check Realtime is enabled for the given connect parameters:", binding)
        reasons = {table: table.reason or self._rights.refusal(role, table.oid) for table in found}
        good = [table for table, reason in reasons.items() if reason is None]
        if not good:
            for table, reason in reasons.items():
                self._tell(role, table, reason or "")
            first = found[0]
            raise _refused(f"{first.schema}.{first.table}: {reasons[first]}", binding)
        predicates: dict[int, Predicate] = {}
        judged = False
        try:
            for relation in await self._versions(connection, good):
                reading = self._rights.may_read(role, relation)
                judged = judged or (reading is not None and reading.judged)
                hidden = NOTHING if reading is None else reading.hidden
                predicate = await self.filters.prepare(connection, relation, binding, role, others, hidden)
                if predicate is not None:
                    predicates[relation.id] = predicate
        except FilterError as error:
            raise _refused(_EXCEPTION, binding, f". Exception: {error}") from None
        except asyncpg.QueryCanceledError:
            text = "ERROR 57014 (query_canceled) the filter took too long to check"
            raise _refused(_EXCEPTION, binding, f". Exception: {text}") from None
        return Accepted(predicates, frozenset(found), judged)

    def _tell(self, role: str, table: Table, reason: str) -> None:
        """Log why a role cannot hear a table: once, however many clients ask."""
        if (role, table.oid, reason) not in self._told:
            self._told.add((role, table.oid, reason))
            log.warning(
                "table_not_subscribed", role=role, table=f"{table.schema}.{table.table}", reason=reason
            )

    async def _versions(self, connection: Session, tables: Iterable[Table]) -> list[Relation]:
        ids = [id_ for table in tables for id_ in table.relations]
        await self._relations.load(connection, ids)
        return [self._relations[id_] for id_ in ids]


def _refused(reason: str, binding: Binding, more: str = "") -> Refused:
    given = "Unable to subscribe to changes with given parameters."
    return Refused(f"{given} {reason} {binding.describe()}{more}")


class Named:
    """Tables by the names that bindings give: either part may be ``*``."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self._by_name: dict[tuple[str, str], list[Table]] = {}
        for one in tables:
            for schema in (one.schema, WILDCARD):
                for table in (one.table, WILDCARD):
                    self._by_name.setdefault((schema, table), []).append(one)

    def at(self, schema: str, table: str) -> list[Table]:
        """Those that a name stands for."""
        return self._by_name.get((schema, table), [])
