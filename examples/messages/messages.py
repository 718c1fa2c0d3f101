"""Private messages in a terminal. Usage: python messages.py URL KEY --name ann --token TOKEN"""

import argparse
import asyncio
import sys
from datetime import UTC, datetime, timedelta

from rowcast_client import Broadcast, RowcastError, create_client


async def main(url: str, key: str, name: str, token: str) -> None:
    since = datetime.now(UTC) - timedelta(days=1)
    async with create_client(url, key, token=token) as client:
        # The policies in setup.sql let nobody else join it. What was sent meanwhile comes first.
        mine = client.channel(
            f"user:{name}", private=True, echo=True, store=True, replay={"since": since, "limit": 25}
        )
        mine.on("broadcast", {"event": "message"}, show)
        await mine.subscribe()
        print(f"You are {name}. Write to somebody like this: `ben: hello`.", flush=True)
        async for line in await typed():
            to, colon, text = line.decode().strip().partition(": ")
            if not colon:
                print("That has no name before it, as in `ben: hello`.", flush=True)
                continue
            # Nobody joins the topic of another: this goes by a request, which policies let through or not.
            # It is stored for who is not there.
            theirs = mine if to == name else client.channel(f"user:{to}", private=True, store=True)
            try:
                at = datetime.now(UTC).isoformat()
                await theirs.send("message", {"from": name, "text": text, "at": at})
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
    try:
        asyncio.run(main(**vars(arguments.parse_args())))
    except RowcastError as error:  # the token is not that of this name, say
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
