"""How often something happens, and whether that is too often. No clock here: ``now`` is an argument."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

#: From so many windows on, idle ones are forgotten.
_MANY: Final = 1000
#: The average is over so many steps, of so many seconds each.
STEPS: Final = 12
STEP_SECONDS: Final = 5.0


@dataclass(slots=True)
class RateWindow:
    """A limit on the average per second over the last minute.

    ``limit`` is reached, and not to be reached: the average of what was taken stays below it. The minute is
    twelve steps of five seconds, and fewer in the first minute of the window's life, so that a burst at the
    start counts in full. What is refused is not counted.
    """

    limit: float
    _counts: deque[int] = field(default_factory=lambda: deque([0], maxlen=STEPS))
    _step: int = 0
    _start: float | None = None

    def take(self, now: float) -> bool:
        """Count one at ``now`` (seconds), unless that is too many. Whether it was counted."""
        if self.reached(now):
            return False
        self._counts[-1] += 1
        return True

    def count(self, now: float, number: int) -> None:
        """Count what was taken all the same: many at once."""
        self._advance(now)
        self._counts[-1] += number

    def average(self, now: float) -> float:
        """How many there were per second."""
        self._advance(now)
        return sum(self._counts) / (STEP_SECONDS * len(self._counts))

    def reached(self, now: float) -> bool:
        """Whether one more at ``now`` (seconds) would be refused."""
        self._advance(now)
        return sum(self._counts) >= self.limit * STEP_SECONDS * len(self._counts)

    def _advance(self, now: float) -> None:
        if self._start is None:
            self._start = now
        step = int((now - self._start) // STEP_SECONDS)
        if step < self._step:
            # The clock was set back. What was counted stays, and time goes on from here.
            self._start = now - self._step * STEP_SECONDS
            return
        self._counts.extend([0] * min(step - self._step, STEPS))
        self._step = step


class Rates:
    """A window for each who sends, with the same limit: nobody takes what is another's.

    Whoever sent nothing for a minute is forgotten once there are many.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._windows: dict[Hashable, RateWindow] = {}
        self._many = _MANY

    def of(self, who: Hashable, now: float) -> RateWindow:
        """The window of somebody, at ``now`` (seconds)."""
        if who not in self._windows:
            if len(self._windows) >= self._many:
                self._windows = {key: one for key, one in self._windows.items() if one.average(now)}
                # Not again with each who comes.
                self._many = max(_MANY, 2 * len(self._windows))
            self._windows[who] = RateWindow(self.limit)
        return self._windows[who]
