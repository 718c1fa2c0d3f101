"""Connections to Postgres: made one way everywhere, with every secret kept out of errors.

Advisory locks are taken by number; the numbers stand here, so that no two purposes share one.
"""

import asyncio
from urllib.parse import urlsplit

import asyncpg

from rowcast.errors import DatabaseError

ADVISORY_MIGRATE = 0x526F7763_0001
ADVISORY_WAKER = 0x526F7763_0002
ADVISORY_NODE = 0x526F7763_0003
ADVISORY_TABLES = 0x526F7763_0004

_CONNECT_SECONDS = 10.0
_PATIENCE = 30.0
# A vanished host must be noticed soon: its session may hold the waker's lock.
_KEEPALIVES = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
_USER_TIMEOUT = {"tcp_user_timeout": "10000"}

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


def place(dsn: str) -> str:
    """Where a DSN points, without its user and password: for messages."""
    parts = urlsplit(dsn)
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.hostname or 'local socket'}{port}{parts.path}"


async def connect(
    dsn: str, *, purpose: str, timeout: float = _CONNECT_SECONDS, patience: float | None = _PATIENCE
) -> asyncpg.Connection:
    """A connection that writes, named for its purpose in ``pg_stat_activity``.

    ``patience`` bounds each of its statements, in seconds: a dead TCP connection says nothing, and an
    unbounded statement would wait on it for ever.

    Raises DatabaseError when the server refuses for good: wrong password, no such database, a standby.
    Raises one of REFUSED when trying again may help.
    """
    try:
        async with asyncio.timeout(timeout):
            connection = await asyncpg.connect(
                dsn,
                timeout=timeout,
                command_timeout=patience,
                server_settings={
                    "application_name": f"rowcast {purpose}",
                    "jit": "off",
                    "timezone": "UTC",
                    **_KEEPALIVES,
                    **_USER_TIMEOUT,
                },
            )
            try:
                standby = await connection.fetchval("select pg_is_in_recovery()")
            except BaseException:
                connection.terminate()
                raise
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise DatabaseError(f"Postgres at {place(dsn)} refuses the connection: {error}.") from None
    if standby:
        connection.terminate()
        raise DatabaseError(f"Postgres at {place(dsn)} is a standby. Point DATABASE_URL at the primary.")
    return connection
