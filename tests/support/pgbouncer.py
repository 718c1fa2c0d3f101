"""A real PgBouncer before the Postgres of a test, with the settings that it comes with.

It needs the program ``pgbouncer`` (Debian: ``apt-get install pgbouncer``); a test that asks for it is skipped
where it is missing.
"""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from rowcast.dev.account import current_account
from rowcast.dev.postgres import free_port, temporary_home

_START_SECONDS = 20.0
_POLL = 0.02


class PgBouncer:
    """Started, killed and started again on the same port. ``address`` is the DSN that goes through it."""

    def __init__(self, program: str, home: Path, dsn: str, mode: str, size: int) -> None:
        parts = urlsplit(dsn)
        self._program, self._home = program, home
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        user = parts.netloc.rpartition("@")[0]
        self.address = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self._port}"))
        self._write("users", f'"{parts.username}" "{parts.password}"\n')
        self._write(
            "ini",
            "[databases]\n"
            f"* = host={parts.hostname} port={parts.port}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self._port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {home / 'users'}\n"
            f"pool_mode = {mode}\ndefault_pool_size = {size}\nmax_client_conn = 200\n"
            f"logfile = {home / 'log'}\nserver_login_retry = 0.2\n",
        )

    @property
    def log(self) -> str:
        """What it wrote down."""
        return (self._home / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        self._process = subprocess.Popen(
            [self._program, "-q", str(self._home / "ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **current_account().identity(),
        )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"pgbouncer did not start:\n{self.log}")
            time.sleep(_POLL)

    def kill(self) -> None:
        """End it as a crash would: all connections through it break."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _write(self, name: str, text: str) -> None:
        path = self._home / name
        path.touch(mode=0o600)
        path.write_text(text)
        current_account().give(path)


@contextlib.contextmanager
def pgbouncer(dsn: str, *, mode: str = "transaction", size: int = 20) -> Iterator[PgBouncer]:
    """A PgBouncer that runs before the database at ``dsn``, with ``size`` connections to it at the most."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    program = program or shutil.which("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    home = temporary_home()
    found = PgBouncer(program, home, dsn, mode, size)
    try:
        found.start()
        yield found
    finally:
        found.kill()
        shutil.rmtree(home, ignore_errors=True)
