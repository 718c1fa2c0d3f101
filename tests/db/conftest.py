"""A cluster of these tests' own, where no other test makes roles; each test finds it as new."""

from collections.abc import Iterator

import pytest

from rowcast.dev.postgres import Postgres
from support import databases
from support.postgres import SETTINGS, binaries, home
from support.sites import Sites, clear


@pytest.fixture(scope="module")
def apart() -> Iterator[Postgres]:
    """A whole Postgres for the tests of a module."""
    server = Postgres(home(), binaries(), durable=False, settings=SETTINGS)
    try:
        server.start()
        yield server
    finally:
        server.discard()


@pytest.fixture
def sites(apart: Postgres) -> Iterator[Sites]:
    """Databases of the cluster with an owner; afterwards they and all roles are gone."""
    yield Sites(apart)
    databases.run_apart(clear(apart.dsn))
