"""What conditions cost Postgres, by the connection that asks them: so much within a minute and no more. And
which were switched off: to ask again costs nothing then.

No clock here: ``now`` is an argument, in seconds.
"""

from collections import OrderedDict
from typing import Final

from rowcast.hub.lanes import Lane
from rowcast.model.predicate import Ask

#: So many times what one question may take, a connection may take within a minute.
SHARE: Final = 10
_MINUTE: Final = 60.0
_OFF_SECONDS: Final = 300.0
_MAX_OFF: Final = 10_000
_MAX_CLIENTS: Final = 1_000


class Costs:
    """Accounts of connections, and conditions that were too slow. ``seconds`` bounds each question."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.allowance = SHARE * seconds
        self._spent: OrderedDict[Lane, tuple[float, float]] = OrderedDict()
        self._off: OrderedDict[tuple[int, Ask], float] = OrderedDict()

    def charge(self, client: Lane, seconds: float, now: float) -> None:
        """It took Postgres so long to answer this connection."""
        self._spent[client] = (self.spent(client, now) + seconds, now)
        self._spent.move_to_end(client)
        for first in list(self._spent):
            if len(self._spent) <= _MAX_CLIENTS and self.spent(first, now):
                break
            del self._spent[first]

    def spent(self, client: Lane, now: float) -> float:
        """Seconds that a connection has taken; a minute forgives the whole allowance."""
        amount, at = self._spent.get(client, (0.0, now))
        return max(0.0, amount - (now - at) * self.allowance / _MINUTE)

    def overdrawn(self, client: Lane, now: float) -> bool:
        """Whether a connection has taken all that it may."""
        return self.spent(client, now) >= self.allowance

    def switch_off(self, relation: int, ask: Ask, now: float) -> None:
        """A condition was too slow on a row of this version of a table."""
        self._off[relation, ask] = now + _OFF_SECONDS
        self._off.move_to_end((relation, ask))
        if len(self._off) > _MAX_OFF:
            self._off.popitem(last=False)

    def is_off(self, relation: int, ask: Ask, now: float) -> bool:
        """Whether it was, not long ago."""
        return now < self._off.get((relation, ask), 0.0)

    def too_slow(self, ask: Ask) -> str:
        """What a client is told of a condition that is switched off."""
        return (
            f"The filter on {ask.column} ({ask.op}) took longer than {self._seconds:g} s and was switched "
            "off: nothing more is sent for it. Subscribe again with one that is simpler."
        )

    def too_much(self, ask: Ask) -> str:
        """The same of one whose connection has taken all that it may."""
        return (
            f"The filter on {ask.column} ({ask.op}) was switched off, as the filters of this connection took "
            f"longer than {self.allowance:g} s within a minute: nothing more is sent for it. Subscribe again "
            "later, with fewer or simpler ones."
        )
