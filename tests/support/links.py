"""A TCP relay that does to connections what networks do: cut them, swallow them, slow and chop them."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

_CHUNK = 65536


@dataclass
class Weather:
    """What a relay does to all that passes. Seconds, bytes a second (0 is any number), odd small pieces."""

    delay: float = 0.0
    rate: int = 0
    pieces: bool = False


class Link:
    """One connection through a relay, both its sides."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._sides = (near, far)
        self._passing = asyncio.Event()
        self._passing.set()

    def cut(self, *, reset: bool) -> None:
        """End it: in order (FIN), or with a reset."""
        for side in self._sides:
            if reset:
                if not side.is_closing():
                    peer = side.get_extra_info("socket")
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                side.transport.abort()
            else:
                side.close()

    def swallow(self) -> None:
        """From now on nothing passes, and nobody is told."""
        self._passing.clear()

    def release(self) -> None:
        """Let pass again, first what waited."""
        self._passing.set()

    async def passing(self) -> None:
        await self._passing.wait()


class Relay:
    """Listens on a port of 127.0.0.1 and forwards to ``target``. Links that are open stay when that changes.

    While it is ``closed`` nobody gets through.
    """

    def __init__(self, target: tuple[str, int], seed: int = 0) -> None:
        self.target, self.weather = target, Weather()
        self.links: set[Link] = set()
        self.port = 0
        self.closed = False
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. ``port`` says where."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut all links, and listen no more."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def some(self, rnd: random.Random, share: float = 0.5) -> list[Link]:
        """Some of the open links, at least one if there is any."""
        links = list(self.links)
        rnd.shuffle(links)
        return links[: max(1, round(len(links) * share))]

    def cut(self, links: Iterable[Link], *, reset: bool) -> None:
        for link in links:
            link.cut(reset=reset)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # One that came as all ended may not even have begun.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.closed:
                raise ConnectionRefusedError
            far_reader, far = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, far)
        self.links.add(link)
        pumps = (
            asyncio.ensure_future(self._carry(link, reader, far)),
            asyncio.ensure_future(self._carry(link, far_reader, writer)),
        )
        try:
            await asyncio.wait(pumps)
        finally:
            self.links.discard(link)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            link.cut(reset=True)

    async def _carry(self, link: Link, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK):
                await link.passing()
                await self._write(data, to)
            await link.passing()
            to.close()

    async def _write(self, data: bytes, to: asyncio.StreamWriter) -> None:
        weather = self.weather
        if weather.delay:
            await asyncio.sleep(weather.delay * self._random.random() * 2)
        if weather.rate:
            await asyncio.sleep(len(data) / weather.rate)
        # Only so many pieces: what an odd boundary breaks, it breaks at once.
        for _ in range(20 if weather.pieces else 0):
            size = self._random.randint(1, 7)
            piece, data = data[:size], data[size:]
            to.write(piece)
            await to.drain()
            await asyncio.sleep(0)
        to.write(data)
        await to.drain()
