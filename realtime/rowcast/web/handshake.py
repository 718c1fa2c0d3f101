"""Which handshakes are refused, and how."""

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from rowcast.model.claims import TokenError
from rowcast.session.admission import TOO_MANY_JOINS, TOO_MANY_USERS
from rowcast.web.services import Services


def why_refused(services: Services, token: str) -> tuple[int, str] | None:
    """Status and text, in the original's order; None where nothing is wrong."""
    now = services.clock()
    if not token:
        return 401, "API key is missing"
    try:
        services.verify(token, now)
    except TokenError as error:
        return 401, error.handshake
    if services.seats.full:
        return 429, TOO_MANY_USERS
    return (429, TOO_MANY_JOINS) if services.joins.reached(now) else None


async def refuse(websocket: WebSocket, response: Response) -> None:
    """Answer with a response, where the server can."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(response)
    else:
        await websocket.close()  # which such a server answers with 403


def api_key(connection: HTTPConnection) -> str:
    """The key that a client gives, or nothing."""
    return connection.headers.get("x-api-key") or connection.query_params.get("apikey") or ""
