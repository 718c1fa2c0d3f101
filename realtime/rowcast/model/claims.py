"""Who a subscriber is: the verified content of a token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims of a token that has been verified.

    ``expires_at`` is ``exp`` in seconds since the Unix epoch. ``raw`` holds every claim as it was signed.
    """

    role: str
    expires_at: float
    raw: Mapping[str, Any]
