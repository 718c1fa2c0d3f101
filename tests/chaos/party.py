"""All who subscribe in a run: raw clients, and clients of the SDK."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from chaos.channel import Channel
from chaos.checker import Verdict
from chaos.client import Client
from chaos.profiles import FIXED, SDK, random_profile
from chaos.sdk_client import SdkChannel, SdkClient, plain
from chaos.streams import Profile, Stream
from chaos.truth import Look, Truth
from chaos.world import World
from rowcast.model.position import Snapshot

_SHORT, _LONG = 6.0, 3600.0  # how long tokens last, in seconds


@dataclass
class Party:
    """Who subscribes. ``lifetime`` is that of the SDK's tokens."""

    clients: Sequence[Client]
    sdk_clients: Sequence[SdkClient]
    lifetime: float

    @property
    def channels(self) -> list[Channel]:
        """The raw clients' channels."""
        return [channel for client in self.clients for channel in client.channels]

    @property
    def sdk_channels(self) -> list[SdkChannel]:
        return [channel for client in self.sdk_clients for channel in client.channels]

    @property
    def streams(self) -> list[Stream]:
        return [one.stream for one in self.channels] + [one.stream for one in self.sdk_channels]

    @property
    def looks(self) -> set[Look]:
        """Everything that they look at."""
        found = {entry.look(one.profile.subject) for one in self.streams for entry in one.profile.entries}
        return found | {entry.look(one.subject) for one in self.sdk_clients for entry, _ in one.copies}

    @property
    def heard(self) -> int:
        """How many changes came so far."""
        return sum(len(stretch.heard) for stream in self.streams for stretch in stream.stretches)

    @property
    def troubles(self) -> Counter[str]:
        """What last went wrong with each, as they were told."""
        told = Counter(channel.trouble for channel in self.channels if channel.trouble)
        for client in self.sdk_clients:
            told.update({f"{name} of the SDK": count for name, count in client.errors.items()})
        return told

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Subscribe, until the tasks are cancelled."""
        tasks = [group.create_task(client.run()) for client in self.clients]
        return tasks + [group.create_task(client.run(self.lifetime)) for client in self.sdk_clients]

    def caught_up(self, target: Snapshot) -> bool:
        """Whether everybody has all that ``target`` sees."""
        for channel in self.channels:
            channel.stream.caught_up = channel.caught_up(target)
        for sdk_channel in self.sdk_channels:
            sdk_channel.stream.caught_up = sdk_channel.caught_up(target)
        return all(stream.caught_up for stream in self.streams) and all(
            client.caught_up(target) for client in self.sdk_clients
        )

    def check_rows(self, truth: Truth, verdict: Verdict) -> None:
        """Hold the rows that the SDK keeps against what committed."""
        for client in self.sdk_clients:
            for entry, rows in client.copies:
                expected = truth.rows(entry.look(client.subject))
                given = {str(row["uid"]): plain(row) for row in rows.values()}
                for uid in expected.keys() | given.keys():
                    if expected.get(uid) != given.get(uid):
                        what = f"{entry.table} {uid}: {given.get(uid)} is not {expected.get(uid)}"
                        verdict.add("copy", f"rows() of {client.subject.role}", what)


async def gather(place: World, seed: int, channels: int, sdk: int, *, tokens: bool) -> Party:
    """So many random channels beside the fixed ones, and so many clients of the SDK."""
    draws = random.Random(f"{seed} clients")
    profiles = [*FIXED, *(random_profile(draws, tokens=tokens) for _ in range(channels))]
    waiting = [Channel(f"{number}", profile) for number, profile in enumerate(profiles)]
    clients = []
    while waiting:
        count = draws.choice((1, 1, 2))
        if all(channel.profile.messages is not None for channel in waiting[:count]):
            count = 1  # they are of one topic
        mine, waiting = waiting[:count], waiting[count:]
        adopts = draws.random() < 0.5
        clients.append(Client(mine, place.ports, f"{seed} client {mine[0].name}", adopts=adopts))
    sdk_clients = [await _sdk_client(place, number) for number in range(min(sdk, len(SDK)))]
    return Party(clients, sdk_clients, _SHORT if tokens else _LONG)


async def _sdk_client(place: World, number: int) -> SdkClient:
    wanted = SDK[number]
    profiles = [
        Profile(wanted.subject, entries, group=wanted.group and entries[0].snapshot is None)
        for entries in wanted.channels
    ]
    channels = [SdkChannel(f"sdk {number}.{n}", profile) for n, profile in enumerate(profiles)]
    door = await place.open_door(place.servers[number % len(place.servers)])
    return SdkClient(wanted.subject, channels, wanted.rows, door)
