"""Frames of both protocol versions: objects in 1.0.0, arrays in 2.0.0, users' broadcasts in binary.

This module performs no I/O.
"""

from typing import Any, Final

import msgspec

from rowcast.protocol.broadcasts import UserBroadcast
from rowcast.protocol.messages import ClientMessage, MalformedMessage, Ref, ServerMessage, Version

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode
_V2_SLOTS: Final = 5
_USER_BROADCAST_PUSH: Final = 3
_PUSH_HEADER: Final = 7
#: Where the header says whether the payload is JSON.
_ENCODING: Final = 6
_RAW: Final = 0
#: As many bytes as a binary frame can hold. References are kept, and sent back.
_MAX_REF: Final = 255


def decode_text(text: str | bytes, version: Version) -> ClientMessage:
    """Read a text frame. Raises MalformedMessage, whatever the input."""
    try:
        value = _decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedMessage("not JSON") from error
    if version is Version.V1:
        if not isinstance(value, dict):
            raise MalformedMessage("not an object")
        try:
            slots = (value.get("join_ref"), value["ref"], value["topic"], value["event"], value["payload"])
        except KeyError as error:
            # A heartbeat is known to come without what it does not need; nothing else may.
            if value.get("event") != "heartbeat":
                raise MalformedMessage(f"the key {error} is missing") from None
            slots = (value.get("join_ref"), value.get("ref"), value.get("topic"), "heartbeat", {})
    else:
        if not isinstance(value, list) or len(value) < _V2_SLOTS:
            raise MalformedMessage("not an array of five")
        slots = (value[0], value[1], value[2], value[3], value[4])
    return _message(*slots)


def decode_binary(data: bytes, version: Version) -> ClientMessage:
    """Read a binary frame: a user's broadcast under 2.0.0, which is the payload.

    Raises MalformedMessage.
    """
    if version is not Version.V2 or len(data) < _PUSH_HEADER or data[0] != _USER_BROADCAST_PUSH:
        raise MalformedMessage("a binary frame of no known kind")
    sizes, at, parts = data[1:6], _PUSH_HEADER, []
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    if at > len(data):
        raise MalformedMessage("a binary frame that is cut short")
    try:
        join_ref, ref, topic, event = (part.decode() for part in parts[:4])
    except UnicodeDecodeError as error:
        raise MalformedMessage("a binary frame with a header that is no UTF-8") from error
    broadcast = UserBroadcast(event, data[at:], raw=data[_ENCODING] == _RAW, meta=parts[4])
    return ClientMessage(topic, "broadcast", broadcast, ref or None, join_ref or None)


def encode(message: ServerMessage, version: Version) -> bytes:
    """The JSON of a message, its keys in the order of the original."""
    if version is Version.V1:
        return _encode(
            {"ref": message.ref, "event": message.event, "payload": message.payload, "topic": message.topic}
        )
    return _encode([message.join_ref, message.ref, message.topic, message.event, message.payload])


def _message(join_ref: Any, ref: Any, topic: Any, event: Any, payload: Any) -> ClientMessage:
    if not isinstance(topic, str) or not isinstance(event, str):
        raise MalformedMessage("topic and event must be strings")
    return ClientMessage(topic, event, payload, _ref(ref), _ref(join_ref))


def _ref(value: Any) -> Ref:
    if isinstance(value, bool) or not (value is None or isinstance(value, str | int)):
        raise MalformedMessage("a reference must be a string")
    if value is not None and len(str(value).encode()) > _MAX_REF:
        raise MalformedMessage("a reference is too long")
    return value
