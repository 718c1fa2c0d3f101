"""A TCP proxy that can fall silent: what a vanished host or a forgetful firewall does to a connection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Forwards to one address until told not to. ``address`` is the DSN that goes through it."""

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._links: list[_Link] = []
        self._opened = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.address = dsn

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        user = self._parts.netloc.rpartition("@")[0]
        self.address = urlunsplit(self._parts._replace(netloc=f"{user}@127.0.0.1:{port}"))
        return server

    async def until_open(self, count: int) -> None:
        """Wait until so many connections are open that were not silenced."""
        async with asyncio.timeout(30):
            while sum(not link.ended for link in self._links) < count:
                self._opened.clear()
                await self._opened.wait()

    def silence(self) -> None:
        """From now on nothing passes on the connections that are open, and none of them is closed."""
        links, self._links = self._links, []
        for link in links:
            link.silent = True

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self.tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        link = _Link()
        self._links.append(link)
        self._opened.set()
        try:
            await asyncio.gather(link.carry(reader, upstream[1]), link.carry(upstream[0], writer))
        finally:
            link.ended = True
            writer.close()
            upstream[1].close()


class _Link:
    silent = ended = False

    async def carry(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if not self.silent:
                    to.write(data)
        if not self.silent:
            to.close()


@contextlib.asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy before the database at ``dsn``."""
    proxy = Proxy(dsn)
    server = await proxy.start()
    try:
        yield proxy
    finally:
        server.close()
        for task in proxy.tasks:
            task.cancel()
        await asyncio.gather(*proxy.tasks, return_exceptions=True)
