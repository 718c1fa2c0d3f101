"""What somebody sends to a topic, and its form on each wire. This module performs no I/O.

came as                       to 1.0.0                      to 2.0.0
a text frame, a REST batch    text, its payload as it is    text, its payload as it is
a binary frame, one by REST   text, put into a payload      binary
the same with raw bytes       is not sent                   binary
"""

import uuid
from binascii import b2a_base64
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from rowcast.model.message import Message
from rowcast.protocol.frames import binary_frame, text_frame
from rowcast.protocol.messages import Version

#: As many bytes as each part of a binary frame's header can have.
MAX_PART: Final = 255
_USER_BROADCAST: Final = 4
_JSON, _RAW = 1, 0
# In the order of the original.
_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decode: Final = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class TextBroadcast:
    """A payload that is sent as it came: JSON, of whatever form."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class UserBroadcast:
    """An event and what goes with it: JSON, or bytes of any kind where it is ``raw``.

    ``meta`` is a JSON object, or empty.
    """

    event: str
    payload: bytes
    raw: bool = False
    meta: bytes = b""


Broadcast = TextBroadcast | UserBroadcast


def text_broadcast(payload: Any) -> TextBroadcast:
    """A payload that was decoded, of a text frame. Keys come in the order of their names.

    What it says of a position is left out: others would resume from it, and only the stream knows one.
    """
    meta = payload.get("meta") if isinstance(payload, dict) else None
    if isinstance(meta, dict) and "position" in meta:
        payload = payload | {"meta": {name: value for name, value in meta.items() if name != "position"}}
    return TextBroadcast(_encode(payload))


def event_broadcast(event: str, payload: Any, meta: dict[str, Any] | None = None) -> TextBroadcast:
    """The same of an event and what goes with it."""
    said = {"event": event, "payload": payload, "type": "broadcast"}
    return TextBroadcast(_encode(said if meta is None else {**said, "meta": meta}))


def message_broadcast(message: Message, *, replayed: bool = False) -> UserBroadcast:
    """What the database sends, with its id beside; ``replayed`` where a channel is sent it anew."""
    meta = {"id": message.id} | ({"replayed": True} if replayed else {})
    return UserBroadcast(message.event, message.payload, message.raw, _encode(meta))


class MessageError(ValueError):
    """A broadcast that cannot be stored. The text says why."""


def message_of_text(name: str, private: bool, payload: Any) -> Message:
    """The message that the payload of a text frame is stored as. ``name`` is the topic without the prefix.

    Its id is empty where the client gave none. Raises MessageError.
    """
    if not isinstance(payload, dict) or not isinstance(event := payload.get("event"), str):
        raise MessageError("expected an object with an `event` that is a string")
    body = _encode(payload.get("payload", {}))
    return Message(message_id(payload.get("id")), name, private, event, body)


def persists(payload: Any) -> bool:
    """Whether a broadcast asks by itself to be stored, as supabase-js has it."""
    if not isinstance(payload, UserBroadcast):
        return isinstance(payload, dict) and bool(payload.get("persist"))
    return bool(_said(payload).get("persist"))


def message_of_binary(name: str, private: bool, broadcast: UserBroadcast) -> Message:
    """The same of a binary frame, whose metadata may hold an id."""
    id_ = message_id(_said(broadcast).get("id"))
    return Message(id_, name, private, broadcast.event, broadcast.payload, broadcast.raw)


def _said(broadcast: UserBroadcast) -> dict[str, Any]:
    """What a client says beside; what is no object says nothing."""
    try:
        meta = _decode(broadcast.meta) if broadcast.meta else {}
    except (msgspec.DecodeError, ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def message_id(value: Any) -> str:
    """The id that a client gave a message, a UUID; empty where it gave none. Raises MessageError."""
    if value is None:
        return ""
    try:
        return str(uuid.UUID(value))
    except (ValueError, AttributeError, TypeError):
        raise MessageError("expected `id` to be a UUID") from None


def stream_broadcast(message: Message, position: str, again: bool = False) -> TextBroadcast:
    """The same for a channel that hears messages as a part of the stream: text always, since a position may
    be too long for the header of a binary frame. Bytes come in base64.

    ``again`` says that the position is one before the message, which comes again from there.
    """
    meta: dict[str, object] = {"id": message.id, "position": position}
    if again:
        meta["again"] = True
    payload: object = msgspec.Raw(message.payload)
    if message.raw:
        meta["encoding"] = "base64"
        payload = b2a_base64(message.payload, newline=False).decode()
    return event_broadcast(message.event, payload, meta)


def is_json(data: bytes) -> bool:
    """Whether every client can read it as JSON."""
    try:
        _decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True


def fits_binary(topic: str, broadcast: UserBroadcast) -> bool:
    """Whether a binary frame can hold it. ``topic`` is the whole of it."""
    parts = (topic.encode(), broadcast.event.encode(), broadcast.meta)
    return all(len(part) <= MAX_PART for part in parts)


def encode_broadcast(topic: str, broadcast: Broadcast, version: Version) -> bytes | None:
    """Its WebSocket frame; None where the version has no form for it.

    JSON that does not fit a binary frame is sent as text.
    """
    if isinstance(broadcast, TextBroadcast):
        return text_frame(_text(topic, broadcast.payload, version))
    if version is Version.V2 and fits_binary(topic, broadcast):
        return binary_frame(_binary(topic, broadcast))
    return None if broadcast.raw else text_frame(_text(topic, _whole(broadcast), version))


def _text(topic: str, payload: bytes, version: Version) -> bytes:
    if version is Version.V1:
        return b'{"ref":null,"event":"broadcast","payload":' + payload + b',"topic":' + _encode(topic) + b"}"
    return b"[null,null," + _encode(topic) + b',"broadcast",' + payload + b"]"


def _whole(broadcast: UserBroadcast) -> bytes:
    meta = b',"meta":' + broadcast.meta if broadcast.meta else b""
    head = b'{"event":' + _encode(broadcast.event) + meta
    return head + b',"payload":' + broadcast.payload + b',"type":"broadcast"}'


def _binary(topic: str, broadcast: UserBroadcast) -> bytes:
    parts = (topic.encode(), broadcast.event.encode(), broadcast.meta)
    head = bytes((_USER_BROADCAST, *map(len, parts), _RAW if broadcast.raw else _JSON))
    return b"".join((head, *parts, broadcast.payload))
