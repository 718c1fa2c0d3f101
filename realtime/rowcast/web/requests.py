"""What every request to the REST API goes through: its token, its rate and its body; what its answer has."""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from rowcast.model.claims import Claims, TokenError
from rowcast.model.rates import RateWindow
from rowcast.web.services import Services

#: What the original calls its JSON.
JSON_UTF8: Final = "application/json; charset=utf-8"
JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
#: What a body may be refused with: to find that out is work.
_COUNTED: Final = frozenset({400, 408, 413, 422})
_BODY_SECONDS: Final = 30.0
#: What supabase-js sends, and what traces are told by.
_ALLOWED_HEADERS: Final = (
    "authorization, apikey, content-type, x-client-info, x-supabase-api-version, "
    "traceparent, tracestate, baggage"
)
_ANY_ORIGIN: Final = {"Access-Control-Allow-Origin": "*"}
_PREFLIGHT: Final = {
    **_ANY_ORIGIN,
    "Access-Control-Allow-Methods": "POST, OPTIONS",
    "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
    "Access-Control-Max-Age": "86400",
}
_REQUEST_ID: Final = "request-id"
_IDENTIFIER: Final = re.compile("[ -~]{10,200}")


class Refused(Exception):
    """A request that is answered with a status and a JSON object, and does nothing."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(status)
        self.status, self.body = status, body


@dataclass(frozen=True, slots=True)
class Sender:
    """A request whose token is good, and what whoever it stands for has sent by requests."""

    request: Request
    services: Services
    claims: Claims
    rate: RateWindow

    @property
    def now(self) -> float:
        """Unix seconds."""
        return self.services.clock()

    def check_rate(self, text: str) -> None:
        """Raise Refused while there are too many messages."""
        if self.rate.reached(self.now):
            raise Refused(429, {"message": text})


Handler = Callable[[Sender], Awaitable[Response]]


async def answer(request: Request, handler: Handler) -> Response:
    """Answer a request whose token is good and whose rate is not too high; or a preflight, without either."""
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=_PREFLIGHT)
    headers = {**_ANY_ORIGIN, "x-request-id": _request_id(request.headers.get("baggage", ""))}
    sender: Sender | None = None
    try:
        sender = _sender(request)
        sender.check_rate("Too many requests")
        response = await handler(sender)
    except ClientDisconnect:
        return Response(status_code=400)
    except Refused as refused:
        response = JSONResponse(dict(refused.body), refused.status, media_type=JSON_UTF8)
        if sender is not None and refused.status in _COUNTED:
            sender.rate.count(sender.now, 1)
        if refused.status in (408, 413):
            # What is left of the body is not read.
            headers["Connection"] = "close"
    if sender is not None:
        average, limit = sender.rate.average(sender.now), sender.rate.limit
        headers["x-rate-rolling"] = f"{average:.2f}"
        headers["x-rate-limit"] = f"{limit:g}"
        headers["x-rate-limit-remaining"] = f"{max(0.0, limit - average):.2f}"
    response.headers.update(headers)
    return response


def media_type(request: Request, *known: str) -> str:
    """The media type of a request, one of these; the first where it names none. Raises Refused."""
    named = request.headers.get("content-type", "").partition(";")[0].strip().lower() or known[0]
    if named not in known:
        raise Refused(415, {"error": f"Unsupported Media Type. Use {' or '.join(known)}"})
    return named


async def body_of(request: Request, limit: int) -> bytes:
    """The body of a request, of at most ``limit`` bytes. Raises Refused."""
    too_large = Refused(413, {"message": f"Request Entity Too Large: a body may have {limit} bytes"})
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        text = f"Request Timeout: the body did not come within {_BODY_SECONDS:.0f} seconds"
        raise Refused(408, {"message": text}) from None
    return bytes(body)


def decoded(body: bytes) -> Any:
    """The JSON of a body; an empty one is an empty object. Raises Refused."""
    try:
        return msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Refused(400, {"message": "Bad Request: the body is no JSON"}) from None


def _sender(request: Request) -> Sender:
    """Who a request is from, by its token. Raises Refused."""
    services: Services = request.app.state.services
    authorization = request.headers.get("authorization")
    token = request.headers.get("apikey", "")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        token = token if scheme.lower() == "bearer" else ""
    try:
        claims = services.verify(token, services.clock())
    except TokenError:
        raise Refused(401, {"message": "Unauthorized"}) from None
    who = claims.role, str(claims.raw.get("sub", ""))
    return Sender(request, services, claims, services.requests.of(who, services.clock()))


def _request_id(baggage: str) -> str:
    """What a request is called: as its sender says, or as nothing was called before."""
    for entry in baggage.split(","):
        name, _, value = entry.partition(";")[0].partition("=")
        if name.strip() == _REQUEST_ID and _IDENTIFIER.fullmatch(value.strip()):
            return value.strip()
    return uuid.uuid4().hex
