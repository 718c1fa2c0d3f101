"""What tests write to a database, and take from the queues that callbacks fill."""

import asyncio
from typing import TypeVar

import asyncpg

T = TypeVar("T")


async def write(database: str, *statements: str) -> None:
    """Run these statements, each in a transaction of its own."""
    connection = await asyncpg.connect(database)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def take(queue: "asyncio.Queue[T]", number: int) -> list[T]:
    """The next items of a queue."""
    async with asyncio.timeout(20):
        return [await queue.get() for _ in range(number)]


async def one(queue: "asyncio.Queue[T]") -> T:
    """The next item of a queue."""
    (item,) = await take(queue, 1)
    return item
