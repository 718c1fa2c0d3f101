"""A switch as clients send it. This module performs no I/O."""

from typing import Any


def flag(value: Any) -> bool:
    """Whether it is on: ``true``, or its name as a text in any case. All else is off."""
    return value is True or (isinstance(value, str) and value.lower() == "true")
