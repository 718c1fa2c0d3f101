"""The body of a request that sends many broadcasts. This module performs no I/O."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rowcast.model.flag import flag
from rowcast.model.message import Message
from rowcast.protocol.broadcasts import TextBroadcast, event_broadcast, message_of_text

BLANK: Final = "can't be blank"
INVALID: Final = "is invalid"
UNSTORED: Final = "is not allowed for public topics"
TOO_LARGE: Final = "Payload size exceeds tenant limit"


@dataclass(frozen=True, slots=True)
class BatchMessage:
    """One broadcast of a batch. ``name`` is its topic without the prefix; ``message`` is what is to be stored
    of it, if anything is."""

    name: str
    private: bool
    broadcast: TextBroadcast
    message: Message | None = None


class BatchError(ValueError):
    """A batch that is refused whole. ``errors`` is what the answer says, by message and field."""

    def __init__(self, errors: list[Any]) -> None:
        super().__init__("the batch is invalid")
        self.errors = {"messages": errors}


def messages_of(body: Any) -> list[Any]:
    """The messages that a body holds, before any is looked at. Raises BatchError."""
    messages = body.get("messages") if isinstance(body, dict) else None
    if messages is None or messages == []:
        raise BatchError([BLANK])
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BatchError([INVALID])
    return messages


def parse_batch(messages: list[Any], limit: int, *, store_public: bool = False) -> list[BatchMessage]:
    """Read them. ``limit`` bounds a payload, in bytes of JSON; those of public topics are stored only with
    ``store_public``. Raises BatchError, which tells of each."""
    read = [_read(message, limit, store_public) for message in messages]
    if any(isinstance(one, dict) for one in read):
        raise BatchError([one if isinstance(one, dict) else {} for one in read])
    return [one for one in read if isinstance(one, BatchMessage)]


def _read(message: Mapping[str, Any], limit: int, store_public: bool) -> BatchMessage | dict[str, list[str]]:
    """A message, or what is wrong with each of its fields."""
    errors = {
        name: [fault] for name, check in _CHECKS.items() if (fault := check(message.get(name))) is not None
    }
    if errors:
        return errors
    meta = None if message.get("id") is None else {"id": str(uuid.UUID(message["id"]))}
    try:
        broadcast = event_broadcast(message["event"], message["payload"], meta)
    except RecursionError:
        return {"payload": [INVALID]}
    if len(broadcast.payload) > limit:
        return {"payload": [TOO_LARGE]}
    name, private = message["topic"], flag(message.get("private"))
    if not flag(message.get("store")):
        return BatchMessage(name, private, broadcast)
    if not private and not store_public:
        return {"store": [UNSTORED]}
    return BatchMessage(name, private, broadcast, message_of_text(name, private, message))


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return BLANK
    return None if isinstance(value, str) else INVALID


def _object(value: Any) -> str | None:
    if value is None:
        return BLANK
    return None if isinstance(value, dict) else INVALID


def _boolean(value: Any) -> str | None:
    return None if value is None or isinstance(value, bool) or value in ("true", "false") else INVALID


def _uuid(value: Any) -> str | None:
    if value is None:
        return None
    try:
        uuid.UUID(value)
    except (ValueError, AttributeError, TypeError):
        return INVALID
    return None


_CHECKS: Final[dict[str, Callable[[Any], str | None]]] = {
    "event": _text,
    "id": _uuid,
    "payload": _object,
    "private": _boolean,
    "store": _boolean,
    "topic": _text,
}
