"""Broadcasts: their frames, text and binary, both ways.

Others may send whatever they like, and it comes as they sent it: a payload of any form is a broadcast. Binary
frames have a header, one byte for the size of each of its texts::

    to the server    3, join_ref, ref, topic, event, metadata, encoding    the texts, the payload
    from the server  4, topic, event, metadata, encoding                   the texts, the payload
"""

from binascii import a2b_base64
from dataclasses import dataclass
from typing import Any

import msgspec

from ..errors import ProtocolError
from .frames import Frame, encode, whole
from .wants import Hear

#: As many bytes as each text of a binary frame can have.
LONGEST = 255

_PUSH, _USER_BROADCAST = 3, 4
_RAW = 0
_PARTS = slice(1, 4)
_HEADER = 5


@dataclass(frozen=True, slots=True)
class Said:
    """A broadcast to the server: JSON, or any bytes where it is ``raw``. It has an ``id`` to be stored by."""

    event: str
    payload: bytes
    raw: bool = False
    id: str | None = None


class _Payload(msgspec.Struct):
    event: Any = None
    payload: msgspec.Raw = msgspec.Raw(b"null")
    meta: Any = None


_payload = msgspec.json.Decoder(_Payload)
_any = msgspec.json.Decoder()


def push(join_ref: str, ref: str, topic: str, said: Said) -> str | bytes:
    """The frame of a broadcast to the server: a text one of JSON, a binary one of what is ``raw``."""
    meta = {} if said.id is None else {"id": said.id}
    if not said.raw:
        payload = {"type": "broadcast", "event": said.event, "payload": msgspec.Raw(said.payload), **meta}
        return encode(join_ref, ref, topic, "broadcast", payload)
    parts = [part.encode() for part in (join_ref, ref, topic, said.event)]
    parts.append(msgspec.json.encode(meta) if meta else b"")
    return b"".join((bytes((_PUSH, *map(len, parts), _RAW)), *parts, said.payload))


def from_text(frame: Frame) -> Hear:
    """What a text frame says. Raises ProtocolError."""
    try:
        said = _payload.decode(frame.payload)
    except msgspec.ValidationError:
        said = _Payload()  # a payload of another form, which somebody sent as it is
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise ProtocolError("a broadcast cannot be read") from fault
    event = said.event if isinstance(said.event, str) else ""
    meta = said.meta if isinstance(said.meta, dict) else {}
    payload, raw = bytes(said.payload), False
    if isinstance(meta.get("position"), str) and meta.get("encoding") == "base64":
        # Of the stream, which is text alone.
        try:
            payload, raw = a2b_base64(msgspec.json.decode(payload, type=str)), True
        except (msgspec.DecodeError, ValueError) as fault:
            raise ProtocolError("a broadcast says that its payload is base64, and it is not") from fault
    return _heard(frame.topic, event, payload, meta, raw=raw)


def from_binary(data: bytes) -> Hear:
    """What a binary frame says. Raises ProtocolError."""
    if len(data) < _HEADER or data[0] != _USER_BROADCAST:
        raise ProtocolError("a binary frame is no broadcast")
    at, parts = _HEADER, []
    for size in data[_PARTS]:
        parts.append(data[at : at + size])
        at += size
    if at > len(data):
        raise ProtocolError("a binary frame is cut short")
    topic, event, meta = parts
    raw = data[_HEADER - 1] == _RAW
    try:
        payload = data[at:] if raw else whole(data[at:].decode()).encode()
        said = _any.decode(meta) if meta else None
        return _heard(topic.decode(), event.decode(), payload, said, raw=raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise ProtocolError("a binary frame cannot be read") from fault


def _heard(topic: str, event: str, payload: bytes, meta: Any, *, raw: bool) -> Hear:
    meta = meta if isinstance(meta, dict) else {}
    id_, position = meta.get("id"), meta.get("position")
    return Hear(
        topic,
        event,
        payload,
        raw=raw,
        id=id_ if isinstance(id_, str) else None,
        replayed=meta.get("replayed") is True,
        position=position if isinstance(position, str) else None,
        again=meta.get("again") is True,
    )
