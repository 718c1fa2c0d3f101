"""Answers: what the server replies to a join, and to what a channel sends."""

from collections.abc import Sequence
from typing import Any

from ..errors import AuthError, JoinError, RowcastError, SendError

#: What lets a role send to a private channel.
WRITE_POLICY = (
    "add a policy for insert on realtime.messages that lets this role send, and see that the token is the "
    "right one"
)

_AUTH_CODES = frozenset({"InvalidJWTToken", "MalformedJWT", "JwtSignatureError", "Unauthorized"})
_ECHOED = ("event", "schema", "table", "filter")
_POLICY = (
    "add a policy for select on realtime.messages that lets this role read it, and see that the token is the "
    "right one"
)
#: What a broadcast, or a channel of such, that cannot be stored is refused with.
UNSTORED = "UnableToStoreMessages"
STORE_HINT = "ask with private=True, or set ROWCAST_STORE_PUBLIC on the server"
_JOIN_HINTS = {"PrivateOnly": "use client.channel(name, private=True)", UNSTORED: STORE_HINT}

#: What a payload over the limit is refused with.
TOO_LARGE = "payload_size_exceeded"
HINTS = {
    "Unauthorized": WRITE_POLICY,
    TOO_LARGE: "send less at once, or raise ROWCAST_MAX_PAYLOAD on the server",
}


def match(bindings: Sequence[dict[str, Any]], echo: Any) -> dict[int, tuple[int, ...]] | None:
    """Wire id -> indices of the bindings it stands for; None when the echo is not of these bindings."""
    if not isinstance(echo, list) or len(echo) < len(bindings):
        return None
    indices: dict[int, tuple[int, ...]] = {}
    for index, (binding, entry) in enumerate(zip(bindings, echo, strict=False)):
        if not isinstance(entry, dict) or any(entry.get(key) != binding.get(key) for key in _ECHOED):
            return None
        if not isinstance(id_ := entry.get("id"), int):
            return None
        indices[id_] = (*indices.get(id_, ()), index)
    return indices


def refusal(response: Any, private: bool) -> RowcastError:
    """A join refused with ``{"reason": "Code: text"}`` as an exception."""
    reason = response.get("reason") if isinstance(response, dict) else None
    text = reason if isinstance(reason, str) else "the server refused the channel without a reason"
    code, found, _ = text.partition(": ")
    code = code if found and code.isalnum() else "JoinRefused"
    if code in _AUTH_CODES:
        return AuthError(text, code=code, hint=_POLICY if private and code == "Unauthorized" else None)
    return JoinError(text, code=code, hint=_JOIN_HINTS.get(code))


def unsent(response: Any) -> SendError:
    """A broadcast or a track refused with ``{"reason": text}``, or a text, as an exception."""
    reason = response.get("reason") if isinstance(response, dict) else response
    text = reason if isinstance(reason, str) and reason else "the server refused it without a reason"
    code, found, _ = text.partition(": ")
    code = code if (found and code.isalnum()) or text.isidentifier() else "SendRefused"
    return SendError(text, code=code, hint=HINTS.get(code))
