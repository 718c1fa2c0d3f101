"""The official Python client, driven by JSON lines: commands on stdin, what the client saw on stdout.

Commands: connect {url, key}, token {token}, subscribe {channel, bindings, private, presence}, unsubscribe
{channel}, track {channel, payload}, untrack {channel}, send
{channel, name, payload}, close. With `presence` {key} subscribe tells of presence, too, and of each broadcast
of the events that `hears` lists. It runs with the Python of the clients'
own virtual environment; the types of that package are not ours to check.
"""

import asyncio
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

# Not `import realtime`: type checkers would take the folder of that name in this checkout for it.
realtime: Any = importlib.import_module("realtime")


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}, default=plain), flush=True)


def plain(value: Any) -> Any:
    """What JSON has no word for: the client's payloads, which are models, and anything else as text."""
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


def report(event: str, **fields: Any) -> Callable[[Any], None]:
    return lambda payload: say(event, **fields, payload=payload)


class Driver:
    """One client and its channels, by name."""

    client: Any

    def __init__(self) -> None:
        self.channels: dict[str, Any] = {}

    async def connect(self, url: str, key: str, **_: Any) -> None:
        # Reconnecting soon, and for as long as a test lasts; everything else stays as people run it.
        self.client = realtime.AsyncRealtimeClient(
            f"{url}/realtime/v1", key, initial_backoff=0.1, max_retries=100
        )
        say("connected")

    async def token(self, token: str) -> None:
        await self.client.set_auth(token)
        say("token")

    async def subscribe(
        self,
        channel: str,
        bindings: Sequence[dict[str, Any]] = (),
        private: bool = False,
        presence: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        hears: Sequence[str] = (),
    ) -> None:
        own = private or presence is not None or config is not None
        config = {
            "broadcast": {"ack": False, "self": False, **(config or {}).get("broadcast", {})},
            "presence": {"enabled": presence is not None, "key": "", **(presence or {})},
            "private": private,
        }
        made = self.channels[channel] = self.client.channel(channel, {"config": config} if own else None)
        if presence is not None:
            made.on_presence_sync(lambda: say("sync", channel=channel, state=made.presence_state()))
            made.on_presence_join(lambda key, *_: say("join", channel=channel, key=key))
            made.on_presence_leave(lambda key, *_: say("leave", channel=channel, key=key))
        for index, binding in enumerate(bindings):
            made.on_postgres_changes(callback=report("change", channel=channel, binding=index), **binding)
        for event in hears:
            made.on_broadcast(event, self.broadcast(channel, event))
        made.on_system(report("system", channel=channel))

        def on_status(status: Any, error: Exception | None) -> None:
            text = str(getattr(status, "value", status))
            say("status", channel=channel, status=text, error=None if error is None else str(error))

        await made.subscribe(on_status)

    @staticmethod
    def broadcast(channel: str, name: str) -> Callable[[Any], None]:
        def heard(said: Any) -> None:
            say("broadcast", channel=channel, name=name, payload=said["payload"], meta=said.get("meta"))

        return heard

    async def send(self, channel: str, name: str, payload: dict[str, Any]) -> None:
        # It does not wait for an answer.
        await self.channels[channel].send_broadcast(name, payload)
        say("sent", channel=channel, result="ok")

    async def track(self, channel: str, payload: dict[str, Any]) -> None:
        # It does not wait for an answer.
        await self.channels[channel].track(payload)
        say("tracked", channel=channel, result="ok")

    async def untrack(self, channel: str) -> None:
        await self.channels[channel].untrack()
        say("untracked", channel=channel, result="ok")

    async def unsubscribe(self, channel: str) -> None:
        await self.client.remove_channel(self.channels.pop(channel))
        say("unsubscribed", channel=channel, result="ok")

    async def close(self) -> None:
        await self.client.close()
        say("closed")


async def main() -> None:
    driver = Driver()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        name = command.pop("do")
        await getattr(driver, name)(**command)
        if name == "close":
            return


if __name__ == "__main__":
    asyncio.run(main())
