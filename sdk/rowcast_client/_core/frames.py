"""Frames: text frames of protocol 2.0.0, ``[join_ref, ref, topic, event, payload]``.

Rows stay unparsed here; whoever delivers a change parses it once, outside the reader.
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


class ChangeMark(msgspec.Struct):
    """What the core reads of a change, and of a batch of a snapshot: its number and where it leads."""

    seq: Any = None
    position: Any = None
    last: Any = None

    def __post_init__(self) -> None:
        self.seq = self.seq if isinstance(self.seq, int) else None
        self.position = self.position if isinstance(self.position, str) else None


class TransactionPayload(msgspec.Struct):
    """The payload of ``transaction``, with its changes unparsed."""

    changes: list[ChangePayload]
    commit_timestamp: msgspec.Raw = msgspec.Raw(b"null")
    position: str | None = None
    last: bool = True


_frame = msgspec.json.Decoder(Frame)
_reply = msgspec.json.Decoder(ReplyPayload)
_change = msgspec.json.Decoder(ChangePayload)
_mark = msgspec.json.Decoder(ChangeMark)
_transaction = msgspec.json.Decoder(TransactionPayload)
_object = msgspec.json.Decoder(dict[str, Any])


# A backslash that is escaped itself, a whole pair, or half of one.
_SURROGATES = re.compile(
    r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_HALF = 6


def _mended(found: re.Match[str]) -> str:
    return "\\ufffd" if len(found[0]) == _HALF else found[0]


def whole(text: str) -> str:
    """JSON in which half of a surrogate pair, which is no character, is U+FFFD."""
    return _SURROGATES.sub(_mended, text) if "\\ud" in text.lower() else text


def encode(join_ref: str | None, ref: str, topic: str, event: str, payload: Mapping[str, Any]) -> str:
    """The text of one frame to the server."""
    return msgspec.json.encode([join_ref, ref, topic, event, payload]).decode()


def decode(text: str | bytes) -> Frame:
    """Read one frame. Raises ProtocolError.

    A json column, or a broadcast, may hold half of a surrogate pair.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        return _frame.decode(whole(text))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise ProtocolError("a frame is not [join_ref, ref, topic, event, payload]") from fault


def decode_reply(payload: msgspec.Raw) -> ReplyPayload:
    """Read the payload of a ``phx_reply``. Raises ProtocolError."""
    return _payload(_reply, payload, "phx_reply")


def decode_change(payload: msgspec.Raw, event: str = "postgres_changes") -> ChangePayload:
    """Read the envelope of a row change, or of a batch of a snapshot. Raises ProtocolError."""
    return _payload(_change, payload, event)


def decode_mark(data: msgspec.Raw, event: str = "postgres_changes") -> ChangeMark:
    """Read a change's number and position. Raises ProtocolError."""
    return _payload(_mark, data, event)


def decode_transaction(payload: msgspec.Raw) -> TransactionPayload:
    """Read the envelope of a transaction. Raises ProtocolError."""
    return _payload(_transaction, payload, "transaction")


def decode_object(payload: msgspec.Raw) -> dict[str, Any]:
    """Read a payload that is any JSON object. Raises ProtocolError."""
    return _payload(_object, payload, "system")


def heartbeat_position(payload: msgspec.Raw) -> str | None:
    """Where the stream stands, if the reply to a heartbeat says so."""
    try:
        response = decode_reply(payload).response
    except ProtocolError:
        return None
    position = response.get("position") if isinstance(response, dict) else None
    return position if isinstance(position, str) else None


def _payload(decoder: msgspec.json.Decoder[T], payload: msgspec.Raw, event: str) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise ProtocolError(f"the payload of a {event} frame is not as the protocol has it") from fault
