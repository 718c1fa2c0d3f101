"""Fixtures for all tests: the Postgres they share, and databases and servers of a test's own."""

import contextlib
import itertools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # for `support`, as importlib mode leaves sys.path alone

from rowcast.dev.postgres import Postgres, temporary_home
from support import databases
from support.postgres import SETTINGS, binaries, home, provide
from support.server import Server

# Enough for every run; `HYPOTHESIS_PROFILE=long make test` looks further.
settings.register_profile("short", max_examples=40)
settings.register_profile("long", max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

_shared = contextlib.ExitStack()
_shared_address: str | None = None


def _provide_once() -> str:
    global _shared_address
    if _shared_address is None:
        _shared_address = _shared.enter_context(provide())
    return _shared_address


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """With pytest-xdist, all worker processes use the Postgres of the one that leads them."""
    node.workerinput["postgres"] = _provide_once()


def pytest_unconfigure() -> None:
    _shared.close()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> str:
    """A superuser's address of the shared Postgres. Make no databases there but by the fixtures below."""
    workerinput: Mapping[str, Any] = getattr(request.config, "workerinput", {})
    return str(workerinput["postgres"]) if "postgres" in workerinput else _provide_once()


@pytest.fixture(scope="session")
def database_names() -> Iterator[str]:
    """Names that no other process of the tests uses."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    return (f"rowcast_{worker}_{os.getpid()}_{number}" for number in itertools.count())


@pytest.fixture
def database(postgres: str, database_names: Iterator[str]) -> Iterator[str]:
    """The address of a new, empty database, as a superuser."""
    name = next(database_names)
    yield databases.create(postgres, name)
    databases.drop(postgres, name)


@pytest.fixture(scope="session")
def migrated_template(postgres: str, database_names: Iterator[str]) -> Iterator[str]:
    """The name of a database with Rowcast's migrations, for copying: nobody connects to it."""
    from rowcast.db.migrations import migrate

    name = next(database_names)
    databases.run_apart(migrate(databases.create(postgres, name)))
    yield name
    databases.drop(postgres, name)


@pytest.fixture
def migrated(postgres: str, migrated_template: str, database_names: Iterator[str]) -> Iterator[str]:
    """The address of a new database with Rowcast's migrations, as a superuser."""
    name = next(database_names)
    yield databases.create(postgres, name, template=migrated_template)
    databases.drop(postgres, name)


@pytest.fixture
def cluster() -> Iterator[Callable[..., Postgres]]:
    """Start a whole Postgres of the test's own, which it may stop, kill and start again.

    ``cluster(durable=True, settings={"synchronous_commit": "off"})``: durable means with fsync.
    """
    with contextlib.ExitStack() as stack:

        def start(*, durable: bool = False, settings: Mapping[str, str] | None = None) -> Postgres:
            own = {**SETTINGS, **(settings or {})}
            found = binaries()
            place = temporary_home() if durable else home()
            server = Postgres(place, found, durable=durable, settings=own)
            stack.callback(server.discard)
            server.start()
            return server

        yield start


@pytest.fixture
def todos(migrated: str) -> str:
    """The address of a migrated database with a published table ``todos`` that ``anon`` may read."""
    databases.execute(
        migrated,
        """
        create table public.todos (id int primary key, task text, done bool not null default false);
        grant select on public.todos to anon, authenticated;
        alter publication supabase_realtime add table public.todos;
        """,
    )
    return migrated


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Start a server for a database: ``await serve(dsn)``, with settings: ``await serve(dsn, NAME="x")``."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(database: str, **settings: str) -> Server:
            server = Server(database, tmp_path / f"server-{len(started)}.log", settings)
            started.append(server)
            stack.push_async_callback(server.end)
            await server.start()
            return server

        started: list[Server] = []
        yield start


@pytest.fixture
async def server(todos: str, serve: Callable[..., Awaitable[Server]]) -> Server:
    """A running server, for the database of ``todos``."""
    return await serve(todos)
