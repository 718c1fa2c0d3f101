"""When the reader sleeps and when it polls: the rules, without any I/O and with ``now`` as an argument.

NOTIFY holds a cluster-wide lock through commit, so writers notify only while the reader sleeps. A flag in the
database says so; it is a lease, so that a dead server's flag runs out. One node owns the flag. A node behind
a pooler of transactions can own nothing and hear nothing: it is AWAKE for good, and leaves the flag alone.

    FOLLOWING  another node owns it                 polls 250 ms while that one is awake, 1 s while it sleeps
    AWAKE      the flag is down, nobody notifies    polls 2, 5 or 10 ms by the rate of changes; falls
                                                    asleep below `low` for 2 s
    FALLING    the flag is up, but a transaction    polls 10 to 50 ms, until the oldest running transaction
               may have looked before it was        began after the xid X that was drawn after raising it
    ASLEEP     every writer notifies                looks once a second all the same; wakes above `high`

Writers read the flag after their xid was assigned. One with an xid below X may have read it before it was
raised: it has ended once xmin is above X, and the poll that sees this xmin has read what it wrote.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

#: Seconds between polls, by the changes a second below which they hold. A poll takes time from the writers:
#: when there is much each read takes more at once; when there is little it is most of the delay.
AWAKE_POLLS: Final = ((300.0, 0.002), (1_000.0, 0.005), (math.inf, 0.010))
#: Where prepared transactions are possible the flag is never raised, since a transaction that notified cannot
#: be prepared; nor is it where nobody could hear.
IDLE_POLL: Final = 0.020
IDLE_AFTER: Final = 1.0
FALLING_POLLS: Final = (0.010, 0.050)
BELT: Final = 1.0
FOLLOWER_POLL: Final = 0.250
WINDOW: Final = 0.5
CALM_SECONDS: Final = 2.0
LEASE_SECONDS: Final = 5
RENEW_SECONDS: Final = 1.0
_HIGH_LIMITS: Final = (10.0, 300.0)
_COMMIT_SHARE: Final = 0.2


class Mode(StrEnum):
    """Where this node stands towards the flag."""

    FOLLOWING = "following"
    AWAKE = "awake"
    FALLING = "falling"
    ASLEEP = "asleep"


def thresholds(commit_seconds: float) -> tuple[float, float]:
    """Changes a second above which to stay awake, and below which to sleep, by the median time of a commit.

    On a slow disk NOTIFY itself holds writers below any fixed rate, and a reader waiting for it would sleep
    on.
    """
    low, high = _HIGH_LIMITS
    wake = min(max(_COMMIT_SHARE / max(commit_seconds, 1e-6), low), high)
    return wake, wake / 3


@dataclass
class Waker:
    """The state of one node. ``sleeps`` is False where the flag may never be raised."""

    sleeps: bool = True
    mode: Mode = Mode.FOLLOWING
    commit_seconds: float = 0.002
    leader_sleeps: bool = False
    _drawn: int = 0
    _polls: int = 0
    _window_began: float = 0.0
    _window_changes: int = 0
    _calm_since: float = field(default=0.0)
    _last_change: float = 0.0
    _awake_poll: float = AWAKE_POLLS[0][1]

    def own(self, now: float) -> None:
        """The flag is this node's from now on."""
        self._awake(now)

    def disown(self) -> None:
        """The flag is another's, or the session that held it is gone."""
        self.mode = Mode.FOLLOWING

    def raised(self, drawn: int) -> None:
        """The flag was raised, and then the xid ``drawn``."""
        self.mode, self._drawn, self._polls = Mode.FALLING, drawn, 0

    def read(self, changes: int, xmin: int, now: float) -> None:
        """A read gave so many changes, under a snapshot with this xmin."""
        self._window_changes += changes
        if changes:
            self._last_change = now
        if self.mode is Mode.FALLING:
            self._polls += 1
            if xmin > self._drawn:
                self.mode = Mode.ASLEEP

    def wants(self, now: float) -> Mode | None:
        """The mode to change to: FALLING (raise the flag) or AWAKE (lower it); None to stay."""
        elapsed = now - self._window_began
        high, low = thresholds(self.commit_seconds)
        if self.mode in (Mode.ASLEEP, Mode.FALLING):
            # A burst need not wait for its window to end.
            busy = self._window_changes >= high * WINDOW
            if elapsed >= WINDOW:
                self._open_window(now)
            return Mode.AWAKE if busy else None
        if self.mode is Mode.AWAKE and elapsed >= WINDOW:
            rate = self._window_changes / elapsed
            self._awake_poll = next(poll for below, poll in AWAKE_POLLS if rate < below)
            if rate > low:
                self._calm_since = now
            self._open_window(now)
            if self.sleeps and now - self._calm_since >= CALM_SECONDS:
                return Mode.FALLING
        return None

    def lowered(self, now: float) -> None:
        """The flag was lowered."""
        self._awake(now)

    def pause(self, now: float) -> float:
        """Seconds until the next read, unless something wakes the reader before."""
        match self.mode:
            case Mode.AWAKE:
                quiet = not self.sleeps and now - self._last_change >= IDLE_AFTER
                return IDLE_POLL if quiet else self._awake_poll
            case Mode.FALLING:
                return FALLING_POLLS[0] if self._polls < 10 else FALLING_POLLS[1]
            case Mode.ASLEEP:
                return BELT
            case Mode.FOLLOWING:
                return BELT if self.leader_sleeps else FOLLOWER_POLL

    def _awake(self, now: float) -> None:
        self.mode, self._calm_since = Mode.AWAKE, now
        self._awake_poll = AWAKE_POLLS[0][1]
        self._open_window(now)

    def _open_window(self, now: float) -> None:
        self._window_began, self._window_changes = now, 0
