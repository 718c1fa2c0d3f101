"""Connections to Postgres: made one way everywhere, with every secret kept out of errors.

A connection through a pooler of transactions is another session after each transaction: nothing is set on it,
no statement is prepared under a name, no lock is held by it. ``pooled`` says so.

Advisory locks are taken by number; the numbers stand here, so that no two purposes share one.
"""

import asyncio
import os
import ssl
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncpg

from rowcast.db.address import files, place
from rowcast.db.reaching import reach
from rowcast.errors import DatabaseError

T = TypeVar("T")

ADVISORY_MIGRATE = 0x526F7763_0001
ADVISORY_WAKER = 0x526F7763_0002
ADVISORY_NODE = 0x526F7763_0003
ADVISORY_TABLES = 0x526F7763_0004
ADVISORY_KEEPER = 0x526F7763_0005

_CONNECT_SECONDS = 10.0
_PATIENCE = 30.0
_CACHED_STATEMENTS = 100
# A vanished host must be noticed soon: its session may hold the waker's lock. Set by statement, not at the
# start of the session, where poolers refuse what they do not know.
_SETTINGS = {
    "jit": "off",
    "timezone": "UTC",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
    # Whatever was set for the role or the database, against forgotten sessions or for old programs.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "standard_conforming_strings": "on",
}
_SET = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SETTINGS.items())
_STATE = "select pg_is_in_recovery() as standby, current_setting('transaction_read_only')::bool as read_only"

#: The same for one transaction that takes its time. It leaves lock_timeout: that is for the others.
UNHURRIED = """
select set_config(s.name, case s.name when 'standard_conforming_strings' then 'on' else '0' end, true)
from pg_settings as s
where s.name in ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout',
                 'standard_conforming_strings')
"""

#: A connection of our own, or one lent by the pool.
Session = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

#: What a lost connection may raise, at any statement.
LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # What asyncpg says of a statement sent at the moment its backend was ended.
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    OSError,
    TimeoutError,
)
#: What a server that is starting, stopping or full may say to a new connection.
REFUSED = (asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError, *LOST)

#: What a pool's new connection may raise, when somebody changes a password meanwhile, too.
AWAY = (*REFUSED, asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)

#: What Postgres says for good: who may connect, to what, with which settings.
_FINAL = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedObjectError,
    asyncpg.CantChangeRuntimeParamError,
    asyncpg.InvalidParameterValueError,
)
#: What PgBouncer says for good, under the code that it uses for everything.
_FINAL_TEXTS = (
    "authentication failed",
    "no such user",
    "no such database",
    "does not exist",
    "not allowed",
    "unsupported startup parameter",
)
_NO_TLS = "rejected SSL upgrade"


def unreachable(dsn: str, error: BaseException) -> str:
    """Why a database does not answer now, in a sentence; ``error`` is one of REFUSED."""
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return f"No host of {place(dsn)} that answers is a primary."
    # An OSError's own words name the host and port only; a Postgres says what keeps it.
    why = str(error) if isinstance(error, (OSError, asyncpg.PostgresError)) else ""
    name = type(error).__name__
    return f"Postgres at {place(dsn)} does not answer ({f'{name}: {why}' if why else name})."


async def connect(
    dsn: str,
    *,
    purpose: str,
    pooled: bool = False,
    timeout: float = _CONNECT_SECONDS,
    patience: float | None = _PATIENCE,
) -> asyncpg.Connection:
    """A connection that writes, named for its purpose in ``pg_stat_activity``.

    ``patience`` bounds each of its statements, in seconds: a dead TCP connection says nothing, and an
    unbounded statement would wait on it for ever.

    Raises DatabaseError when trying again is of no use until somebody mends something: wrong password, no
    such database, a certificate that is not to be trusted, a standby, a role that may only read. Raises one
    of REFUSED otherwise.
    """
    _check_files(dsn)
    try:
        async with asyncio.timeout(timeout):
            connection = await reach(
                dsn,
                timeout=timeout,
                command_timeout=patience,
                statement_cache_size=0 if pooled else _CACHED_STATEMENTS,
                server_settings={"application_name": f"rowcast {purpose}"},
            )
            try:
                state = await connection.fetchrow(_STATE if pooled else f"{_STATE}, {_SET}")
            except BaseException:
                connection.terminate()
                raise
    except (*_FINAL, *REFUSED) as error:
        if (reason := _final(dsn, error)) is not None:
            raise DatabaseError(reason) from None
        raise
    assert state is not None
    if state["standby"]:
        connection.terminate()
        raise DatabaseError(
            f"Postgres at {place(dsn)} is a standby, where nothing can be written. Point DATABASE_URL at the "
            "primary; of several hosts, ?target_session_attrs=primary finds it."
        )
    if state["read_only"]:
        connection.terminate()
        raise DatabaseError(
            f"Postgres at {place(dsn)} lets this role only read: default_transaction_read_only is on. Let it "
            "write, by ALTER ROLE … IN DATABASE … SET default_transaction_read_only = off."
        )
    return connection


def _final(dsn: str, error: BaseException) -> str | None:
    """What to mend, where trying again would not help; None where it may."""
    where, text = place(dsn), str(error)
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"The certificate of Postgres at {where} is not to be trusted: "
                f"{error.verify_message.rstrip('.')}. Give the file of the authority that signed it as "
                "sslrootcert=… in the address, and the host by a name that the certificate has; "
                "sslmode=require without sslrootcert encrypts and verifies nothing."
            )
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError() | ssl.SSLSyscallError():
            return None
        case ssl.SSLError():
            return f"Postgres at {where} and this server do not agree on TLS ({error.reason})."
        case ConnectionError() if _NO_TLS in text:
            return (
                f"Postgres at {where} does not offer TLS, and sslmode asks for it. Switch it on there "
                "(ssl = on), or take sslmode out of the address."
            )
        case asyncpg.ClientConfigurationError():
            return f"The address of Postgres at {where} cannot be used: {text}."
        case asyncpg.ProtocolViolationError():
            if not any(final in text for final in _FINAL_TEXTS):
                return None
            return f"The pooler at {where} refuses the connection: {text}."
        case asyncpg.PostgresError() if isinstance(error, _FINAL):
            return f"Postgres at {where} refuses the connection: {text}."
    return None


def _check_files(dsn: str) -> None:
    """Whatever is said of a file that cannot be read does not name it, and may mean a socket as well."""
    for parameter, path in files(dsn).items():
        if not os.access(path, os.R_OK):
            raise DatabaseError(
                f"The file that {parameter} names in the address of Postgres at {place(dsn)} cannot be read."
            )


async def while_alive(connection: asyncpg.Connection, work: Coroutine[Any, Any, T]) -> T:
    """Do what is done on a connection of our own, for as long as that is there.

    Raises ConnectionResetError as soon as it is lost: a statement that is sent at that very moment may never
    be answered.
    """
    task = asyncio.current_task()
    assert task is not None
    lost = False

    def tell(_: object) -> None:
        nonlocal lost
        lost = True
        task.cancel()

    connection.add_termination_listener(tell)
    try:
        return await work
    except asyncio.CancelledError:
        if not lost or task.uncancel():
            raise
        raise ConnectionResetError("the connection was lost") from None
    finally:
        connection.remove_termination_listener(tell)
