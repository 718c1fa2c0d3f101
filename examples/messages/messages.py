"""Private messages: type `ben: hello`. Usage: python messages.py URL KEY --name ann --token TOKEN"""

import argparse
import asyncio
import contextlib
import sys
from datetime import UTC, datetime, timedelta

from rowcast_client import Broadcast, RowcastError, create_client


async def main(url: str, key: str, name: str, token: str) -> None:
    since = datetime.now(UTC) - timedelta(days=1)
    async with create_client(url, key, token=token) as client:
        # The policies in setup.sql let nobody else join it. What the database sent meanwhile comes first.
        mine = client.channel(f"user:{name}", private=True, replay={"since": since, "limit": 25})
        mine.on("broadcast", {"event": "message"}, show)
        await mine.subscribe()
        async for line in await typed():
            to, colon, text = line.decode().strip().partition(": ")
            if not colon:
                print("Type a name, a colon and a text, such as `ben: hello`.", flush=True)
                continue
            # Nobody joins the topic of another: this goes by a request, which policies let through or not.
            message = {"from": name, "text": text, "at": datetime.now(UTC).isoformat()}
            try:
                await client.channel(f"user:{to}", private=True).send("message", message)
            except RowcastError as error:
                print(f"Not sent: {error}", flush=True)


def show(message: Broadcast) -> None:
    print(f"{message.payload['from']}: {message.payload['text']}", flush=True)


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
    arguments.add_argument("--token", required=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(**vars(arguments.parse_args())))
