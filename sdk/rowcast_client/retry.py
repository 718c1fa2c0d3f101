"""When to try again: capped exponential backoff with full jitter, for ever.

This module performs no I/O and reads no clock.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import UsageError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The wait before try n (from 0) is ``random() * min(cap, first * factor**n)``, all in seconds.

    What held for ``settled`` seconds counts as having worked, and the next failure starts from ``first``
    again; what fails sooner goes on up the ladder, so that a server that accepts and drops is not hammered.
    ``random`` gives floats in [0, 1); tests pass their own.
    """

    first: float = 0.2
    cap: float = 30.0
    factor: float = 2.0
    settled: float = 10.0
    random: Callable[[], float] = field(default=random.random, repr=False)

    def __post_init__(self) -> None:
        if not (0 < self.first <= self.cap and self.factor >= 1 and self.settled >= 0):
            raise UsageError("RetryPolicy needs 0 < first <= cap, factor >= 1 and settled >= 0")

    def delay(self, attempt: int) -> float:
        """How long to wait before try ``attempt``."""
        try:
            ceiling = min(self.cap, self.first * self.factor**attempt)
        except OverflowError:
            ceiling = self.cap
        return self.random() * ceiling
