"""Backoff: how often something has failed in a row, and so when it is tried again."""

from ..retry import RetryPolicy


class Backoff:
    """Counts failures of one thing. ``now`` is any clock that only moves forward."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._worked_since: float | None = None

    def worked(self, now: float) -> None:
        """It works as of now."""
        self._worked_since = now

    def failed(self, now: float) -> float:
        """It failed: when to try again."""
        if self._worked_since is not None and now - self._worked_since >= self._policy.settled:
            self._failures = 0
        self._worked_since = None
        delay = self._policy.delay(self._failures)
        self._failures += 1
        return now + delay

    def reset(self) -> None:
        """Start from the first wait again: somebody asked anew."""
        self._failures, self._worked_since = 0, None
