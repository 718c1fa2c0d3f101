"""Who may read and write on a private channel: what the policies on ``realtime.messages`` say.

They are asked as Supabase asks them: a message is written by the server and looked for under the client's
role and claims, or written under these; the transaction is rolled back, and nothing of it stays.
"""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Final

import asyncpg
import structlog

from rowcast.db.connection import REFUSED, Session
from rowcast.db.roles import PATIENCE, RoleUnavailable, Stubborn, as_role, end_sessions, undone, within
from rowcast.model.allowed import Allowed, ChannelRequest, ChannelUnavailable

_EXTENSIONS: Final = ("broadcast", "presence")
#: A connection must be had within this time, in seconds.
_ACQUIRE_SECONDS: Final = 5.0

_PROBE: Final = """insert into realtime.messages (id, topic, extension)
select * from unnest($1::uuid[], $2::text[], $3::text[])"""
_READ: Final = "select m.extension from realtime.messages as m where m.id = any ($1)"
# What names no column asks for no right to read: who may write need not be allowed to.
_WRITE: Final = """insert into realtime.messages as m (id, topic, extension) values ($1, $2, $3)
returning ''::text"""
_SET: Final = "select " + ", ".join(
    f"set_config('{name}', ${number}, true)"
    for number, name in enumerate(
        (
            "realtime.topic",
            "request.jwt.claims",
            "request.jwt.claim.sub",
            "request.jwt.claim.role",
            "request.headers",
            "row_security",
        ),
        start=1,
    )
)
_REFUSED: Final = (asyncpg.InsufficientPrivilegeError,)

log = structlog.get_logger("rowcast.channels")


class Channels:
    """Asks one database. ``seconds`` bounds each statement; only ``roles`` are ever assumed.

    Both questions raise ChannelUnavailable.
    """

    def __init__(self, pool: asyncpg.Pool, roles: Iterable[str], seconds: float = 5.0) -> None:
        self._pool, self._roles, self._seconds = pool, frozenset(roles), seconds

    async def may_read(self, request: ChannelRequest, *, presence: bool) -> Allowed:
        """What the client would receive. Without ``presence`` that policy is not asked."""
        extensions = _EXTENSIONS if presence else _EXTENSIONS[:1]
        ids = [uuid.uuid4() for _ in extensions]
        async with self._asking(request) as connection:
            if connection is None:
                return Allowed()
            await connection.execute(_PROBE, ids, [request.topic] * len(ids), extensions)
            await self._set(connection, request)
            read = await as_role(connection, request.claims.role, _READ, ["uuid[]"], ["text"])
            async with within(connection, self._seconds):
                found = {extension for (extension,) in await connection.fetch(read, ids, request.claims.role)}
            return _allowed(found)
        return Allowed()

    async def may_write(self, request: ChannelRequest) -> Allowed:
        """What the client may send. A policy that fails on one kind of message allows none of the other, as
        with Supabase."""
        allowed = set()
        async with self._asking(request) as connection:
            if connection is None:
                return Allowed()
            await self._set(connection, request)
            role = request.claims.role
            write = await as_role(connection, role, _WRITE, ["uuid", "text", "text"], ["text"], writes=True)
            for extension in _EXTENSIONS:
                with contextlib.suppress(*_REFUSED):
                    async with connection.transaction(), within(connection, self._seconds):
                        await connection.fetch(write, uuid.uuid4(), request.topic, extension, role)
                        allowed.add(extension)
            return _allowed(allowed)
        return Allowed()

    @contextlib.asynccontextmanager
    async def _asking(self, request: ChannelRequest) -> AsyncIterator[Session | None]:
        """A transaction that is rolled back in any case. None for a role that is never assumed.

        What a policy raises ends it: the body is left, and nothing is allowed.
        """
        if request.claims.role not in self._roles:
            yield None
            return
        acquired = False
        try:
            # A connection that fell silent has no statement_timeout, and the socket hears nothing meanwhile.
            async with asyncio.timeout(_ACQUIRE_SECONDS + 2 * (self._seconds + PATIENCE)):
                async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
                    acquired = True
                    async with undone(connection):
                        await connection.execute(
                            f"set local statement_timeout = '{self._seconds * 1000:.0f}'"
                        )
                        yield connection
        except (asyncpg.QueryCanceledError, Stubborn) as error:
            if isinstance(error, Stubborn):
                await self._end_session(error)
            raise ChannelUnavailable("QueryCanceled", "Query was cancelled, please try again") from None
        except asyncpg.CheckViolationError as error:
            if error.constraint_name is None and error.table_name == "messages":
                text = "Realtime was unable to find the expected messages partition"
                raise ChannelUnavailable("MissingPartition", text) from None
            self._failed(error)
        except asyncpg.TooManyConnectionsError:
            text = "Database can't accept more connections, Realtime won't connect"
            raise ChannelUnavailable("DatabaseLackOfConnections", text) from None
        except REFUSED as error:
            if isinstance(error, TimeoutError) and not acquired:
                text = "Please increase your connection pool size"
                raise ChannelUnavailable("IncreaseConnectionPool", text) from None
            text = "Realtime was unable to connect to the project database"
            raise ChannelUnavailable("UnableToConnectToProject", text) from None
        except (asyncpg.PostgresError, RoleUnavailable) as error:
            self._failed(error)

    async def _end_session(self, error: Stubborn) -> None:
        with contextlib.suppress(*REFUSED):
            async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
                await end_sessions(connection, [error.pid])

    @staticmethod
    def _failed(error: Exception) -> None:
        # A name and no text: it may hold what the policy looked at.
        log.warning("policy_failed", table="realtime.messages", error=type(error).__name__)

    async def _set(self, connection: Session, request: ChannelRequest) -> None:
        claims = request.claims
        sub = claims.raw.get("sub")
        await connection.execute(
            _SET,
            request.topic,
            json.dumps(dict(claims.raw)),
            sub if isinstance(sub, str) else "",
            claims.role,
            json.dumps(dict(request.headers)),
            "on",
        )


def _allowed(extensions: Collection[str]) -> Allowed:
    return Allowed(broadcast="broadcast" in extensions, presence="presence" in extensions)
