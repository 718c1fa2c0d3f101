"""Who a subscriber is: the verified content of a token, or why it was not accepted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self


class Subject(NamedTuple):
    """Who looks at rows: a role, and the claims of its token as JSON text."""

    role: str
    claims: str = "{}"


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims of a token that has been verified.

    ``expires_at`` is when they end, in seconds since the Unix epoch: ``exp``, and the leeway that the server
    gives. ``raw`` holds every claim as it was signed.
    """

    role: str
    expires_at: float
    raw: Mapping[str, Any]

    @property
    def subject(self) -> Subject:
        """As what policies look at: equal where role and claims are equal."""
        return Subject(self.role, json.dumps(dict(self.raw), sort_keys=True))


class TokenError(Exception):
    """A token that is not accepted.

    ``code`` and ``text`` make the reason of a refused join; ``handshake`` is the text of a refused handshake.
    """

    def __init__(self, code: str, text: str, handshake: str | None = None) -> None:
        super().__init__(text)
        self.code, self.text = code, text
        self.handshake = text if handshake is None else handshake

    @classmethod
    def expired(cls, seconds: float) -> Self:
        """A token that was good until so many seconds ago."""
        return cls("InvalidJWTToken", f"Token has expired {int(seconds)} seconds ago", "Token has expired")

    @property
    def reason(self) -> str:
        """As a refused join's reply says it."""
        return f"{self.code}: {self.text}"
