"""Durations and sizes, as people write them: read into seconds and bytes, and written back."""

import re
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_SIZE: Final = re.compile(r"(\d+)\s*(B|kB|MB|GB)?", re.IGNORECASE)
_BYTES: Final = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3}


def parse_duration(value: Any) -> Any:
    """Seconds, from a number or a text such as ``90s``, ``250ms``, ``1h``."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError("is no duration: write a number with ms, s, m, h or d, such as 90s")
        return float(match[1]) * _SECONDS[match[2]]
    return value


def parse_size(value: Any) -> Any:
    """Bytes, from a number or a text such as ``512kB``, ``1GB``."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError("is no size: write a whole number with B, kB, MB or GB, such as 64MB")
        unit = (match[2] or "B").lower()
        return int(match[1]) * next(size for name, size in _BYTES.items() if name.lower() == unit)
    return value


def duration_text(seconds: float) -> str:
    """A text that is read as so many seconds, to the millisecond: ``90s``, ``1h``, ``250ms``."""
    milliseconds = round(seconds * 1000)
    if not milliseconds:
        return "0s"
    # A day is better known as 24h, and a minute as 60s.
    for unit, length, least in (("d", 86_400_000, 2), ("h", 3_600_000, 1), ("m", 60_000, 2), ("s", 1000, 1)):
        count, rest = divmod(milliseconds, length)
        if not rest and count >= least:
            return f"{count}{unit}"
    return f"{milliseconds}ms"


def size_text(size: int) -> str:
    """A text that is read as so many bytes: ``1MB``, ``5000000``."""
    for unit in ("GB", "MB", "kB"):
        if size % _BYTES[unit] == 0 and size:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
