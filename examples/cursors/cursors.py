"""A cursor that goes round, and where the others are. Usage: python cursors.py URL KEY --name ann"""

import argparse
import asyncio
import contextlib
import math
import uuid

from rowcast_client import Broadcast, create_client

EVERY = 0.05  # seconds between two messages: a server takes 100 messages a second from a socket


async def main(url: str, key: str, name: str) -> None:
    me = str(uuid.uuid4())
    async with create_client(url, key) as client:
        room = client.channel("cursors", presence_key=me)

        def moved(message: Broadcast) -> None:
            where = message.payload
            for presence in room.presence_state().get(where["id"], ()):
                print(f"{presence.payload['name']} is at {where['x']:.0%}, {where['y']:.0%}", flush=True)

        room.on("broadcast", {"event": "move"}, moved)
        await room.subscribe()
        await room.track({"name": name})
        print("Your cursor goes round: see it on the page. Ctrl-C ends it.", flush=True)
        angle = 0.0
        while True:
            x, y = 0.5 + math.cos(angle) / 4, 0.5 + math.sin(angle) / 4
            await room.send("move", {"id": me, "x": x, "y": y})
            await asyncio.sleep(EVERY)
            angle += 0.1


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url")
    arguments.add_argument("key")
    arguments.add_argument("--name", required=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(**vars(arguments.parse_args())))
