"""Statements that run as another role, and whose code cannot leave it.

What a type, an operator or a policy calls is anybody's code, and the session may be a superuser's: under a
mere `set role` such code says `reset role`, and is the superuser. So the statement stands in a function of
the role's, security definer, where Postgres lets nobody change the role.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

import asyncpg

from rowcast.db.connection import Session

_MAKE: Final = "select rowcast.make_question($1, $2, $3, $4)"
# What outlives a transaction that is rolled back.
_LEFT: Final = (
    "select pg_advisory_unlock_all(),"
    " (select array_agg(quote_ident(name)) from pg_prepared_statements where from_sql) as statements"
)
_END_SESSIONS: Final = """
select pg_terminate_backend(pid) from pg_stat_activity
where pid = any ($1) and datname = current_database() and usename = session_user
"""
#: A statement that was told to end and did not is waited for so much longer, in seconds.
PATIENCE: Final = 1.0


class RoleUnavailable(Exception):
    """A role that this server may not assume, or that is gone."""

    def __init__(self, role: str, reason: str) -> None:
        super().__init__(reason)
        self.role = role


class Stubborn(Exception):
    """Code that went on when Postgres told it to end. Its connection was given up; the session of its
    backend, ``pid``, is still to be ended."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"backend {pid} did not end what it was told to")
        self.pid = pid


@contextlib.asynccontextmanager
async def undone(connection: Session) -> AsyncIterator[None]:
    """A transaction of which nothing stays, nor of what code in it left in the session."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    except (asyncio.CancelledError, Stubborn):
        # Something of it may still run, under the role.
        connection.terminate()
        raise
    except BaseException:
        await _end(connection, transaction)
        raise
    await _end(connection, transaction)


@contextlib.asynccontextmanager
async def within(connection: Session, seconds: float) -> AsyncIterator[None]:
    """Give code that Postgres ends after ``seconds`` little more than these. Raises Stubborn."""
    pid = await connection.fetchval("select pg_backend_pid()")
    try:
        async with asyncio.timeout(seconds + PATIENCE):
            yield
    except TimeoutError:
        raise Stubborn(pid) from None


async def end_sessions(connection: Session, pids: list[int]) -> None:
    """End backends that were stubborn, and forget them."""
    if pids:
        await connection.execute(_END_SESSIONS, pids)
        pids.clear()


async def as_role(
    connection: Session,
    role: str,
    statement: str,
    arguments: Sequence[str],
    columns: Sequence[str],
    *,
    writes: bool = False,
) -> str:
    """SQL that runs a statement as a role, in this transaction, which must be one to be ``undone``; once.

    ``arguments`` and ``columns`` are the types of what the statement takes and gives; the SQL takes the role
    besides, as its last argument. What follows cannot write unless the statement does. Raises
    RoleUnavailable.
    """
    with _available(role):
        await connection.execute(_MAKE, role, ", ".join((*arguments, "text")), statement, writes)
    if not writes:
        await connection.execute("set transaction read only")
    given = [f"${number}::{type_}" for number, type_ in enumerate(arguments, start=1)]
    given.append(f"pg_catalog.set_config('role', ${len(arguments) + 1}::text, true)")
    named = ", ".join(f"c{number} {type_}" for number, type_ in enumerate(columns))
    return f"select * from pg_temp.rowcast_question({', '.join(given)}) as t ({named})"


async def set_role(connection: Session, role: str) -> None:
    """Be a role until the transaction ends, for statements that call nothing but Postgres' own code.

    `set local` only: a role set otherwise would outlive the transaction in a pool. Raises RoleUnavailable.
    """
    with _available(role):
        await connection.execute('set local role "{}"'.format(role.replace('"', '""')))


@contextlib.contextmanager
def _available(role: str) -> Iterator[None]:
    try:
        yield
    except (
        asyncpg.InsufficientPrivilegeError,
        asyncpg.InvalidParameterValueError,
        asyncpg.UndefinedObjectError,
    ) as error:
        raise RoleUnavailable(role, str(error)) from None


async def _end(connection: Session, transaction: asyncpg.transaction.Transaction) -> None:
    """Roll back, or give the connection up: the role of a client must never stay with it."""
    try:
        await transaction.rollback()
        left = await connection.fetchrow(_LEFT)
        assert left is not None
        for name in left["statements"] or ():
            await connection.execute(f"deallocate {name}")
    except BaseException:
        connection.terminate()
        raise
