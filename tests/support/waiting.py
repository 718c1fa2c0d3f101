"""Waiting for what nobody tells of: the catalog of a database, or what another process says of itself."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

_POLL_SECONDS = 0.01


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Ask until it holds; TimeoutError when it never does."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)


async def until_so(connection: asyncpg.Connection, question: str, *arguments: object) -> None:
    """Ask Postgres until it says yes."""

    async def says_yes() -> bool:
        return bool(await connection.fetchval(question, *arguments))

    await until(says_yes)


async def until_well(faults: Callable[[], object]) -> None:
    """Look at faults until there are none."""

    async def well() -> bool:
        return not faults()

    await until(well)
