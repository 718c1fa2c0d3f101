"""Renewal: the token that a channel is joined with, and when to ask for its successor.

A warning of the server's says that the token ends soon. The successor is asked for then, and after a failure
again until the token ends; but not before half of the time that the token had here. One that lives no longer
than the warning is early would be followed by the next at once.
"""

from ..retry import RetryPolicy
from .backoff import Backoff


class Renewal:
    """One channel's token. ``due`` is when to ask for the next, None for not now."""

    def __init__(self, retry: RetryPolicy) -> None:
        self.due: float | None = None
        self._backoff = Backoff(retry)
        self._token: str | None = None
        self._since = 0.0
        self._ends: float | None = None

    def sent(self, token: str | None, now: float) -> None:
        """The server was sent this token, or none."""
        self._token, self._since = token, now
        self.due = self._ends = None

    def warned(self, seconds: float, now: float) -> None:
        """The token ends in so many seconds."""
        self._ends = now + seconds
        self._backoff.reset()
        self.due = max(now, (self._since + self._ends) / 2)

    def asked(self) -> None:
        """The next token has been asked for."""
        self.due = None

    def came(self, token: str, now: float) -> bool:
        """A token came: whether it is another, to be sent. The same again counts as none."""
        if token == self._token:
            self.failed(now)
            return False
        self.sent(token, now)
        return True

    def failed(self, now: float) -> None:
        """No token came."""
        if self._ends is not None:
            again = self._backoff.failed(now)
            self.due = again if again < self._ends else None
