"""Conversations with a session, whose tokens are ``role`` or ``role:expiry``."""

from typing import Any

from rowcast.model.allowed import Allowed, ChannelUnavailable
from rowcast.model.claims import Claims, TokenError
from rowcast.model.rates import RateWindow
from rowcast.protocol.messages import Version
from rowcast.session.admission import Limits
from rowcast.session.connection import Connection

NOW = 1_000_000.0
Answer = Allowed | ChannelUnavailable
NOTHING = Allowed()
AWAY = ChannelUnavailable(
    "UnableToConnectToProject", "Realtime was unable to connect to the project database"
)
EVERY_ANSWER = [NOTHING, Allowed(True, False), Allowed(False, True), Allowed(True, True), AWAY]
CHANGES = {"postgres_changes": [{"event": "*", "schema": "public", "table": "todos"}]}


def verify(token: str, now: float) -> Claims:
    """Tokens are ``role`` or ``role:expiry``; the rest is refused."""
    role, _, expires = token.partition(":")
    if role == "bad":
        raise TokenError("JwtSignatureError", "Failed to validate JWT signature")
    at = float(expires) if expires else NOW + 3600
    if at <= now:
        raise TokenError.expired(now - at)
    return Claims(role, at, {})


def connection(version: Version = Version.V2, joins: float = 1e9, **limits: Any) -> Connection:
    allowed = Limits(**{"refusal_delay": 0.0, **limits})
    return Connection(version, "anon", verify, allowed, NOW, RateWindow(joins))


def ok(response: Any) -> dict[str, Any]:
    return {"status": "ok", "response": response}
