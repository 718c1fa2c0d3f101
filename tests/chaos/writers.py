"""Sessions that write as users do, each change with its line in the audit of the same transaction."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import asyncpg

from chaos.schema import COLUMNS, OWNERS, SAID, TABLES, Subject
from rowcast.db.connection import REFUSED

Dsn = Callable[[], str]

_COLUMNS: Final = ", ".join(COLUMNS)
_LARGE: Final = 400  # rows in a table, above which half of them are deleted
_ISOLATION: Final = (
    *("read committed", "read committed", "read committed"),
    *("repeatable read", "serializable"),
)
_WORDS: Final = ("alder", "birch", "elm", "maple", "oak", "pine", "Beech", "rowan", "willow", "yew")
#: Who writes: None is the superuser, whom no policy narrows.
_WRITERS: Final = (None, Subject("service_role"), *(Subject("authenticated", owner) for owner in OWNERS))
_CHANGES: Final = (
    "amount = (amount * 7 + 13) % 100",
    "note = reverse(note)",
    "grp = (grp + 1) % 4",
    "amount = 99 - amount, note = upper(note)",
)


class Writers:
    """``commits`` says when each transaction was known to have committed, in seconds of the monotonic
    clock; the outcome of the others is for the audit to say."""

    def __init__(self, dsn: Dsn, seed: int, *, number: int = 4, rate: float = 120.0) -> None:
        self.commits: dict[int, float] = {}
        self.outcomes: Counter[str] = Counter()
        self.stopping = False
        self._dsn, self._rate, self._number = dsn, rate, number
        self._random = [random.Random(f"{seed} writer {n}") for n in range(number)]

    async def run(self) -> None:
        """Write until told to stop, whatever becomes of Postgres."""
        async with asyncio.TaskGroup() as group:
            for rnd in self._random:
                group.create_task(self._write(rnd))

    async def _write(self, rnd: random.Random) -> None:
        while not self.stopping:
            try:
                connection = await asyncpg.connect(
                    self._dsn(),
                    timeout=5,
                    server_settings={"application_name": "writer", "deadlock_timeout": "50ms"},
                )
            except (*REFUSED, asyncpg.PostgresError):
                await asyncio.sleep(0.05)
                continue
            try:
                await self._write_on(connection, rnd)
            except (*REFUSED, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                self.outcomes[f"cut off: {type(error).__name__}"] += 1
            finally:
                connection.terminate()

    async def _write_on(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        while not self.stopping:
            changes = await self._transaction(connection, rnd)
            await asyncio.sleep(rnd.expovariate(1.0) * min(max(changes, 1), 8) * self._number / self._rate)

    async def _transaction(self, connection: asyncpg.Connection, rnd: random.Random) -> int:
        """One transaction; how many changes it made, also if they came to nothing."""
        writer = rnd.choice(_WRITERS)
        changes = 0
        try:
            await connection.execute(f"begin isolation level {rnd.choice(_ISOLATION)}")
            await _become(connection, writer)
            if rnd.random() < 0.4:
                await connection.execute("set local synchronous_commit = off")
            for _ in range(rnd.choice((1, 1, 1, 2, 3, 5))):
                changes += await _step(connection, rnd, writer)
            if rnd.random() < 0.03:
                await connection.execute("select pg_sleep($1)", 0.2 + rnd.random() * 0.8)
            if rnd.random() < 0.1:
                await connection.execute("rollback")
                self.outcomes["rolled back"] += 1
                return changes
            xid = await connection.fetchval("select pg_current_xact_id_if_assigned()::text")
            await connection.execute("commit")
            if xid is not None:
                self.commits[int(xid)] = time.monotonic()
            self.outcomes["committed"] += 1
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if connection.is_closed():
                raise
            self.outcomes[type(error).__name__] += 1
            if connection.is_in_transaction():
                await connection.execute("rollback")
        return changes


async def _become(connection: asyncpg.Connection, writer: Subject | None) -> None:
    if writer is not None:
        claims = json.dumps({"role": writer.role, "sub": writer.sub})
        await connection.execute(
            "select set_config('request.jwt.claims', $1, true), set_config('role', $2, true)",
            claims,
            writer.role,
        )


async def _step(connection: asyncpg.Connection, rnd: random.Random, writer: Subject | None) -> int:
    if rnd.random() > 0.2:
        return await _statement(connection, rnd, writer)
    await connection.execute("savepoint inner_one")
    try:
        changes = await _statement(connection, rnd, writer)
    except asyncpg.PostgresError:
        await connection.execute("rollback to savepoint inner_one")
        return 0
    kept = rnd.random() < 0.5
    await connection.execute(f"{'release' if kept else 'rollback to'} savepoint inner_one")
    return changes


async def _statement(connection: asyncpg.Connection, rnd: random.Random, writer: Subject | None) -> int:
    if rnd.random() < 0.15:
        return await _say(connection, rnd)
    table = rnd.choice(TABLES)
    count = await connection.fetchval(f"select count(*) from {table}")
    narrowed = writer is not None and writer.role == "authenticated"
    if count > _LARGE:
        return await _audited(
            connection, "D", table, f"delete from {table} where amount % 2 = {rnd.randrange(2)}"
        )
    kind = rnd.random()
    if kind < 0.03 and table == "plain" and not narrowed:
        return await _truncate(connection)
    if kind < 0.4 or count < 20:
        rows = rnd.choice((1, 1, 1, 1, 2, 5, 20, 60))
        return await _insert(connection, rnd, table, rows, writer.sub if narrowed and writer else None)
    if kind < 0.55:
        return await _audited(connection, "D", table, f"delete from {table} where {_some(rnd, table)}")
    if kind < 0.65 and table == "plain":
        old, new = rnd.randint(1, _LARGE), rnd.randint(1, _LARGE)
        where = f"id = {old} and not exists (select from plain where id = {new})"
        return await _audited(connection, "U", table, f"update plain set n = n + 1, id = {new} where {where}")
    if kind < 0.7 and not narrowed:
        owner = rnd.choice(OWNERS)
        change = f"owner = '{owner}'" if rnd.random() < 0.7 else f"id = id + {rnd.randint(1, 9) * 1000}"
        change = change if table != "plain" else f"owner = '{owner}'"
    else:
        change = rnd.choice(_CHANGES)
    where = _some(rnd, table) if rnd.random() < 0.9 else f"grp = {rnd.randrange(4)}"
    return await _audited(connection, "U", table, f"update {table} set n = n + 1, {change} where {where}")


def _some(rnd: random.Random, table: str) -> str:
    """A condition for a few rows."""
    order = f"md5(uid::text || {rnd.randrange(1000)})"
    return f"uid in (select uid from {table} order by {order} limit {rnd.choice((1, 1, 2, 5))})"


async def _insert(
    connection: asyncpg.Connection, rnd: random.Random, table: str, rows: int, owner: str | None
) -> int:
    values = []
    for number in rnd.sample(range(1, _LARGE), rows):
        note = rnd.choice(_WORDS) * (rnd.choice((50, 400)) if rnd.random() < 0.05 else 1)
        values.append(
            f"({number}, '{owner or rnd.choice(OWNERS)}', {rnd.randrange(4)}, {rnd.randrange(100)}, '{note}')"
        )
    again = "on conflict (id) do update set n = plain.n + 1, note = excluded.note" if table == "plain" else ""
    return await _audited(
        connection,
        "I",
        table,
        f"insert into {table} (id, owner, grp, amount, note) values {', '.join(values)} {again}",
    )


async def _say(connection: asyncpg.Connection, rnd: random.Random) -> int:
    owner, note, amount = rnd.choice(OWNERS), rnd.choice(_WORDS), rnd.randrange(100)
    said = f"'owner', '{owner}', 'n', 0, 'id', 1, 'grp', 0, 'amount', {amount}, 'note', '{note}'"
    body, count = f"jsonb_build_object('uid', gen_random_uuid(), {said})", rnd.choice((1, 1, 3))
    done = await connection.execute(
        "with done as (insert into realtime.messages (topic, extension, event, private, payload) "
        f"select '{SAID}', 'broadcast', 'said', true, {body} from generate_series(1, {count}) "
        "returning payload) "
        f"insert into audit (op, tab, {_COLUMNS}) select 'I', '{SAID}', {_COLUMNS} "
        "from done, jsonb_to_record(payload) as m"
        " (uid uuid, id int, n bigint, owner text, grp int, amount int, note text)"
    )
    return int(done.split()[-1])


async def _audited(connection: asyncpg.Connection, op: str, table: str, statement: str) -> int:
    # A row that an INSERT met already was updated: its counter says so.
    said = "case when n = 0 then 'I' else 'U' end" if op == "I" else f"'{op}'"
    done = await connection.execute(
        f"with done as ({statement} returning {_COLUMNS}) "
        f"insert into audit (op, tab, {_COLUMNS}) select {said}, '{table}', {_COLUMNS} from done"
    )
    return int(done.split()[-1])


async def _truncate(connection: asyncpg.Connection) -> int:
    if await connection.fetchval("show transaction_isolation") != "read committed":
        return 0  # TRUNCATE takes rows that an older snapshot does not see, and the audit would not have them
    await connection.execute("set local lock_timeout = '300ms'; lock table plain in access exclusive mode")
    await connection.execute(
        f"insert into audit (op, tab, {_COLUMNS}) select 'X', 'plain', {_COLUMNS} from plain;"
        "insert into audit (op, tab) values ('T', 'plain'); truncate plain"
    )
    return 1
