"""Whether the database can be reached, for all who want to hear of it. Runs on the event loop only."""

from collections.abc import Callable
from dataclasses import dataclass, field


def _well() -> bool:
    return True


@dataclass(slots=True)
class Health:
    """``look`` says whether it can be reached at this moment; ``well`` is what was told of it last.

    Whoever watches is called with each change of that.
    """

    look: Callable[[], bool] = _well
    well: bool = True
    _watchers: set[Callable[[bool], None]] = field(default_factory=set)

    def watch(self, tell: Callable[[bool], None]) -> None:
        """Call this from now on."""
        self._watchers.add(tell)

    def leave(self, tell: Callable[[bool], None]) -> None:
        """Call it no longer."""
        self._watchers.discard(tell)

    def found(self, *, well: bool) -> None:
        """Tell it, where that is news."""
        if well != self.well:
            self.well = well
            for tell in tuple(self._watchers):
                tell(well)

    def look_again(self) -> None:
        """Somebody comes new: what is back already is told before."""
        if not self.well and self.look():
            self.found(well=True)
