"""How often something is called within a while that begins with its first call. No clock here."""

from dataclasses import dataclass


@dataclass(slots=True)
class Calls:
    """What was called within the while that goes on."""

    number: int = 0
    began: float = 0.0

    def take(self, limit: int, seconds: float, now: float) -> bool:
        """Count one at ``now``. Whether it is among the first ``limit`` of its while of so many seconds.

        A clock that was set back begins a new one.
        """
        if not self.began <= now < self.began + seconds:
            self.number, self.began = 0, now
        self.number += 1
        return self.number <= limit
