"""What a client may do on a private channel."""

from collections.abc import Mapping
from dataclasses import dataclass

from rowcast.model.claims import Claims


@dataclass(frozen=True, slots=True)
class Allowed:
    """Of which kinds of message: for reading, or for writing."""

    broadcast: bool = False
    presence: bool = False

    def __bool__(self) -> bool:
        return self.broadcast or self.presence


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """Who asks, and for which channel.

    ``topic`` is without ``realtime:``; ``headers`` are those of the client that policies may look at.
    """

    topic: str
    claims: Claims
    headers: Mapping[str, str]


class ChannelUnavailable(Exception):
    """What a channel allows cannot be found out now. ``code`` and ``text`` go to the client."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text

    @property
    def reason(self) -> str:
        """As a refused join's reply says it."""
        return f"{self.code}: {self.text}"
