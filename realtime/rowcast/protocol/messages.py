"""Messages of the protocol, as values. This module performs no I/O."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Version(StrEnum):
    """The serializer that a client asked for with ``vsn``."""

    V1 = "1.0.0"
    V2 = "2.0.0"

    @classmethod
    def negotiate(cls, text: str | None) -> "Version | None":
        """The version for a ``vsn`` parameter: absent means 1.0.0, an unsupported one None."""
        if text is None:
            return cls.V1
        parts = text.split(".")
        if len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts):
            return {("1", "0"): cls.V1, ("2", "0"): cls.V2}.get((parts[0], parts[1]))
        return None


class MalformedMessage(ValueError):
    """A frame that is no message of the protocol. It is ignored; the connection is kept."""


Ref = str | int | None


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """A message from a client. ``payload`` is any JSON value, or the ``UserBroadcast`` of a binary frame."""

    topic: str
    event: str
    payload: Any
    ref: Ref
    join_ref: Ref = None


@dataclass(frozen=True, slots=True)
class ServerMessage:
    """A message to a client. ``payload`` is a JSON object; the encoder of 1.0.0 leaves ``join_ref`` out."""

    topic: str
    event: str
    payload: dict[str, Any]
    ref: Ref = None
    join_ref: Ref = None


def reply(topic: str, ref: Ref, join_ref: Ref, status: str, response: dict[str, Any]) -> ServerMessage:
    """A ``phx_reply``."""
    return ServerMessage(topic, "phx_reply", {"status": status, "response": response}, ref, join_ref)
