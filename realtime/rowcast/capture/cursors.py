"""The rows of a snapshot, read by Postgres into cursors, all in one transaction.

What a policy calls is anybody's code. It runs in functions of the role's own, as judging does, and read-only;
nothing that it sets reaches the next table. The rows are computed whole before the transaction ends, into
cursors that outlive it: on Postgres' disk, where they hold back no vacuum.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import asyncpg
import structlog

from rowcast.capture import outbox, selecting
from rowcast.capture.relations import Relations
from rowcast.model.binding import Binding, SnapshotOptions
from rowcast.model.change import Relation
from rowcast.model.claims import Subject
from rowcast.model.position import EPOCH_BYTES, Position, Snapshot
from rowcast.model.reading import View
from rowcast.protocol.snapshots import Outline, outline_of

_SOURCE: Final = "select * from rowcast.snapshot_source($1, $2)"
_MAKE: Final = "select rowcast.make_snapshot($1, $2, $3)"
_BEGIN: Final = (
    "begin isolation level repeatable read read only; set local search_path = pg_catalog, pg_temp;"
    " set local row_security = on"
)
# The role is set while the statement runs: it was parsed, and its rights looked at, as whoever connected.
_DECLARE: Final = (
    "savepoint rowcast; set local statement_timeout = {milliseconds};"
    " declare {name} no scroll cursor with hold for select * from pg_temp.{name}("
    "pg_catalog.set_config('role', {role}, true), {claims}, {path}, {rows}, {bytes})"
)
_KEEP: Final = "release savepoint rowcast; set local role none"
_DROP: Final = "rollback to savepoint rowcast; release savepoint rowcast"
# What a policy could leave in a session, while its rows are fetched.
_CLEAN: Final = "deallocate all; unlisten *; select pg_advisory_unlock_all()"
_MAX_BYTES: Final = 2**30
_MAX_TOLD: Final = 1_000

log = structlog.get_logger("rowcast.snapshots")


class Of(Protocol):
    """A table, by its oid: what ``capture.tables`` has."""

    @property
    def oid(self) -> int: ...


class Wanted(NamedTuple):
    """A binding that wants a snapshot, and the tables that it was accepted for: a single one."""

    binding: Binding
    tables: Iterable[Of]


@dataclass(slots=True)
class Part:
    """One binding's rows: the function that reads them, and the cursor of the same name that keeps them."""

    place: int
    binding: Binding
    oid: int
    source: asyncpg.Record
    outline: Outline
    name: str
    first: asyncpg.Record | None = None


class Altered(Exception):
    """A table is not what it was when its function was made."""


class _Refused(Exception):
    """A binding of which no snapshot can be taken. The text is why."""


@dataclass(slots=True)
class Cursors:
    """One try to read rows for whoever looks, in a session of its own.

    ``deadline``, of ``time.monotonic``, is when Postgres is to have read all, which it was given ``seconds``
    for. A batch has ``limit`` bytes at most, unless it is one row. ``told`` are failures that were logged, as
    (role, table, code). ``faults`` is why bindings were not read, by their places.
    """

    connection: asyncpg.Connection
    subject: Subject
    search_path: str
    limit: int
    deadline: float
    seconds: float
    told: set[tuple[str, int, str]]
    faults: dict[int, str] = field(default_factory=dict)

    async def read(self, wanted: Sequence[Wanted]) -> tuple[Position, list[Part]]:
        """Read what is wanted, each part's first batch fetched. What is not among the parts is in ``faults``.

        Raises Altered where it is to be tried again: nothing of it is left then.
        """
        try:
            return await self._read_all(wanted)
        except Altered:
            await self.connection.execute("rollback; close all")
            raise

    async def _read_all(self, wanted: Sequence[Wanted]) -> tuple[Position, list[Part]]:
        history = await self._ask("select rowcast.history()")
        parts: list[Part] = []
        for place, one in enumerate(wanted):
            try:
                parts.append(await self._prepare(place, one))
            except _Refused as refused:
                self.faults[place] = str(refused)
        await self.connection.execute(_BEGIN)
        (snapshot,) = await self._ask("select pg_current_snapshot()::text as snap, rowcast.pin('all')")
        read = [part for part in parts if await self._read(part)]
        await self.connection.execute(f"set local statement_timeout = {self._left()}; commit")
        await self.connection.execute(_CLEAN)
        if await self._ask("select rowcast.history()") != history:
            raise Altered
        # What the snapshot sees must not come undone in a crash.
        await self.connection.execute(outbox.FLUSH)
        epoch = hashlib.blake2b(str(history[0][0]).encode(), digest_size=EPOCH_BYTES).digest()
        return Position(epoch, Snapshot.parse(snapshot["snap"])), read

    async def _prepare(self, place: int, wanted: Wanted) -> Part:
        """Make the function that reads a binding's rows. Raises _Refused."""
        binding = wanted.binding
        oids = {table.oid for table in wanted.tables}
        if len(oids) != 1:
            raise _Refused("a snapshot is of one table: give its schema and its name")
        if not _is_text(self.subject.claims):
            raise _Refused("the token's claims hold what Postgres cannot read")
        (oid,) = oids
        source = await self._source(oid)
        if source is None:
            raise _Refused("the table is gone")
        relation = await self._relation(source)
        options = binding.snapshot or SnapshotOptions()
        readable = frozenset(source["readable"])
        for one in options.order:
            if one.column not in readable or all(one.column != column.name for column in relation.columns):
                raise _Refused(f"invalid column for order {one.column}")
        types = {column.name: column.sql for column in relation.columns}
        select = None if binding.select is None else frozenset(binding.select)
        outline = outline_of(relation, View(select, frozenset(types) - readable))
        try:
            asked = selecting.foreign_operators(binding.filter, types)
            found = (
                await self._ask(selecting.OPERATORS, *map(list, zip(*asked, strict=True))) if asked else []
            )
        except KeyError:
            raise _Refused("a column of its filter is gone") from None
        query = selecting.select_images(
            selecting.Source(
                schema=source["schema_name"],
                table=source["table_name"],
                types=types,
                published=selecting.published(
                    json.loads(source["filters"] or "{}"), unfiltered=source["unfiltered"]
                ),
                operators={(record["op"], record["type"]) for record in found},
            ),
            outline.names,
            binding.filter,
            options,
            source["key"] if readable.issuperset(source["key"]) else (),
        )
        name = f"rowcast_snapshot_{place}"
        await self._make(name, query)
        return Part(place, binding, oid, source, outline, name)

    async def _make(self, name: str, query: str) -> None:
        try:
            async with self.connection.transaction():
                await self.connection.execute("set local search_path = pg_catalog, pg_temp")
                await self.connection.execute(
                    f"drop function if exists pg_temp.{name}(text, text, text, int, int)"
                )
                await self._ask(_MAKE, name, self.subject.role, query)
        except (
            asyncpg.InsufficientPrivilegeError,
            asyncpg.InvalidParameterValueError,
            asyncpg.UndefinedObjectError,
        ):
            raise _Refused("this server may not act as the subscriber's role") from None

    async def _source(self, oid: int) -> asyncpg.Record | None:
        return next(iter(await self._ask(_SOURCE, oid, self.subject.role)), None)

    async def _relation(self, source: asyncpg.Record) -> Relation:
        """The table as its changes show it. Of one in parts, the columns that changes of each have."""
        relations = Relations()
        await relations.load(self.connection, source["relations"])
        try:
            first, *others = (relations[id_] for id_ in source["relations"])
        except (KeyError, ValueError):
            raise _Refused("the table is not captured") from None
        common = {column.name for column in first.columns}.intersection(
            *({column.name for column in one.columns} for one in others)
        )
        columns = tuple(column for column in first.columns if column.name in common)
        return Relation(
            first.id,
            first.oid,
            first.schema,
            first.table,
            columns,
            first.identity,
            first.omitted,
            key=first.key,
        )

    async def _read(self, part: Part) -> bool:
        """Have Postgres read the rows of a part. False where that failed, which ``faults`` says then."""
        if await self._source(part.oid) != part.source:
            raise Altered
        options = part.binding.snapshot or SnapshotOptions()
        declare = _DECLARE.format(
            milliseconds=self._left(),
            name=part.name,
            role=selecting.literal(self.subject.role),
            claims=selecting.literal(self.subject.claims),
            path=selecting.literal(self.search_path),
            rows=options.batch,
            bytes=min(self.limit, _MAX_BYTES),
        )
        try:
            await self.connection.execute(declare)
            (part.first,) = await self._ask(fetch_one(part.name))
            await self.connection.execute(_KEEP)
        except asyncpg.PostgresError as error:
            # Whatever it says: a policy's code may say that the server shuts down. This fails if it does.
            await self.connection.execute(_DROP)
            self.faults[part.place] = reason_of(error, self.seconds)
            self._tell(part, error.sqlstate or "")
            return False
        if (await self._ask("select rowcast.rewritten($1)", part.oid))[0][0]:
            raise Altered
        return True

    def _tell(self, part: Part, code: str) -> None:
        """Log that a role cannot have a table's rows: once, however many clients ask."""
        key = (self.subject.role, part.oid, code)
        if key not in self.told:
            # A policy's code may raise any code that it likes.
            if len(self.told) >= _MAX_TOLD:
                self.told.clear()
            self.told.add(key)
            table = f"{part.source['schema_name']}.{part.source['table_name']}"
            log.warning("snapshot_failed", role=self.subject.role, table=table, code=code)

    def _left(self) -> int:
        """How long Postgres may still take, in milliseconds; zero would be for ever."""
        return max(1, int((self.deadline - time.monotonic()) * 1000))

    async def _ask(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        return await ask(self.connection, sql, *arguments)


async def ask(connection: asyncpg.Connection, sql: str, *arguments: Any) -> list[asyncpg.Record]:
    """Ask under no name: code that ran in the session could have taken it."""
    statement = await connection.prepare(sql, name="")
    return list(await statement.fetch(*arguments))


def fetch_one(name: str) -> str:
    """What fetches the next batch of a cursor."""
    return f"fetch 1 from {name}"


def _is_text(text: str) -> bool:
    """Whether Postgres can be sent it."""
    try:
        return "\0" not in text and bool(text.encode())
    except UnicodeEncodeError:
        return False


def too_long(seconds: float) -> str:
    """Why a snapshot failed that Postgres was given so long for."""
    return f"it took longer than {seconds:g} seconds (ROWCAST_SNAPSHOT_TIMEOUT)"


def reason_of(error: asyncpg.PostgresError, seconds: float) -> str:
    """Why a snapshot failed, without Postgres' own text: a policy's code may have put a row into that."""
    match error:
        case asyncpg.QueryCanceledError():
            return too_long(seconds)
        case asyncpg.InsufficientPrivilegeError():
            return "permission denied to the role, for its table or for what its policies read"
        case asyncpg.ConfigurationLimitExceededError():
            return "it takes more of the database's disk than temp_file_limit lets it: ask for fewer rows"
        case asyncpg.DiskFullError():
            return "the database's disk is full"
    name = type(error).__name__.removesuffix("Error")
    return f"Postgres refused to read it ({error.sqlstate}, {name})"
