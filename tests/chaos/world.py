"""What chaos happens to: a Postgres with a standby, servers, and relays before each of them."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from chaos.schema import SETUP
from rowcast.db.migrations import migrate
from rowcast.dev.postgres import Postgres
from support import databases
from support.links import Relay, Weather
from support.postgres import SETTINGS, binaries, home
from support.server import Server
from support.standbys import detach, promote, standby_of

_SETTINGS = {
    "ROWCAST_LANE_LIMIT": "512kB",
    "ROWCAST_DRAIN_SECONDS": "500ms",
    "ROWCAST_MAX_JOINS_PER_SECOND": "10000",
    "ROWCAST_LOG_LEVEL": "warning",
}


class World:
    """``primary`` changes with a promotion; ``databases`` are relays before it, one for each
    server, ``doors`` the relays before the servers, and ``own_doors`` those that a client has to itself."""

    def __init__(
        self, folder: Path, seed: int, *, servers: int, standby: bool, retention: str | None
    ) -> None:
        self.primary = Postgres(home(), binaries(), durable=False, settings=SETTINGS)
        self.standby: Postgres | None = None
        self.servers: list[Server] = []
        self.databases: list[Relay] = []
        self.doors: list[Relay] = []
        self.own_doors: list[Relay] = []
        self.promotions = 0
        self._folder, self._seed, self._number = folder, seed, servers
        self._with_standby = standby
        self._settings = {**_SETTINGS, **({"ROWCAST_RETENTION": retention} if retention else {})}

    @property
    def dsn(self) -> str:
        """The database of the moment, without a relay."""
        return self.primary.dsn_of("chaos")

    def ports(self) -> Sequence[int]:
        """Where clients connect."""
        return [door.port for door in self.doors]

    @property
    def edges(self) -> Sequence[Relay]:
        """All relays that clients go through."""
        return [*self.doors, *self.own_doors]

    async def open_door(self, server: Server) -> Relay:
        """A relay of a client's own."""
        door = Relay(("127.0.0.1", server.port), self._seed + 200 + len(self.own_doors))
        await door.start()
        self.own_doors.append(door)
        return door

    async def start(self) -> None:
        """Start all of it."""
        await asyncio.to_thread(self.primary.start)
        await asyncio.to_thread(databases.create, self.primary.dsn, "chaos")
        await migrate(self.dsn)
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute("select rowcast.renew_lease(36000)")
            await connection.execute(SETUP)
        finally:
            await connection.close()
        await self._follow()
        for number in range(self._number):
            await self._add_server(number)

    async def _add_server(self, number: int) -> None:
        relay = Relay(("127.0.0.1", self.primary.port), self._seed + number)
        await relay.start()
        self.databases.append(relay)
        parts = urlsplit(self.dsn)
        user = parts.netloc.rpartition("@")[0]
        through = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{relay.port}"))
        server = Server(through, self._folder / f"server-{number}.log", self._settings)
        self.servers.append(server)
        await server.start()
        door = Relay(("127.0.0.1", server.port), self._seed + 100 + number)
        await door.start()
        self.doors.append(door)

    async def stop(self) -> None:
        """End all of it, and delete the data."""
        for server in self.servers:
            with contextlib.suppress(AssertionError):
                await server.end()
        for relay in (*self.edges, *self.databases):
            await relay.stop()
        for postgres in (self.standby, self.primary):
            if postgres is not None:
                await asyncio.to_thread(postgres.discard)

    def heal(self) -> None:
        """Undo what the relays do."""
        for relay in (*self.edges, *self.databases):
            relay.weather = Weather()
            relay.closed = False
            for link in relay.links:
                link.release()

    async def _follow(self) -> None:
        if self._with_standby:
            self.standby = await asyncio.to_thread(standby_of, self.primary)
            await asyncio.to_thread(self.standby.start)

    async def fail_over(self, *, losing: float) -> None:
        """Kill the primary and promote its standby, which lacks the last ``losing`` seconds."""
        assert self.standby is not None
        old, new = self.primary, self.standby
        if losing:
            await asyncio.to_thread(detach, new)
            await asyncio.sleep(losing)
        await asyncio.to_thread(old.kill)
        await asyncio.to_thread(promote, new)
        self.primary, self.standby = new, None
        for relay in self.databases:
            relay.target = ("127.0.0.1", new.port)
            relay.cut(list(relay.links), reset=True)
        self.promotions += 1
        await asyncio.to_thread(old.discard)
        await self._follow()


@contextlib.asynccontextmanager
async def world(
    seed: int, *, servers: int = 2, standby: bool = False, retention: str | None = None
) -> AsyncIterator[World]:
    """A world of its own, and none of it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="rowcast-chaos-"))
    made = World(folder, seed, servers=servers, standby=standby, retention=retention)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
        shutil.rmtree(folder, ignore_errors=True)
