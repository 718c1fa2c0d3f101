"""The chat in a terminal: a line that is typed is said. Usage: python chat.py URL KEY --name ann"""

import argparse
import asyncio
import contextlib
import sys
from datetime import UTC, datetime, timedelta

from rowcast_client import Broadcast, create_client


async def main(url: str, key: str, name: str) -> None:
    since = datetime.now(UTC) - timedelta(days=1)
    async with create_client(url, key) as client:
        # Its policies are in setup.sql. What is sent is stored, and sent again to who comes later.
        room = client.channel("chat", private=True, store=True, replay={"since": since, "limit": 25})
        room.on("broadcast", {"event": "message"}, show)
        await room.subscribe()
        print("You are in the chat. Type a line to say it.", flush=True)
        async for line in await typed():
            if text := line.decode().strip():
                said = {"name": name, "text": text, "at": datetime.now(UTC).isoformat()}
                await room.send("message", said)


def show(message: Broadcast) -> None:
    print(f"{message.payload['name']}: {message.payload['text']}", flush=True)


async def typed() -> asyncio.StreamReader:
    """The lines that are typed, up to Ctrl-D."""
    reader, loop = asyncio.StreamReader(), asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url")
    arguments.add_argument("key")
    arguments.add_argument("--name", required=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(**vars(arguments.parse_args())))
