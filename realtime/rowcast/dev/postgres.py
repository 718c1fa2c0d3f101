"""A Postgres of our own: made in a folder, started on 127.0.0.1, and stopped no later than its parent.

It listens on TCP only, asks for a random password, and keeps every setting at Postgres' own default unless
the caller names another. Everything here blocks: call it from a thread where a loop runs.
"""

import atexit
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rowcast.dev import processes
from rowcast.dev.account import Account, AccountError, current_account
from rowcast.dev.binaries import Binaries
from rowcast.errors import RowcastError

SUPERUSER = "postgres"
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0
_INITDB_TIMEOUT = 180.0
_POLL = 0.02
_LOG_LINES = 12
_PORT_TRIES = 5


class PostgresError(RowcastError):
    """A Postgres that could not be made, started or stopped. The text ends with its log's last lines."""


class Postgres:
    """One database cluster in ``home``, which is made if it is missing and kept when it is stopped.

    ``settings`` are given to the server on its command line. ``durable=False`` is for what is thrown away
    afterwards: nothing is flushed to disk, so that a crash of the machine (not of Postgres) loses it.
    ``port`` 0 means any free one; it stays the same over a restart. Use it from one thread at a time.
    """

    def __init__(
        self,
        home: Path,
        binaries: Binaries,
        *,
        account: Account | None = None,
        port: int = 0,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.home = home.absolute()
        self.binaries = binaries
        self.port = port
        self._account = account or current_account()
        self._durable = durable
        self._settings = {} if durable else {"fsync": "off", "full_page_writes": "off"}
        self._settings |= settings or {}
        self._progress = progress
        self._server: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """The server's log, of this start only."""
        return self.home / "postgres.log"

    @property
    def password(self) -> str:
        """The superuser's password, random, made with the cluster."""
        return (self.home / "password").read_text().strip()

    @property
    def dsn(self) -> str:
        """The address of the superuser's database ``postgres``."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """The address of ``database``, as the superuser."""
        return f"postgresql://{SUPERUSER}:{self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def running(self) -> bool:
        """Whether the server process that we started lives."""
        return self._server is not None and self._server.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make the cluster if there is none, start it, and return when it takes connections.

        Raises PostgresError, or AccountError if root chose a folder that the account cannot reach.
        """
        if self.running:
            return
        self._account.check_reaches(self.data)
        self._take_home()
        try:
            if not (self.data / "PG_VERSION").exists():
                self._create()
            self._check_version()
            self._clear_stale_lock()
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server: a fast shutdown, then harder means. Does nothing if it does not run."""
        self._dismiss_watcher()
        if self._server is not None:
            processes.end(self._server, _STOP_TIMEOUT)
            self._server = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        atexit.unregister(self.stop)

    def kill(self) -> None:
        """End the server and all its processes with SIGKILL, as a crash would. ``start`` recovers it."""
        self._dismiss_watcher()
        if self._server is not None:
            processes.kill_family(self._server)
            self._server = None

    def restart(self) -> None:
        """Stop and start, on the same port."""
        self.stop()
        self.start()

    def discard(self) -> None:
        """Stop the server and delete everything in ``home``."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def _take_home(self) -> None:
        if self._lock is not None:
            return
        if not self.home.exists():
            self._account.make_way(self.home.parent)
            self.home.mkdir(mode=0o700)
            self._account.give(self.home)
        lock = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise PostgresError(
                f"The Postgres in {self.home} is in use by another process of Rowcast. "
                "Stop that one first, or choose another folder."
            ) from None
        self._lock = lock
        atexit.register(self.stop)

    def _create(self) -> None:
        self._progress(f"creating a PostgreSQL {self.binaries.version} database in {self.home}")
        if self.data.exists():  # an earlier initdb was interrupted: there is no database in it
            shutil.rmtree(self.data)
        password = self.home / "password"
        password.touch(mode=0o600)
        password.write_text(f"{secrets.token_hex(16)}\n")
        self._account.give(password)
        command = ["initdb", f"--pgdata={self.data}", f"--username={SUPERUSER}", f"--pwfile={password}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
        command += [] if self._durable else ["--no-sync"]
        with self.log.open("wb") as log:
            try:
                done = subprocess.run(
                    [str(self.binaries.folder / command[0]), *command[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=_environment(),
                    timeout=_INITDB_TIMEOUT,
                    **self._account.identity(),
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise self._error(f"initdb did not run: {error}") from error
        if done.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            raise self._error(f"initdb failed with exit code {done.returncode}")

    def _check_version(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text().strip()
        if made_by != str(self.binaries.major):
            raise PostgresError(
                f"The data in {self.home} was made by PostgreSQL {made_by}, and this is PostgreSQL "
                f"{self.binaries.version}. Delete that folder to begin anew, or choose another."
            )

    def _clear_stale_lock(self) -> None:
        """Remove a killed server's lock file, so that another process with its number is no bar."""
        path = self.data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            pid = int(path.read_text().splitlines()[0])
            deadline = time.monotonic() + _STOP_TIMEOUT
            # A server whose parent was killed is told to stop, and may be at it still.
            while processes.runs_postgres(pid):
                if time.monotonic() > deadline:
                    raise PostgresError(f"A PostgreSQL (process {pid}) runs in {self.data} already: stop it.")
                time.sleep(_POLL)
            path.unlink(missing_ok=True)

    def _launch(self) -> None:
        self._progress(f"starting PostgreSQL {self.binaries.version}")
        fixed = self.port
        for _ in range(_PORT_TRIES):
            self.port = fixed or free_port()
            self._spawn()
            if self._await_ready():
                return
            if fixed or "could not bind" not in self._log_tail():
                break
            self._dismiss_watcher()
            self.port = fixed
        raise self._error("PostgreSQL did not start")

    def _spawn(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            **self._settings,
        }
        command = [str(self.binaries.folder / "postgres"), "-D", str(self.data)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("wb") as log:
            try:
                self._server = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=_environment(),
                    start_new_session=True,  # a Ctrl-C in the terminal is for us, and we stop it in order
                    **self._account.identity(),
                )
            except OSError as error:
                raise self._error(f"PostgreSQL did not start: {error}") from error
        self._watcher = processes.stop_when_we_die(self._server.pid)

    def _await_ready(self) -> bool:
        """Wait until the server says in its lock file that it takes connections."""
        server = self._server
        assert server is not None
        deadline = time.monotonic() + _START_TIMEOUT
        while server.poll() is None and time.monotonic() < deadline:
            if self._status(server.pid) in ("ready", "standby"):
                return True
            time.sleep(_POLL)
        return False

    def _status(self, pid: int) -> str:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return ""
        # Line 1 is the process, line 8 its state.
        return lines[7].strip() if len(lines) > 7 and lines[0] == str(pid) else ""

    def _dismiss_watcher(self) -> None:
        if self._watcher is not None:
            processes.dismiss(self._watcher)
            self._watcher = None

    def _log_tail(self) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        except FileNotFoundError:
            return ""

    def _error(self, what: str) -> PostgresError:
        return PostgresError(f"{what}. The last lines of {self.log}:\n{self._log_tail()}")


def kept_home(project: Path) -> Path:
    """Where the development data of a project stays between runs: ``.dev/postgres`` in its folder.

    Where root's Postgres cannot enter that, it is a folder of the project's own below the account's home.
    """
    account = current_account()
    home = project.resolve() / ".dev" / "postgres"
    try:
        account.check_reaches(home / "data")
    except AccountError:
        digest = hashlib.blake2b(os.fsencode(project.resolve()), digest_size=6).hexdigest()
        return account.home / f"dev-{digest}"
    return home


def temporary_home(prefix: str = "rowcast-", folder: Path | None = None) -> Path:
    """A new folder in ``folder``, or the system's temporary one, for a cluster that is thrown away."""
    home = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
    current_account().give(home)
    return home


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    """Our environment without what would steer Postgres (PGDATA, PGPORT, …), and with English messages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "LC_MESSAGES": "C"}
