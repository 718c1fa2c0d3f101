"""The application: its routes, at both of the prefixes that clients use."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute

from rowcast.web.services import Services
from rowcast.web.websocket import endpoint

PREFIXES = ("/realtime/v1", "/socket")


async def _not_a_websocket(_: Request) -> Response:
    return PlainTextResponse("This is a WebSocket endpoint: connect with an upgrade.", status_code=400)


async def _alive(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    services: Services = request.app.state.services
    faults = dict(services.faults())
    if faults:
        return JSONResponse({"status": "not ready", "faults": faults}, status_code=503)
    return JSONResponse({"status": "ready"})


def create_app(services: Services) -> Starlette:
    """The application over the parts it is handed."""
    routes: list[Route | WebSocketRoute] = [Route("/healthz", _alive), Route("/readyz", _ready)]
    for prefix in PREFIXES:
        routes.append(WebSocketRoute(f"{prefix}/websocket", endpoint))
        routes.append(Route(f"{prefix}/websocket", _not_a_websocket))
    app = Starlette(routes=routes)
    app.state.services = services
    return app
