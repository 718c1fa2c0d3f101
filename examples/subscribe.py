"""Print every change of the table `todos`. Usage: python examples/subscribe.py URL KEY"""

import asyncio
import sys

from rowcast_client import create_client


async def main(url: str, key: str) -> None:
    async with create_client(url, key) as client:
        todos = client.channel("todos").on("postgres_changes", print, table="todos")
        await todos.subscribe()
        await client.wait_until("closed")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
