"""Requests to the REST API of a server in the test's own process, and who listens."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from rowcast.model.allowed import Allowed
from rowcast.model.rates import Rates
from rowcast.protocol.messages import Version
from support.frames import Client, opened
from support.serving import Door, Running
from support.tokens import make_token

PREFIXES = pytest.mark.parametrize("prefix", ["", "/realtime/v1"])
BATCH, SINGLE = "/api/broadcast", "/api/broadcast/web/events/solo"
OCTETS = {"content-type": "application/octet-stream"}
UNSUPPORTED = {"error": "Unsupported Media Type. Use application/json or application/octet-stream"}


@contextlib.asynccontextmanager
async def api(site: Running, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the REST API, with a good token unless the headers are others."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = named or {"apikey": make_token()}
    base = f"http://127.0.0.1:{site.port}"
    async with httpx.AsyncClient(base_url=base, headers=sent, verify=False) as client:
        yield client


@contextlib.asynccontextmanager
async def listening(site: Running, topic: str = "realtime:web", **config: Any) -> AsyncIterator[list[Client]]:
    """A listener of each version."""
    async with opened(site, Version.V1) as old, opened(site, Version.V2) as new:
        for client in (old, new):
            await client.join(topic, {"config": config})
        yield [old, new]


def limit(site: Running, per_second: float) -> None:
    """Let requests send only so much."""
    services = site.app.state.services
    site.app.state.services = dataclasses.replace(services, requests=Rates(per_second))


def door(site: Running, writable: Allowed) -> Door:
    found = site.app.state.services.channels
    assert isinstance(found, Door)
    found.allowed, found.writable = Allowed(True, True), writable
    return found


def message(event: str = "h", topic: str = "web", payload: Any = None, **more: Any) -> dict[str, Any]:
    return {"topic": topic, "event": event, "payload": payload or {}, **more}


def delivered(event: str, payload: Any, **meta: Any) -> dict[str, Any]:
    return {"event": event, **meta, "payload": payload, "type": "broadcast"}
