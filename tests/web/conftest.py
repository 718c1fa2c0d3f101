"""A server that the tests of one module share."""

import dataclasses
from collections.abc import AsyncIterator, Iterator

import pytest

from rowcast.model.rates import Rates
from rowcast.session.admission import Limits
from support.serving import Door, Running, running


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Running]:
    """One server for all tests of a file."""
    async with running(limits=Limits(payload_size=1000)) as started:
        yield started


@pytest.fixture
def site(shared: Running) -> Iterator[Running]:
    """The server as it was: what a test changes of its parts is for that test."""
    services = shared.app.state.services
    shared.app.state.services = dataclasses.replace(services, requests=Rates(100), channels=Door())
    yield shared
    shared.app.state.services = services
