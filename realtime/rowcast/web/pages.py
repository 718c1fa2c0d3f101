"""Pages beside the sockets: the files of one folder, which may talk to this server and to no other."""

from pathlib import Path, PurePath
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

#: 'self' counts for ws: and wss: of the same host and port, too.
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # They are asked for anew each time, and sent where they have changed.
    "Cache-Control": "no-cache",
}


class Pages(StaticFiles):
    """Serves a folder that exists; `index.html` where a folder of it is asked for.

    What has a name that begins with a dot is not served: such files are not meant for others.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, html=True)

    async def get_response(self, path: str, scope: Scope) -> Response:
        if any(part.startswith(".") for part in PurePath(path).parts):
            raise HTTPException(404)
        try:
            response = await super().get_response(path, scope)
        except OSError:
            # A loop of links, for example.
            raise HTTPException(404) from None
        response.headers.update(_HEADERS)
        return response
