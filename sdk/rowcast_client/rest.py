"""Rest: broadcasts by a request each, for channels that are not joined.

httpx is imported with the first of them. Its exceptions may show what was sent: none gets out.
"""

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import msgspec

from ._core.answers import HINTS, STORE_HINT, TOO_LARGE, UNSTORED, WRITE_POLICY
from ._core.broadcasts import Said
from ._core.calls import UNKNOWN
from .address import rest_url
from .credentials import resolve
from .errors import AuthError, ConnectError, ConnectionLost, RowcastError, SendError, UsageError
from .tokens import Tokens

if TYPE_CHECKING:
    import httpx

    from .link import Address

_SENT = 202
_WORDS = 500


class Rest:
    """The requests of one client.

    While ``lasting`` says that somebody will close it, connections are kept for the next request.
    """

    def __init__(self, address: "Address", tokens: Tokens, lasting: Callable[[], bool]) -> None:
        self._address, self._tokens, self._lasting = address, tokens, lasting
        self._kept: httpx.AsyncClient | None = None
        self._ssl = address.ssl

    async def broadcast(self, name: str, said: Said, *, private: bool) -> None:
        """Send this to the topic ``name``. Raises AuthError, SendError, ConnectError or TokenError."""
        address = self._address
        key = await resolve(address.key, "key", address.timeout)
        token = await self._tokens.now()
        headers = {**(address.headers or {}), "apikey": key}
        headers["Content-Type"] = "application/octet-stream" if said.raw else "application/json"
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        for header, value in headers.items():
            # What cannot be sent, the library's log would show.
            if not (value.isascii() and value.isprintable()):
                raise UsageError(f"the header {header!r} has a character that no header takes")
        asked = {"private": "true" if private else "false"}
        if said.id is not None:
            asked |= {"store": "true", "id": said.id}
        url = f"{rest_url(address.url)}/{_part(name)}/events/{_part(said.event)}?{urlencode(asked)}"
        response = await self._post(url, said.payload, headers)
        if response.status_code != _SENT:
            raise _refusal(response.status_code, response.content, private)

    async def close(self) -> None:
        """Close the connections. A later request opens new ones."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.aclose()

    async def _post(self, url: str, payload: bytes, headers: dict[str, str]) -> "httpx.Response":
        import httpx

        error: RowcastError
        try:
            if self._lasting():
                self._kept = self._kept or self._opened()
                return await self._kept.post(url, content=payload, headers=headers)
            async with self._opened() as client:
                return await client.post(url, content=payload, headers=headers)
        except httpx.ConnectTimeout:
            error = ConnectError(f"the server could not be reached within {self._address.timeout:g} s")
        except httpx.ConnectError:
            error = ConnectError("the server cannot be reached", hint="is it running there?")
        except httpx.TransportError:
            error = ConnectionLost(f"the connection ended before the server answered; {UNKNOWN}")
        except Exception as fault:
            error = ConnectError(f"the request failed: {type(fault).__name__}")
        # Here, and not above: it would have the other as its context.
        raise error

    def _opened(self) -> "httpx.AsyncClient":
        import httpx

        # As the WebSocket is opened: with what the system trusts.
        self._ssl = self._ssl or ssl.create_default_context()
        return httpx.AsyncClient(verify=self._ssl, timeout=httpx.Timeout(None, connect=self._address.timeout))


def _part(name: str) -> str:
    """A part of a path. One of dots alone would be taken for a step up."""
    return name.replace(".", "%2E") if name in (".", "..") else quote(name, safe="")


def _refusal(status: int, body: bytes, private: bool) -> RowcastError:
    answer = _answer(body)
    errors = answer.get("errors")
    said = answer.get("message") or answer.get("error") or (_each(errors) if isinstance(errors, dict) else "")
    text = f"the server refused it with {status}"
    if isinstance(said, str) and said:
        text += f": {said[:_WORDS]}"
    if status in (401, 403):
        code = "Unauthorized" if status == 401 else "Forbidden"
        return AuthError(text, code=code, hint=WRITE_POLICY if private and status == 403 else None)
    if isinstance(errors, dict) and "store" in errors:
        return SendError(text, status=status, code=UNSTORED, hint=STORE_HINT)
    if status == 413 or (isinstance(errors, dict) and "payload" in errors):
        return SendError(text, status=status, code=TOO_LARGE, hint=HINTS[TOO_LARGE])
    if status == 404:
        hint = "check the path of the url; older servers take no broadcast by itself"
        return SendError(text, status=status, code="NotFound", hint=hint)
    return SendError(text, status=status, code="TooManyMessages" if status == 429 else None)


def _answer(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}


def _each(errors: dict[str, Any]) -> str:
    """What is wrong with each field."""
    return "; ".join(
        f"{field}: {', '.join(map(str, what))}" for field, what in errors.items() if isinstance(what, list)
    )
