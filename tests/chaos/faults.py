"""What goes wrong, each by its name: to connections, servers, Postgres, clients and their tokens.

A fault returns when it is over and what it broke runs again. How long it lasts is drawn from the seed.
"""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from chaos.client import Client
from chaos.sdk_client import SdkClient
from chaos.world import World
from support.links import Link, Relay, Weather


@dataclass
class Scene:
    """What a fault may touch. ``draws`` is its own chance."""

    world: World
    clients: Sequence[Client]
    sdk_clients: Sequence[SdkClient]
    draws: random.Random

    def some_clients(self, share: float = 0.4) -> list[Client]:
        clients = list(self.clients)
        self.draws.shuffle(clients)
        return clients[: max(1, round(len(clients) * share))]


Fault = Callable[[Scene], Awaitable[None]]


async def cut(scene: Scene) -> None:
    """Connections of clients end in order, as behind a proxy that is restarted."""
    for door in scene.world.edges:
        door.cut(door.some(scene.draws), reset=False)


async def reset(scene: Scene) -> None:
    """Connections of clients end with a reset, in the middle of anything."""
    for _ in range(scene.draws.randint(1, 5)):
        for door in scene.world.edges:
            door.cut(door.some(scene.draws), reset=True)
        await asyncio.sleep(scene.draws.random() * 0.5)


async def hole(scene: Scene) -> None:
    """Connections of clients swallow all and say nothing; then some come back, and some were cut."""
    await _swallow(scene, scene.world.edges, scene.draws.uniform(0.5, 8.0))


async def slow(scene: Scene) -> None:
    """The network between clients and servers is slow, narrow and chops what it carries."""
    await _weather(scene, scene.world.edges)


async def database_cut(scene: Scene) -> None:
    """Connections of servers to Postgres end with a reset or in order."""
    for _ in range(scene.draws.randint(1, 3)):
        for relay in scene.world.databases:
            relay.cut(relay.some(scene.draws), reset=scene.draws.random() < 0.5)
        await asyncio.sleep(scene.draws.random())


async def database_hole(scene: Scene) -> None:
    """Connections of one server to Postgres swallow all and say nothing."""
    await _swallow(scene, [scene.draws.choice(scene.world.databases)], scene.draws.uniform(0.5, 8.0))


async def database_slow(scene: Scene) -> None:
    """The network between servers and Postgres is slow, narrow and chops what it carries."""
    await _weather(scene, scene.world.databases)


async def database_away(scene: Scene) -> None:
    """No server reaches Postgres, and what was open is cut."""
    for relay in scene.world.databases:
        relay.closed = True
        relay.cut(list(relay.links), reset=True)
    await asyncio.sleep(scene.draws.uniform(0.5, 4.0))
    for relay in scene.world.databases:
        relay.closed = False


async def server_killed(scene: Scene) -> None:
    """A server is killed, and started again."""
    server = scene.draws.choice(scene.world.servers)
    await server.stop(signal.SIGKILL)
    await asyncio.sleep(scene.draws.random() * 2)
    await server.start()


async def server_halted(scene: Scene) -> None:
    """A server does nothing for a while, as on a machine that is out of breath."""
    server = scene.draws.choice(scene.world.servers)
    server.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(scene.draws.uniform(0.3, 6.0))
    finally:
        server.send(signal.SIGCONT)


async def deploy(scene: Scene) -> None:
    """A server is told to stop, drains its sockets, and is started again: one step of a rolling deploy."""
    server = scene.draws.choice(scene.world.servers)
    await server.stop(signal.SIGTERM)
    await server.start()


async def postgres_restarted(scene: Scene) -> None:
    """Postgres is restarted, by a fast shutdown."""
    await asyncio.to_thread(scene.world.primary.restart)


async def postgres_killed(scene: Scene) -> None:
    """All of Postgres is killed, and recovers."""
    await asyncio.to_thread(scene.world.primary.kill)
    await asyncio.sleep(scene.draws.random())
    await asyncio.to_thread(scene.world.primary.start)


async def promoted(scene: Scene) -> None:
    """The primary dies and its standby takes over, with or without the last transactions."""
    await scene.world.fail_over(losing=scene.draws.choice((0.0, scene.draws.uniform(0.2, 1.5))))


async def terminated(scene: Scene) -> None:
    """Backends that serve Rowcast are terminated, one or many: they read, listen, judge and keep house."""
    connection = await asyncpg.connect(scene.world.dsn)
    try:
        share = scene.draws.choice((0.2, 0.5, 1.0))
        await connection.execute(
            """
            select pg_terminate_backend(pid) from pg_stat_activity
            where application_name like 'rowcast%' and random() < $1
            """,
            share,
        )
    finally:
        await connection.close()


async def deaf(scene: Scene) -> None:
    """Some clients stop reading, until their servers lose patience or they read again."""
    clients = scene.some_clients()
    for client in clients:
        client.reads.clear()
    await asyncio.sleep(scene.draws.uniform(1.0, 6.0))
    for client in clients:
        client.reads.set()


async def away(scene: Scene) -> None:
    """Some clients go, and come back later, as laptops do."""
    await _stay_away(scene, scene.draws.uniform(0.5, 4.0))


async def moved(scene: Scene) -> None:
    """Clients change servers, in the middle of anything, again and again."""
    for _ in range(scene.draws.randint(2, 8)):
        for client in scene.some_clients():
            client.cut()
        for sdk_client in scene.sdk_clients:
            sdk_client.move([server.port for server in scene.world.servers], scene.draws)
        await asyncio.sleep(scene.draws.random() * 0.6)


async def expired(scene: Scene) -> None:
    """Some clients forget to renew their tokens, and are sent away when those end."""
    clients = scene.some_clients()
    for client in clients:
        client.refreshes = False
    await asyncio.sleep(scene.draws.uniform(4.0, 8.0))
    for client in clients:
        client.refreshes = True


async def trimmed(scene: Scene) -> None:
    """Some clients stay away for longer than changes are kept."""
    await _stay_away(scene, scene.draws.uniform(6.0, 14.0))


async def _stay_away(scene: Scene, seconds: float) -> None:
    clients = scene.some_clients()
    for client in clients:
        client.away.clear()
        client.cut()
    await asyncio.sleep(seconds)
    for client in clients:
        client.away.set()


async def _swallow(scene: Scene, relays: Iterable[Relay], seconds: float) -> None:
    swallowed: list[tuple[Relay, Link]] = []
    for relay in relays:
        swallowed += [(relay, link) for link in relay.some(scene.draws, scene.draws.choice((0.3, 1.0)))]
    for _, link in swallowed:
        link.swallow()
    await asyncio.sleep(seconds)
    for _, link in swallowed:
        if scene.draws.random() < 0.5:
            link.cut(reset=True)
        link.release()


async def _weather(scene: Scene, relays: Iterable[Relay]) -> None:
    draws = scene.draws
    chosen = list(relays)
    for relay in chosen:
        relay.weather = Weather(
            delay=draws.choice((0.0, 0.02, 0.2)), rate=draws.choice((0, 30_000, 300_000)), pieces=True
        )
    await asyncio.sleep(draws.uniform(1.0, 4.0))
    for relay in chosen:
        relay.weather = Weather()


FAULTS: Final[dict[str, Fault]] = {
    "cut": cut,
    "reset": reset,
    "hole": hole,
    "slow": slow,
    "deaf": deaf,
    "away": away,
    "moved": moved,
    "expired": expired,
    "database-cut": database_cut,
    "database-hole": database_hole,
    "database-slow": database_slow,
    "database-away": database_away,
    "terminated": terminated,
    "server-killed": server_killed,
    "server-halted": server_halted,
    "deploy": deploy,
    "postgres-restarted": postgres_restarted,
    "postgres-killed": postgres_killed,
    "promoted": promoted,
    "trimmed": trimmed,
}
#: Faults that must give gaps, and the reason that they give.
GAPS: Final = {"promoted": "history", "trimmed": "retention"}
#: What is not in ``all``: with it nobody could tell a gap that must come from one that must not.
ALONE: Final = frozenset({"trimmed"})
#: Faults that may happen while another does.
SMALL: Final = ("cut", "reset", "moved", "terminated", "database-cut")
