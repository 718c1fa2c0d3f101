"""PostgresStore: positions in a table, so that an effect and its position can be committed together.

It needs asyncpg: ``pip install 'rowcast-client[postgres]'``.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from .errors import StoreError, UsageError

if TYPE_CHECKING:
    import asyncpg

_TABLE = "rowcast_client.positions"
_NAME = re.compile(r"(?:([A-Za-z_]\w*)\.)?([A-Za-z_]\w*)", re.ASCII)


class PostgresStore:
    """A table with a row for each key, made when it is missing.

    ``source`` is a connection string (each use connects anew), an asyncpg pool, or an asyncpg connection that
    nobody else uses. ``table`` has a schema of its own unless named otherwise, so that a publication or an
    API for all tables of ``public`` does not show it.
    """

    def __init__(self, source: "str | asyncpg.Pool | asyncpg.Connection", *, table: str = _TABLE) -> None:
        if isinstance(source, str):
            _asyncpg()
        found = _NAME.fullmatch(table)
        if found is None:
            raise UsageError("table must be a name, or schema.name, of letters, digits and underscores")
        self._source: Any = source
        self._schema, name = found.groups()
        self._table = f'"{self._schema}"."{name}"' if self._schema else f'"{name}"'
        self._lock = asyncio.Lock()

    async def load(self, key: str) -> str | None:
        """The position saved last, or None. Makes the table if need be. Raises what asyncpg raises."""
        async with self._connection() as connection:
            if await connection.fetchval("select to_regclass($1)", self._table) is None:
                await self._make(connection)
            position = await connection.fetchval(f"select position from {self._table} where key = $1", key)
        return None if position is None else str(position)

    async def save(
        self, key: str, position: str | None, *, connection: "asyncpg.Connection | None" = None
    ) -> None:
        """Keep this position; on ``connection``, as a part of the transaction that is open there.

        The table has to be there: ``load`` makes it, and so does whatever subscribes with this store. Raises
        what asyncpg raises, and UsageError for no position.
        """
        if position is None:
            raise UsageError("there is no position to save", hint="only a Rowcast server gives positions")
        async with contextlib.nullcontext(connection) if connection is not None else self._connection() as on:
            await on.execute(
                f"insert into {self._table} (key, position) values ($1, $2) "
                "on conflict (key) do update set position = excluded.position, saved_at = now()",
                key,
                position,
            )

    async def _make(self, connection: Any) -> None:
        asyncpg = _asyncpg()
        statements = [
            f"create table if not exists {self._table} (key text primary key, position text not null, "
            "saved_at timestamptz not null default now())"
        ]
        schema = f'"{self._schema}"' if self._schema else None
        if schema and await connection.fetchval("select to_regnamespace($1)", schema) is None:
            statements.insert(0, f"create schema if not exists {schema}")
        try:
            # Two that make it at once may both find it missing.
            async with connection.transaction():
                await connection.execute("select pg_advisory_xact_lock(hashtext($1))", self._table)
                for statement in statements:
                    await connection.execute(statement)
                # Else an API for the tables of its schema would show it to everybody.
                await connection.execute(f"alter table {self._table} enable row level security")
        except asyncpg.InsufficientPrivilegeError as fault:
            hint = f"have somebody run: {'; '.join(statements)}; and grant this role select, insert, update"
            raise StoreError(f"the role may not make the table {self._table}", hint=hint) from fault

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if isinstance(self._source, str):
            # No prepared statements: a pooler of transactions would lose them.
            connection = await _asyncpg().connect(self._source, statement_cache_size=0)
            try:
                yield connection
            finally:
                await connection.close()
        elif hasattr(self._source, "acquire"):
            async with self._source.acquire() as connection:
                yield connection
        else:
            async with self._lock:
                yield self._source


def _asyncpg() -> Any:
    try:
        import asyncpg
    except ImportError:
        hint = "pip install 'rowcast-client[postgres]'"
        raise UsageError("PostgresStore needs asyncpg", hint=hint) from None
    return asyncpg
