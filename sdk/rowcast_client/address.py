"""Address: from the URL a user has to those of the WebSocket and of requests.

That of the WebSocket carries the key, so it is never logged, shown in an error, or kept.
"""

from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from .errors import UsageError

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_MOUNTS = ("/realtime/v1", "/socket")
_REST = {"ws": "http", "wss": "https"}


def websocket_url(url: str) -> str:
    """The WebSocket's address, without key. A path that ends in no mount point gets ``/realtime/v1``."""
    parts = urlsplit(url.strip())
    scheme = _SCHEMES.get(parts.scheme.lower())
    if scheme is None or not parts.hostname:
        raise UsageError("the url must begin with http://, https://, ws:// or wss:// and name a host")
    path = parts.path.rstrip("/")
    if not path.endswith("/websocket"):
        path += "/websocket" if path.endswith(_MOUNTS) else "/realtime/v1/websocket"
    query = [pair for pair in parse_qsl(parts.query) if pair[0] not in ("apikey", "vsn")]
    return urlunsplit((scheme, parts.netloc, path, urlencode(query), ""))


def with_key(address: str, key: str) -> str:
    """The address with what the handshake needs."""
    return f"{address}{'&' if '?' in address else '?'}apikey={quote(key, safe='')}&vsn=2.0.0"


def rest_url(address: str) -> str:
    """Where broadcasts are posted to, on the server with the WebSocket ``address``.

    Without what only the handshake has: a user, a query.
    """
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    path = parts.path.removesuffix("/websocket").removesuffix("/socket")
    return urlunsplit((_REST[parts.scheme], host, f"{path}/api/broadcast", "", ""))
