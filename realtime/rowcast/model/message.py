"""A message that the database sends to a topic."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """A row of ``realtime.messages``. ``topic`` is without the prefix of the wire.

    ``payload`` is JSON, or bytes of any kind where it is ``raw``.
    """

    id: str
    topic: str
    private: bool
    event: str
    payload: bytes
    raw: bool = False

    @property
    def size(self) -> int:
        """Characters and bytes: what it takes while it waits."""
        return len(self.topic) + len(self.event) + len(self.payload)
