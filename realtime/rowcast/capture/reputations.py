"""What is known of conditions that Postgres judges: what failed or was slow is asked by itself."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from rowcast.model.predicate import Ask

#: Conditions that failed or were slow before, and those that were answered in time.
_MAX_APART: Final = 1_000
_MAX_TRUSTED: Final = 10_000


class Reputations:
    """Of so many conditions, those that were looked at last."""

    def __init__(self) -> None:
        #: With whether it failed, and was not merely slow.
        self._apart: OrderedDict[Ask, bool] = OrderedDict()
        self._trusted: OrderedDict[Ask, None] = OrderedDict()

    def is_apart(self, ask: Ask) -> bool:
        """Whether a condition is asked by itself."""
        return ask in self._apart

    def has_failed(self, ask: Ask) -> bool:
        """Whether it failed before."""
        return self._apart.get(ask, False)

    def is_trusted(self, ask: Ask) -> bool:
        """Whether it was answered in time, when it was asked last."""
        return ask in self._trusted

    def keep_apart(self, ask: Ask, *, failed: bool) -> None:
        """It failed, or was slow."""
        self._trusted.pop(ask, None)
        self._apart[ask] = failed or self._apart.get(ask, False)
        self._apart.move_to_end(ask)
        if len(self._apart) > _MAX_APART:
            self._apart.popitem(last=False)

    def doubt(self, asks: Iterable[Ask]) -> None:
        """One of these was slow, and it is not known which."""
        for ask in asks:
            del self._trusted[ask]

    def trust(self, asks: Iterable[Ask]) -> None:
        """These were answered in time."""
        for ask in asks:
            self._trusted[ask] = None
            if self._apart.get(ask) is False:
                del self._apart[ask]
        while len(self._trusted) > _MAX_TRUSTED:
            self._trusted.popitem(last=False)
