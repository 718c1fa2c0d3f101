"""The least that a request costs on this stack: an endpoint that reads the JSON of a body, and answers 202.

python accepting.py PORT
"""

import sys

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def accept(request: Request) -> Response:
    """Take whatever is JSON."""
    msgspec.json.decode(await request.body())
    return Response(status_code=202)


app = Starlette(routes=[Route("/{rest:path}", accept, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None, access_log=False)
