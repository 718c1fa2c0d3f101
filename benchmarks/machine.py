"""What is measured on: a Postgres of our own with fsync on, and the real server as a process."""

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from rowcast.dev.account import current_account
from rowcast.dev.binaries import find_binaries
from rowcast.dev.postgres import Postgres, free_port, temporary_home

SECRET = secrets.token_hex(32)
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


@dataclass(frozen=True, slots=True)
class Attached:
    """A server that runs."""

    url: str
    pid: int


@contextlib.asynccontextmanager
async def attached(dsn: str) -> AsyncIterator[Attached]:
    """``rowcast serve`` for a database."""
    port = free_port()
    environment = {**os.environ, "DATABASE_URL": dsn, "ROWCAST_JWT_SECRET": SECRET, "PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rowcast.cli.main", "serve",
        env={**environment, "ROWCAST_LOG_LEVEL": "error"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while not await asyncio.to_thread(_ready, url):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield Attached(url, process.pid)
    finally:
        process.terminate()
        await process.wait()


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
