"""One run: writers, clients and faults for some seconds, then quiet, then the verdict."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import asyncpg

from chaos import audit
from chaos.channel import Channel
from chaos.checker import Verdict, check
from chaos.client import Client
from chaos.faults import FAULTS, GAPS, SMALL, Scene
from chaos.profiles import FIXED, random_profile
from chaos.stalls import longest_stall
from chaos.streams import Stream
from chaos.truth import Look, Truth
from chaos.world import World, world
from chaos.writers import Writers

Say = Callable[[str], None]

_SETTLING = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. ``pause`` is the longest calm between two faults, in seconds."""

    seed: int
    seconds: float = 60.0
    faults: tuple[str, ...] = ()
    channels: int = 12
    servers: int = 2
    rate: float = 120.0
    pause: float = 2.0


@dataclass
class Outcome:
    """What came of it."""

    verdict: Verdict
    written: int = 0
    transactions: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    stall: float = 0.0
    resumes: int = 0
    again: int = 0
    sessions: int = 0
    troubles: Counter[str] = field(default_factory=Counter)


class Run:
    """A plan being done. ``say`` is told how it goes."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan, self._say = plan, say
        self._draws = random.Random(f"{plan.seed} faults")
        self._faults: Counter[str] = Counter()
        self.windows: list[tuple[float, float]] = []

    async def do(self) -> Outcome:
        """Do all of it. Raises what no fault explains."""
        plan = self.plan
        trimmed = "trimmed" in plan.faults
        async with world(
            plan.seed,
            servers=plan.servers,
            standby="promoted" in plan.faults,
            retention="3s" if trimmed else None,
        ) as place:
            clients = self._clients(place)
            writers = Writers(lambda: place.dsn, plan.seed, rate=plan.rate)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(client.run()) for client in clients]
                writing = group.create_task(writers.run())
                await self._make_faults(Scene(place, clients, self._draws), clients, writers)
                writers.stopping = True
                await writing
                await self._settle(place, clients)
                for task in tasks:
                    task.cancel()
            return await self._judge(place, clients, writers)

    def _clients(self, place: World) -> list[Client]:
        draws = random.Random(f"{self.plan.seed} clients")
        tokens = "expired" in self.plan.faults
        profiles = [*FIXED, *(random_profile(draws, tokens=tokens) for _ in range(self.plan.channels))]
        channels = [Channel(f"{number}", profile) for number, profile in enumerate(profiles)]
        clients = []
        while channels:
            count = draws.choice((1, 1, 2))
            mine, channels = channels[:count], channels[count:]
            seed = f"{self.plan.seed} client {mine[0].name}"
            clients.append(Client(mine, place.ports, seed, adopts=draws.random() < 0.5))
        return clients

    async def _make_faults(self, scene: Scene, clients: Sequence[Client], writers: Writers) -> None:
        began, told = time.monotonic(), 0.0
        ends = began + self.plan.seconds
        while (now := time.monotonic()) < ends:
            if now - told > 5:
                told = now
                heard = sum(len(s.heard) for c in clients for ch in c.channels for s in ch.stream.stretches)
                self._say(
                    f"{now - began:5.0f} s  {len(writers.commits)} transactions, {heard} changes heard, "
                    f"{self._faults.total()} faults"
                )
            await asyncio.sleep(min(self._draws.uniform(0.2, self.plan.pause), max(ends - now, 0)))
            if self.plan.faults and time.monotonic() < ends:
                await self._make_fault(scene)

    async def _make_fault(self, scene: Scene) -> None:
        name = self._draws.choice(self.plan.faults)
        names = [name]
        small = [other for other in SMALL if other in self.plan.faults and other != name]
        if small and self._draws.random() < 0.3:
            names.append(self._draws.choice(small))
        began = time.monotonic()
        self._say(f"        {' and '.join(names)}")
        try:
            async with asyncio.TaskGroup() as group:
                for one in names:
                    self._faults[one] += 1
                    group.create_task(self._tolerant(one, scene))
        finally:
            self.windows.append((began, time.monotonic()))

    async def _tolerant(self, name: str, scene: Scene) -> None:
        # Terminating backends needs a Postgres, which another fault may have taken away.
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            await FAULTS[name](scene)

    async def _settle(self, place: World, clients: Sequence[Client]) -> None:
        await place.heal()
        connection = await asyncpg.connect(place.dsn)
        try:
            target = await audit.settle(connection)
        finally:
            await connection.close()
        channels = [channel for client in clients for channel in client.channels]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLING):
                while not all(channel.caught_up(target) for channel in channels):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        for channel in channels:
            channel.stream.caught_up = channel.caught_up(target)

    async def _judge(self, place: World, clients: Sequence[Client], writers: Writers) -> Outcome:
        streams = [channel.stream for client in clients for channel in client.channels]
        looks = looks_of(streams)
        connection = await asyncpg.connect(place.dsn)
        try:
            truth = await audit.load(connection, looks)
            wrong = await audit.table_faults(connection, truth, looks)
        finally:
            await connection.close()
        allowed = {GAPS[name] for name in self.plan.faults if name in GAPS}
        verdict = check(truth, streams, allowed)
        for fault in wrong:
            verdict.add("client", "audit", fault)
        return self._outcome(verdict, truth, clients, writers)

    def _outcome(
        self, verdict: Verdict, truth: Truth, clients: Sequence[Client], writers: Writers
    ) -> Outcome:
        channels = [channel for client in clients for channel in client.channels]
        stretches = [stretch for channel in channels for stretch in channel.stream.stretches]
        return Outcome(
            verdict,
            written=sum(entry.op != "X" for entry in truth.entries),
            transactions=len({entry.xid for entry in truth.entries}),
            outcomes=writers.outcomes,
            faults=self._faults,
            stall=longest_stall(verdict.arrivals, writers.commits, self.windows),
            resumes=sum(stretch.resumes for stretch in stretches),
            again=sum(channel.again for channel in channels),
            sessions=sum(client.sessions for client in clients),
            troubles=Counter(channel.trouble for channel in channels if channel.trouble),
        )


def looks_of(streams: Sequence[Stream]) -> set[Look]:
    """Everything that the streams look at."""
    return {entry.look(stream.profile.subject) for stream in streams for entry in stream.profile.entries}
