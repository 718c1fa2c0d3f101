"""One run: writers, clients and faults for some seconds, then quiet, then the verdict."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import asyncpg

from chaos import audit
from chaos.checker import Verdict, check
from chaos.faults import FAULTS, GAPS, SMALL, Scene
from chaos.party import Party, gather
from chaos.stalls import longest_stall
from chaos.streams import Stream
from chaos.truth import Truth
from chaos.world import World, world
from chaos.writers import Writers

Say = Callable[[str], None]

_SETTLING = 60.0
_PROGRESS = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. ``pause`` is the longest calm between two faults, in seconds.

    ``once`` does each of the faults once, in their order, for as long as that takes.
    """

    seed: int
    seconds: float = 60.0
    faults: tuple[str, ...] = ()
    channels: int = 12
    servers: int = 2
    rate: float = 120.0
    pause: float = 2.0
    sdk: int = 2
    once: bool = False


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
    printed: list[str] = field(default_factory=list)
    told: dict[str, list[str]] = field(default_factory=dict)


class Run:
    """A plan being done. ``say`` is told how it goes."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan, self._say = plan, say
        self._draws = random.Random(f"{plan.seed} faults")
        self._faults: Counter[str] = Counter()
        self._windows: list[tuple[float, float]] = []
        self._began = 0.0

    async def do(self) -> Outcome:
        """Do all of it. Raises what no fault explains."""
        plan = self.plan
        async with world(
            plan.seed,
            servers=plan.servers,
            standby="promoted" in plan.faults,
            retention="3s" if "trimmed" in plan.faults else None,
        ) as place:
            party = await gather(place, plan.seed, plan.channels, plan.sdk, tokens="expired" in plan.faults)
            writers = Writers(lambda: place.dsn, plan.seed, rate=plan.rate)
            self._began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                tasks = party.start(group)
                writing = group.create_task(writers.run())
                await self._break_things(place, party, writers)
                writers.stopping = True
                await writing
                await self._settle(place, party)
                outcome = await self._judge(place, party, writers)
                for task in tasks:
                    task.cancel()
            outcome.printed = [line for server in place.servers for line in server.printed().splitlines()]
            return outcome

    async def _break_things(self, place: World, party: Party, writers: Writers) -> None:
        scene = Scene(place, party.clients, party.sdk_clients, self._draws)
        began, told = self._began, 0.0
        for names in self._script(began + self.plan.seconds):
            now = time.monotonic()
            if now - told > _PROGRESS:
                told = now
                done = f"{len(writers.commits)} transactions, {party.heard} changes heard"
                self._say(f"{now - began:5.0f} s  {done}, {self._faults.total()} faults")
            await asyncio.sleep(self._draws.uniform(0.2, self.plan.pause))
            if names:
                await self._break(names, scene)

    def _script(self, ends: float) -> Iterator[tuple[str, ...]]:
        """What to break next, together; nothing is a pause."""
        faults = self.plan.faults
        if self.plan.once:
            yield from ((), *((name,) for name in faults), ())
            return
        small = [name for name in SMALL if name in faults]
        while time.monotonic() < ends:
            names = [self._draws.choice(faults)] if faults else []
            if small and self._draws.random() < 0.3:
                names.append(self._draws.choice(small))
            yield tuple(dict.fromkeys(names))

    async def _break(self, names: Sequence[str], scene: Scene) -> None:
        began = time.monotonic()
        self._say(f"{began - self._began:10.2f} s, {' and '.join(names)}")
        try:
            async with asyncio.TaskGroup() as group:
                for one in names:
                    self._faults[one] += 1
                    group.create_task(_tolerant(one, scene))
        finally:
            self._windows.append((began, time.monotonic()))

    async def _settle(self, place: World, party: Party) -> None:
        """Wait until everybody has everything; who has not by then is found to stand still."""
        place.heal()
        connection = await asyncpg.connect(place.dsn)
        try:
            target = await audit.settle(connection)
        finally:
            await connection.close()
        self._say(f"        quiet, at {target}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLING):
                while not party.caught_up(target):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    async def _judge(self, place: World, party: Party, writers: Writers) -> Outcome:
        connection = await asyncpg.connect(place.dsn)
        try:
            truth = await audit.load(connection, party.looks)
            wrong = await audit.table_faults(connection, truth, party.looks)
        finally:
            await connection.close()
        verdict = check(truth, party.streams, {GAPS[name] for name in self.plan.faults if name in GAPS})
        for fault in wrong:
            verdict.add("client", "audit", fault)
        party.check_rows(truth, verdict)
        return self._outcome(verdict, truth, party, writers)

    def _outcome(self, verdict: Verdict, truth: Truth, party: Party, writers: Writers) -> Outcome:
        stretches = [stretch for stream in party.streams for stretch in stream.stretches]
        return Outcome(
            verdict,
            written=sum(entry.op != "X" for entry in truth.entries),
            transactions=len({entry.xid for entry in truth.entries}),
            outcomes=writers.outcomes,
            faults=self._faults,
            stall=longest_stall(verdict.arrivals, writers.commits, self._windows),
            resumes=sum(stretch.resumes for stretch in stretches),
            again=sum(channel.again for channel in party.channels),
            sessions=sum(client.sessions for client in party.clients),
            troubles=party.troubles,
            told={stream.name: self._told(stream) for stream in party.streams},
        )

    def _told(self, stream: Stream) -> list[str]:
        return [f"{at - self._began:6.2f} s, {what}" for at, what in stream.told]


async def _tolerant(name: str, scene: Scene) -> None:
    # Terminating backends needs a Postgres, which another fault may have taken away.
    with contextlib.suppress(OSError, asyncpg.PostgresError):
        await FAULTS[name](scene)
