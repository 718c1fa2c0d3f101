"""Fixtures: each reverse proxy of docs/deploy.md in turn, before a server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.gateways import Caddy, Certificate, Gateway, Nginx, make_certificate
from support.server import Server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for localhost that nobody trusts who was not told to."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
async def nginx(tmp_path: Path, certificate: Certificate, server: Server) -> AsyncIterator[Nginx]:
    """nginx before ``server``, with what docs/deploy.md prints."""
    gateway = Nginx(_folder(tmp_path), certificate, server.port)
    gateway.configure(gateway.document())
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
async def caddy(tmp_path: Path, certificate: Certificate, server: Server) -> AsyncIterator[Caddy]:
    """Caddy before ``server``, with what docs/deploy.md prints."""
    gateway = Caddy(_folder(tmp_path), certificate, server.port)
    gateway.configure(gateway.document())
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture(params=["nginx", "caddy"])
def gateway(request: pytest.FixtureRequest) -> Gateway:
    """Each of them in turn."""
    found: Gateway = request.getfixturevalue(request.param)
    return found


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "gateway"
    folder.mkdir()
    return folder
