"""The real server as a process of its own: ``rowcast serve``, started, stopped and started again."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rowcast.dev.postgres import free_port
from support.tokens import SECRET, make_token

_TIMEOUT = 30.0
_POLL = 0.02


class Server:
    """``rowcast serve`` on a free port of 127.0.0.1, for one database. The port stays over restarts."""

    def __init__(self, database: str, log: Path, settings: Mapping[str, str] | None = None) -> None:
        self.database = database
        self.log = log
        self.port = free_port()
        self._settings = dict(settings or {})
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """What a client's ``create_client`` is given."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def websocket(self) -> str:
        """The address of the socket, without its query."""
        return f"ws://127.0.0.1:{self.port}/realtime/v1/websocket"

    def token(self, role: str = "anon", **claims: Any) -> str:
        """A token that this server accepts, as ``support.tokens.make_token`` makes it."""
        return make_token(role, **claims)

    async def start(self) -> None:
        """Start it, and return when it says that it is ready."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "rowcast.cli.main", "serve"),
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                env=self._environment(),
                cwd=self.log.parent,  # no .env file of a developer's
            )
        try:
            async with asyncio.timeout(_TIMEOUT):
                while not await self._ready():
                    if self._process.returncode is not None:
                        raise self._error(f"The server ended with exit code {self._process.returncode}")
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            await self.stop(signal.SIGKILL)
            raise self._error("The server did not become ready") from None

    def send(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end; its exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise self._error(f"The server did not end on {number.name}") from None

    async def restart(self) -> None:
        """Stop it as a deployment does, and start it on the same port."""
        await self.stop()
        await self.start()

    async def end(self) -> None:
        """End it if it runs. For the end of a test."""
        if self._process is not None and self._process.returncode is None:
            await self.stop(signal.SIGKILL)

    def printed(self) -> str:
        """All that it has written to its output."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")}
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
            "DATABASE_URL": self.database,
            "ROWCAST_JWT_SECRET": SECRET,
            "ROWCAST_HOST": "127.0.0.1",
            "PORT": str(self.port),
            # Refusals are slow on purpose, against guessing; no test waits for that.
            "ROWCAST_HANDSHAKE_DELAY": "0",
            "ROWCAST_REFUSAL_DELAY": "0",
            "ROWCAST_DRAIN_SECONDS": "1",
            **self._settings,
        }

    async def _ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b" 200 " in await reader.readline()
        except OSError:
            return False
        finally:
            writer.close()

    def _error(self, what: str) -> AssertionError:
        return AssertionError(f"{what}. It printed:\n{self.printed()[-5000:]}")
