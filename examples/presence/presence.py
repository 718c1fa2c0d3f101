"""Who is here, and who comes and goes. Usage: python presence.py URL KEY --name ann"""

import argparse
import asyncio
import contextlib
from datetime import UTC, datetime

from rowcast_client import PresenceEvent, create_client


async def main(url: str, key: str, name: str) -> None:
    async with create_client(url, key) as client:
        # Windows and terminals under one key are one person.
        lobby = client.channel("lobby", presence_key=name)
        met = False  # whether we know who was here before us

        def show(event: PresenceEvent) -> None:
            nonlocal met
            if event.event == "sync":
                print("Here:", *lobby.presence_state(), flush=True)
                met = True
            elif event.event == "join" and met and len(event.current) == len(event.joined) and not event.left:
                print(f"{event.key} came", flush=True)
            elif event.event == "leave" and not event.current:
                print(f"{event.key} left", flush=True)

        lobby.on("presence", show)
        await lobby.subscribe()
        await lobby.track({"since": datetime.now(UTC).isoformat()})
        await client.wait_until("closed")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url")
    arguments.add_argument("key")
    arguments.add_argument("--name", required=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(**vars(arguments.parse_args())))
