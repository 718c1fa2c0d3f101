"""Broadcast: what somebody sent to a channel, as a ``broadcast`` callback receives it."""

from dataclasses import dataclass
from typing import Any

import msgspec

from ._core.wants import Hear
from .errors import ProtocolError


@dataclass(frozen=True, slots=True)
class Broadcast:
    """A message to a channel. Whoever may send to the channel decides what is in it."""

    event: str
    """Empty where it came without one."""
    payload: Any
    """What JSON gives, or ``bytes``; None where it came without one."""
    id: str | None
    """What the server knows the message by: those of the database have an id. Else None."""
    replayed: bool
    """Whether it was sent before the channel joined, and is here because ``replay`` asked for it."""
    position: str | None
    """Where the stream stands after it, where it has a place there; opaque."""


def read_broadcast(heard: Hear) -> Broadcast:
    """A broadcast with its payload read. Raises ProtocolError."""
    try:
        payload = heard.data if heard.raw else msgspec.json.decode(heard.data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise ProtocolError("a broadcast says that its payload is JSON, and it is not") from fault
    return Broadcast(heard.event, payload, heard.id, heard.replayed, heard.position)
