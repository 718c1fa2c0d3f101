"""The key set that a server was given: as JSON, as a file's path, or as the address where it is published.

Looking a key up is synchronous, whatever is published: who misses a key asks for a fetch, which ``run`` makes
beside. What was fetched last goes on while the address cannot be reached. Everything runs on the loop.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog

from rowcast import __version__
from rowcast.auth.keys import SYMMETRIC, Key, KeyFault, KeySet, parse_keys

if TYPE_CHECKING:
    import httpx

_INTERVAL: Final = 300.0
#: Between two fetches, whatever tokens ask for.
_FLOOR: Final = 30.0
_TIME_LIMIT: Final = 5.0
_MAX_SIZE: Final = 512 * 1024
# Compressed, a small answer could become a huge one.
_HEADERS: Final = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "user-agent": f"rowcast/{__version__}",
}

log = structlog.get_logger("rowcast.auth")


class Jwks:
    """The key set that is to be found ``where``. Raises KeyFault when it cannot be.

    ``tried`` is set once it was read, or its first fetch has ended well or not. Times in seconds.
    """

    def __init__(
        self,
        where: str,
        *,
        interval: float = _INTERVAL,
        floor: float = _FLOOR,
        time_limit: float = _TIME_LIMIT,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        where = where.strip()
        self._address = where if where.lower().startswith(("http://", "https://")) else None
        self._interval, self._floor, self._time_limit, self._pause = interval, floor, time_limit, pause
        self._known: KeySet | None = None
        self._asked = asyncio.Event()
        self._failures = 0
        self._fault = "was not asked for yet"
        self.tried = asyncio.Event()
        if self._address is None:
            self._known = _usable(_read(where))
        elif not _host(self._address):
            raise KeyFault("is no address such as https://auth.example/.well-known/jwks.json")

    @property
    def empty(self) -> bool:
        """Whether it has no keys, and never will."""
        return self._address is None and self._known is not None and not self._known.keys

    def find(self, kid: str, algorithm: str) -> Key | None:
        """The key of that name, if it is good for the algorithm. One that is missed is looked for soon."""
        key = None if self._known is None else self._known.find(kid, algorithm)
        # Secrets are not published: tokens of Supabase's name one that is known by another way.
        if key is None and algorithm not in SYMMETRIC:
            self._asked.set()
        return key

    def faults(self) -> dict[str, str]:
        """Why there are no keys at all yet; empty once there were."""
        return {} if self._known is not None else {"jwks": f"the key set {self._fault}"}

    async def run(self) -> None:
        """Fetch what is published, at once and again, until cancelled. Returns when nothing has to be."""
        if self._address is None:
            if self._known is not None:
                _tell(self._known)
            self.tried.set()
            return
        import httpx  # takes long to load, and every command loads the settings

        # Redirects are not followed: one could lead to where nobody meant to trust.
        async with httpx.AsyncClient(headers=_HEADERS, timeout=None) as client:
            while True:
                await self._fetch(client, self._address)
                self.tried.set()
                await self._rest()

    async def _rest(self) -> None:
        if self._failures:
            await self._pause(min(self._floor, 2.0 ** min(self._failures - 1, 16)))
            return
        await self._pause(self._floor)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._interval - self._floor)):
                await self._asked.wait()

    async def _fetch(self, client: "httpx.AsyncClient", address: str) -> None:
        """Never raises but when cancelled: a server goes on with what it knows."""
        self._asked.clear()
        try:
            async with asyncio.timeout(self._time_limit):
                known = _usable(parse_keys(await _answer(client, address)))
        except KeyFault as fault:
            self._failed(str(fault))
        except TimeoutError:
            self._failed(f"did not come within {self._time_limit:g} seconds")
        except Exception as error:
            # The text of what went wrong may hold the address, and that a password.
            self._failed(f"could not be fetched ({type(error).__name__})")
        else:
            if self._failures or self._known is None or self._known.keys.keys() != known.keys.keys():
                log.info("jwks_fetched", host=_host(address), keys=len(set(map(id, known.keys.values()))))
                _tell(known)
            self._known, self._failures = known, 0

    def _failed(self, fault: str) -> None:
        if not self._failures or fault != self._fault:
            log.warning("jwks_not_fetched", host=_host(self._address or ""), fault=f"the key set {fault}")
        self._failures += 1
        self._fault = fault


async def _answer(client: "httpx.AsyncClient", address: str) -> bytes:
    async with client.stream("GET", address) as response:
        if response.status_code != HTTPStatus.OK:
            raise KeyFault(f"was answered with status {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > _MAX_SIZE:
                raise KeyFault(f"has more than {_MAX_SIZE} bytes")
    return bytes(body)


def _read(where: str) -> KeySet:
    if where.startswith(("{", "[")):
        return parse_keys(where)
    try:
        with Path(where).open("rb") as file:
            text = file.read(_MAX_SIZE + 1)
    except (OSError, ValueError):  # the text may be anything, a secret too
        raise KeyFault("is neither JSON, nor a file that can be read, nor an http(s) address") from None
    if len(text) > _MAX_SIZE:
        raise KeyFault(f"has more than {_MAX_SIZE} bytes")
    return parse_keys(text)


def _usable(known: KeySet) -> KeySet:
    """The set itself: it may be without keys, but not made of faults alone."""
    if known.faults and not known.keys:
        raise KeyFault(f"has no key that can be used: {known.faults[0]}")
    return known


def _host(address: str) -> str:
    """The host of an address, without what may be secret; empty when there is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _tell(known: KeySet) -> None:
    for fault in known.faults:
        log.warning("jwks_key_left_out", fault=fault)
