"""The application: its routes, at both of the prefixes that clients use; a slash at the end is no matter."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from rowcast.web.broadcasting import broadcast
from rowcast.web.openapi import DESCRIPTION
from rowcast.web.pages import Pages
from rowcast.web.requests import JSON_UTF8
from rowcast.web.services import Services
from rowcast.web.websocket import endpoint

PREFIXES = ("/realtime/v1", "/socket")
#: Through a gateway of Supabase's, and without one.
API_PREFIXES = ("/realtime/v1", "")
_ENDS = ("", "/")


class _Rest(Convertor[str]):
    """What is left of a path. Starlette's own ends with the line, and a topic may have several."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("rest", _Rest())


async def _not_a_websocket(_: Request) -> Response:
    return PlainTextResponse("This is a WebSocket endpoint: connect with an upgrade.", status_code=400)


async def _ping(_: Request) -> Response:
    return JSONResponse({"message": "Success"}, media_type=JSON_UTF8)


async def _openapi(_: Request) -> Response:
    return JSONResponse(DESCRIPTION, media_type=JSON_UTF8)


async def _healthy(_: Request) -> Response:
    return PlainTextResponse("ok")


async def _alive(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    services: Services = request.app.state.services
    if services.stopping.announced:
        return JSONResponse({"status": "draining"}, status_code=503)
    faults = dict(services.faults())
    if faults:
        return JSONResponse({"status": "not ready", "faults": faults}, status_code=503)
    degraded = dict(services.degraded())
    return JSONResponse({"status": "ready"} | ({"degraded": degraded} if degraded else {}))


def create_app(services: Services, folder: Path | None = None) -> Starlette:
    """The application over the parts it is handed. The files of ``folder`` are served at /pages/."""
    pages = {"/healthz": _alive, "/readyz": _ready, "/healthcheck": _healthy}
    for prefix in API_PREFIXES:
        pages |= {f"{prefix}/api/ping": _ping, f"{prefix}/api/openapi": _openapi}
    sockets = [f"{prefix}/websocket" for prefix in PREFIXES]
    pages |= dict.fromkeys(sockets, _not_a_websocket)
    upgraded = [WebSocketRoute(path + end, endpoint) for path in sockets for end in _ENDS]
    plain = [Route(path + end, page) for path, page in pages.items() for end in _ENDS]
    paths = [f"{prefix}/api/broadcast{rest}" for prefix in API_PREFIXES for rest in ("", "/{rest:rest}")]
    sending = [Route(path, broadcast, methods=["POST", "OPTIONS"]) for path in paths]
    files: list[BaseRoute] = [] if folder is None else [Mount("/pages", Pages(folder))]
    app = Starlette(routes=[*upgraded, *plain, *sending, *files])
    app.state.services = services
    return app
