"""How long changes took where nothing was wrong. This module performs no I/O."""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

#: What a fault left behind is not held against the calm that follows it: clients come back meanwhile.
AFTERMATH: Final = 5.0


class Arrival(NamedTuple):
    """When a change of a transaction came; ``since`` is from when on its channel had been subscribed."""

    xid: int
    at: float
    since: float


def longest_stall(
    arrivals: Iterable[Arrival], commits: Mapping[int, float], faults: Sequence[tuple[float, float]]
) -> float:
    """The longest time from a commit to its delivery, in seconds, of which no fault was on.

    Faults are in the order of their beginning. Only commits count that came in a calm, to a channel that
    was subscribed; if a fault begins before the delivery, the time until then counts.
    """
    begins = [began for began, _ in faults]
    longest = 0.0
    for arrival in arrivals:
        committed = commits.get(arrival.xid)
        if committed is None or committed < arrival.since:
            continue
        place = bisect.bisect_right(begins, committed)
        if place and faults[place - 1][1] + AFTERMATH > committed:
            continue
        until = min(arrival.at, begins[place]) if place < len(begins) else arrival.at
        longest = max(longest, until - committed)
    return longest
