"""What is measured on: a Postgres of our own with fsync on, and the real server as a process."""

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import jwt

from rowcast.dev.account import current_account
from rowcast.dev.binaries import find_binaries
from rowcast.dev.postgres import Postgres, free_port, temporary_home

SECRET = secrets.token_hex(32)
#: For measurements of what is bounded otherwise.
UNBOUNDED = {
    "ROWCAST_MAX_EVENTS_PER_SECOND": "1000000000",
    "ROWCAST_MAX_JOINS_PER_SECOND": "1000000000",
    "ROWCAST_IDLE_TIMEOUT": "1h",
}
_READY_SECONDS = 30.0


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A Postgres that flushes, gone afterwards."""
    server = Postgres(
        temporary_home("rowcast-bench-"), find_binaries(current_account()), durable=True,
        settings={"max_connections": "100", "shared_buffers": "256MB"},
    )  # fmt: skip
    try:
        server.start()
        yield server
    finally:
        server.discard()


class Attached:
    """``rowcast serve`` for a database, on a port that it keeps."""

    def __init__(self, dsn: str, settings: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            **os.environ,
            "DATABASE_URL": dsn,
            "ROWCAST_JWT_SECRET": SECRET,
            "PORT": str(self.port),
            "ROWCAST_LOG_LEVEL": "critical",
            "ROWCAST_DRAIN_SECONDS": "0",
            **(settings or {}),
        }
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rowcast.cli.main", "serve", env=self._environment
        )
        await self.ready()

    async def ready(self) -> None:
        """Wait until it is ready."""
        async with asyncio.timeout(_READY_SECONDS):
            while not await asyncio.to_thread(_ready, self.url):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def end(self, *, kill: bool = False) -> None:
        """Stop it, or kill it."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            await self._process.wait()
            self._process = None


@contextlib.asynccontextmanager
async def attached(dsn: str, settings: Mapping[str, str] | None = None) -> AsyncIterator[Attached]:
    """A server that runs as long as the context is open."""
    server = Attached(dsn, settings)
    try:
        await server.start()
        yield server
    finally:
        await server.end()


@contextlib.asynccontextmanager
async def running(program: str, *script: str, cwd: Path | None = None) -> AsyncIterator[tuple[int, int]]:
    """Another server, as process and port. Its port is its first argument; a script's, after its name."""
    port = free_port()
    arguments = [*script[:1], str(port), *script[1:]]
    environment = {**os.environ, "NODE_ENV": "production"}
    process = await asyncio.create_subprocess_exec(program, *arguments, cwd=cwd, env=environment)
    try:
        yield process.pid, port
    finally:
        process.kill()
        await process.wait()


def token() -> str:
    """A token for an hour."""
    return jwt.encode({"role": "anon", "exp": int(time.time()) + 3600}, SECRET, algorithm="HS256")


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def pgbench(server: Postgres, script: str, clients: int, seconds: float, settings: str = "") -> float:
    """Transactions a second of so many connections that run a script."""
    binary = shutil.which("pgbench", path=f"{server.binaries.folder}{os.pathsep}{os.environ.get('PATH', '')}")
    if binary is None:
        raise SystemExit(
            "The measurements of writers need pgbench: install PostgreSQL's server or contrib package."
        )
    path = Path(server.home) / "script.sql"
    path.write_text(script)
    done = subprocess.run(
        [binary, "-n", "-M", "prepared", "-c", f"{clients}", "-j", "2", "-T", f"{seconds:.0f}",
         "-f", str(path), server.dsn],
        env={**os.environ, "PGOPTIONS": settings}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    line = next(line for line in done.stdout.splitlines() if line.startswith("tps ="))
    return float(line.split()[2])
