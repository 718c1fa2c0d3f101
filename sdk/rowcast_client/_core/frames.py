"""Frames: text frames of protocol 2.0.0, ``[join_ref, ref, topic, event, payload]``.

Payloads of row changes stay unparsed here; whoever delivers a change parses it once, outside the reader.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from ..errors import ProtocolError

HEARTBEAT_TOPIC = "phoenix"

T = TypeVar("T")


class Frame(NamedTuple):
    """One frame from the server."""

    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: msgspec.Raw


class ReplyPayload(msgspec.Struct):
    """The payload of ``phx_reply``."""

    status: str
    response: Any = None


class ChangePayload(msgspec.Struct):
    """The payload of ``postgres_changes``, with the change itself unparsed."""

    ids: list[int]
    data: msgspec.Raw


_frame = msgspec.json.Decoder(Frame)
_reply = msgspec.json.Decoder(ReplyPayload)
_change = msgspec.json.Decoder(ChangePayload)
_object = msgspec.json.Decoder(dict[str, Any])


# A backslash that is escaped itself, a whole pair, or half of one.
_SURROGATES = re.compile(
    r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_HALF = 6


def _whole(found: re.Match[str]) -> str:
    return "\\ufffd" if len(found[0]) == _HALF else found[0]


def encode(join_ref: str | None, ref: str, topic: str, event: str, payload: Mapping[str, Any]) -> str:
    """The text of one frame to the server."""
    return msgspec.json.encode([join_ref, ref, topic, event, payload]).decode()


def decode(text: str | bytes) -> Frame:
    """Read one frame. Raises ProtocolError.

    A json column may hold half of a surrogate pair, which is no character: it becomes U+FFFD.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        return _frame.decode(_SURROGATES.sub(_whole, text) if "\\ud" in text.lower() else text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise ProtocolError("a frame is not [join_ref, ref, topic, event, payload]") from fault


def decode_reply(payload: msgspec.Raw) -> ReplyPayload:
    """Read the payload of a ``phx_reply``. Raises ProtocolError."""
    return _payload(_reply, payload, "phx_reply")


def decode_change(payload: msgspec.Raw) -> ChangePayload:
    """Read the envelope of a row change. Raises ProtocolError."""
    return _payload(_change, payload, "postgres_changes")


def decode_object(payload: msgspec.Raw) -> dict[str, Any]:
    """Read a payload that is any JSON object. Raises ProtocolError."""
    return _payload(_object, payload, "system")


def _payload(decoder: msgspec.json.Decoder[T], payload: msgspec.Raw, event: str) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise ProtocolError(f"the payload of a {event} frame is not as the protocol has it") from fault
