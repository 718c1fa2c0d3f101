"""How a Postgres is reached: of several hosts the first that will do, and one that vanishes is noticed.

asyncpg gives all hosts one time limit together, so that a dead one before a living one would use it up.
"""

import socket
from typing import Any, Final

import asyncpg

from rowcast.db.address import cleaned, each_host

#: When Postgres' host is gone without a word: probed after five silent seconds, given up ten seconds after
#: what was sent last has not arrived. Each by the name that the system may not have.
_WATCH: Final = (
    ("TCP_KEEPIDLE", 5),
    ("TCP_KEEPINTVL", 2),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 10_000),
)


async def reach(dsn: str, *, timeout: float, **options: Any) -> asyncpg.Connection:
    """A connection to one of an address' hosts, tried in order; each has its share of ``timeout`` (seconds).

    ``options`` are asyncpg's. Raises what asyncpg does: of several faults, that of a host that answered and
    is no primary, or else the last.
    """
    hosts = each_host(cleaned(dsn))
    fault: Exception | None = None
    for host in hosts:
        try:
            connection: asyncpg.Connection = await asyncpg.connect(
                host, timeout=timeout / len(hosts), **options
            )
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched) as error:
            if not isinstance(fault, asyncpg.TargetServerAttributeNotMatched):
                fault = error
        else:
            _watch(connection)
            return connection
    assert fault is not None
    raise fault


def _watch(connection: asyncpg.Connection) -> None:
    transport = connection._transport  # type: ignore[attr-defined]  # nothing public leads there
    found = transport.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # Another name for the same socket: what the transport gives sets no options on every loop.
    with found.dup() as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _WATCH:
            if (option := getattr(socket, name, None)) is not None:
                same.setsockopt(socket.IPPROTO_TCP, option, value)
