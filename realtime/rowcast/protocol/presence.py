"""Presence on the wire: what a client tracks, and what is told of it. This module performs no I/O."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from rowcast.model.roster import Diff, Presence
from rowcast.protocol.frames import text_frame
from rowcast.protocol.messages import Ref, Version

STATE: Final = "presence_state"
DIFF: Final = "presence_diff"
#: What clients tell presences apart by, and what they call it: nobody chooses that.
_OURS: Final = frozenset({"phx_ref", "phx_ref_prev", "presence_ref"})
#: What every object of JavaScript has. Older official clients look a key up among these, take what they find
#: for a presence and fail, so that one member could keep all others of its topic from hearing.
INHERITED_KEYS: Final = frozenset(
    {
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
        "__proto__",
        "constructor",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "toString",
        "valueOf",
    }
)

# In the order of the original.
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


def tracked(payload: dict[str, Any]) -> bytes:
    """What a client shows of itself, as JSON: equal ones have equal bytes.

    Raises RecursionError where it is nested too deeply.
    """
    return _encode({name: value for name, value in payload.items() if name not in _OURS})


def encode_state(present: Iterable[Presence]) -> bytes:
    """The payload of ``presence_state``."""
    return _by_key(present)


def state_frame(topic: str, state: bytes, version: Version, join_ref: Ref) -> bytes:
    """The WebSocket frame of an encoded state, for the channel that joined with ``join_ref``."""
    return _frame(topic, STATE, state, version, join_ref)


def diff_frame(topic: str, diff: Diff, version: Version) -> bytes:
    """The WebSocket frame of ``presence_diff``, the same for all channels."""
    payload = b'{"joins":' + _by_key(diff.joins) + b',"leaves":' + _by_key(diff.leaves) + b"}"
    return _frame(topic, DIFF, payload, version, None)


def _by_key(presences: Iterable[Presence]) -> bytes:
    metas: dict[str, list[bytes]] = {}
    for one in presences:
        metas.setdefault(one.key, []).append(_meta(one))
    found = (_encode(key) + b':{"metas":[' + b",".join(of_key) + b"]}" for key, of_key in metas.items())
    return b"{" + b",".join(found) + b"}"


def _meta(presence: Presence) -> bytes:
    refs = b'{"phx_ref":' + _encode(presence.ref)
    if presence.prev is not None:
        refs += b',"phx_ref_prev":' + _encode(presence.prev)
    return refs + (b"}" if presence.payload == b"{}" else b"," + presence.payload[1:])


def _frame(topic: str, event: str, payload: bytes, version: Version, join_ref: Ref) -> bytes:
    name, kind = _encode(topic), _encode(event)
    if version is Version.V1:
        return text_frame(
            b'{"ref":null,"event":' + kind + b',"payload":' + payload + b',"topic":' + name + b"}"
        )
    return text_frame(b"[" + _encode(join_ref) + b",null," + name + b"," + kind + b"," + payload + b"]")
