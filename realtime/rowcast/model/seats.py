"""How many connections have a channel, and whether one more may. All connections of a server share them."""

from dataclasses import dataclass


@dataclass(slots=True)
class Seats:
    """A connection takes a seat with its first channel and leaves it with its last, or with its own end.

    ``limit`` is how many there are; None is no limit.
    """

    limit: int | None = None
    taken: int = 0

    @property
    def full(self) -> bool:
        """Whether a connection without a seat would get none."""
        return self.limit is not None and self.taken >= self.limit

    def take(self) -> None:
        """Sit down. To be called only while they are not full."""
        assert not self.full
        self.taken += 1

    def leave(self) -> None:
        """Give the seat back."""
        assert self.taken > 0
        self.taken -= 1
