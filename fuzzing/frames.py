"""Frames through the codec: read or refused, and what is read can be answered.

The first byte chooses: ``1`` or ``2`` is a text frame of that version, ``a`` or ``b`` a binary one. The frame
follows.
"""

from typing import Any, Final

import msgspec

from rowcast.protocol.broadcasts import (
    Broadcast,
    UserBroadcast,
    encode_broadcast,
    is_json,
    text_broadcast,
)
from rowcast.protocol.codec import decode_binary, decode_text, encode
from rowcast.protocol.frames import payload_of
from rowcast.protocol.messages import ClientMessage, MalformedMessage, Ref, ServerMessage, Version, reply

_MAX_REF: Final = 255
_VERSIONS: Final = (Version.V1, Version.V2)


def fuzz_frames(data: bytes) -> None:
    """Read one frame, and answer what it said."""
    kind, frame = data[:1], data[1:]
    version = Version.V1 if kind in b"1a" else Version.V2
    try:
        message = decode_binary(frame, version) if kind in b"ab" else decode_text(_text(frame), version)
    except MalformedMessage:
        return
    check_message(message)
    if message.event == "broadcast":
        _check_broadcast(message)
    for answered in _VERSIONS:
        answer = reply(message.topic, message.ref, message.join_ref, "ok", {"event": message.event})
        check_encoded(answer, encode(answer, answered), answered)


def check_message(message: ClientMessage) -> None:
    """What holds for every message that a frame was."""
    assert isinstance(message.topic, str)
    assert isinstance(message.event, str)
    for ref in (message.ref, message.join_ref):
        assert _is_ref(ref)


def _check_broadcast(message: ClientMessage) -> None:
    """That what is sent on is JSON for every client, or the bytes that came."""
    broadcast: Broadcast
    if isinstance(message.payload, UserBroadcast):
        broadcast = message.payload
        if not broadcast.raw and not is_json(broadcast.payload):
            return
    else:
        broadcast = text_broadcast(message.payload)
    for version in _VERSIONS:
        frame = encode_broadcast(message.topic, broadcast, version)
        if frame is None:
            assert isinstance(broadcast, UserBroadcast)
            assert broadcast.raw
            continue
        text, data = payload_of(frame)
        if text:
            msgspec.json.decode(data.decode())
        else:
            assert data.endswith(broadcast.payload)


def check_encoded(message: ServerMessage, frame: bytes, version: Version) -> None:
    """That a frame says what its message does, in the version's order."""
    said: Any = msgspec.json.decode(frame)
    slots = {"ref": message.ref, "event": message.event, "payload": message.payload, "topic": message.topic}
    if version is Version.V1:
        assert said == slots
        assert list(said) == list(slots)
    else:
        assert said == [message.join_ref, message.ref, message.topic, message.event, message.payload]
    frame.decode()


def _text(frame: bytes) -> str | bytes:
    """A text frame as the server has it; one that is no UTF-8 never comes so far, but must do no harm."""
    try:
        return frame.decode()
    except UnicodeDecodeError:
        return frame


def _is_ref(ref: Ref) -> bool:
    return ref is None or (
        isinstance(ref, str | int) and not isinstance(ref, bool) and len(str(ref).encode()) <= _MAX_REF
    )
