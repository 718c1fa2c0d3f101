"""Payloads: what is sent, checked before it leaves."""

import json
from typing import Any

from .errors import UsageError

_HINT = "send dicts, lists, texts, numbers, True, False and None, or bytes"


def event_name(event: Any) -> str:
    """The name of an event. Raises UsageError."""
    if not isinstance(event, str) or not event.strip():
        raise UsageError("an event is a text that is not empty")
    return text(event, "the event")


def text(value: str, what: str) -> str:
    """A text that can be sent. Raises UsageError."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} has half of a surrogate pair, which is no character") from None
    return value


def encoded(payload: object) -> tuple[bytes, bool]:
    """What goes over the wire, and whether it is raw: bytes as they are, anything else as JSON.

    Raises UsageError for what is no JSON. Nothing that Python would have to guess a form for is let through.
    """
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload), True
    try:
        written = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return written.encode(), False
    except UnicodeEncodeError:
        fault = "has half of a surrogate pair in a text, which is no character"
    except TypeError as error:
        fault = f"is no JSON: {error}"  # it names a type
    except RecursionError:
        fault = "is nested too deeply"
    except ValueError as error:
        # What else it says may be a value.
        fault = "refers to itself" if "Circular" in str(error) else "has a number that JSON does not know"
    raise UsageError(f"the payload {fault}", hint=_HINT)
