"""Place: how far a channel has come, so that its next join goes on from there and nothing is heard twice.

A position is taken from each message in the order of the socket. Of several messages about one change all
but the last carry the position before it, and so do the parts of a transaction but its last: after a cut
they come again, and what was heard of them is known by the changes' numbers. So does a message that comes
before the rest of its transaction, which says so: it is known by its id. While a snapshot is not complete
there is nothing to go on from, and it is taken anew.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..gap import Gap

#: What tells a message about a change: its number, and those of the bindings that it is for.
Mark = tuple[int | None, tuple[int, ...]]

_CUT = "Changes are missing: the connection ended before the snapshots of the channel were complete"


class Place:
    """One channel's place. Indices are those of the channel's bindings."""

    def __init__(self) -> None:
        self.reset()

    def reset(self, position: str | None = None) -> None:
        """Begin there, or at the present."""
        self.position = position
        self._snapshots: frozenset[int] = frozenset()
        self._pending: set[int] = set()
        self._begun: set[int] = set()
        self._seq: int | None = None
        self._seen: set[int] = set()
        self._parts: set[Mark] = set()
        self._again: set[str] = set()
        self._heard = False
        self._left: str | None = None

    @property
    def settled(self) -> bool:
        """Whether no snapshot is on its way."""
        return not self._pending

    @property
    def reached(self) -> str | None:
        """The position, if a later join may go on from it."""
        return self.position if self.settled else None

    def join(self, snapshots: Iterable[int], entries: int) -> str | None:
        """A join is sent that hears so much, bindings and messages; of it, these want a snapshot: where to
        resume."""
        self._snapshots, self._heard = frozenset(snapshots), False
        self._begun.clear()
        resume = self.reached
        if resume is None:
            if len(self._snapshots) < entries:
                self._left = self.position or self._left
            self.position, self._seq = None, None
            self._forget()
            self._pending = set(self._snapshots)
        return resume

    def subscribed(self, position: str | None) -> Gap | None:
        """The server confirmed the join. A gap, if it begins later than the channel had come."""
        if not self._heard or self.position is None:
            self._heard, self.position = True, position or self.position
        left, self._left = self._left, None
        return None if left is None else Gap("snapshot", left, self.position, _CUT)

    def missed(self, told: Mapping[str, Any], position: Any, message: str) -> Gap:
        """The server goes on from ``position``, and says what is lost before it."""
        position = position if isinstance(position, str) else None
        asked = told.get("from")
        gap = Gap(
            str(told.get("reason")), asked if isinstance(asked, str) else self.position, position, message
        )
        self.position, self._seq, self._left = position, None, None
        self._heard = position is not None
        self._forget()
        self._begun.clear()
        self._pending = set(self._snapshots)
        return gap

    def advance(self, position: str) -> bool:
        """The channel heard everything up to there, says the server: whether that is news."""
        if not self.settled or self._parts or self._again or self.position in (None, position):
            return False
        self.position = position
        return True

    def fresh(self, seq: int | None, indices: set[int]) -> set[int]:
        """Those of the bindings that have not heard of this change; they have now."""
        self._heard = True
        if self._pending:  # no change comes before the last batch
            self._pending.clear()
        if seq is None or seq != self._seq:
            self._seq, self._seen = seq, indices
            return indices
        new = indices - self._seen
        self._seen = self._seen | new
        return new

    def part(self, marks: Sequence[Mark], last: bool) -> list[bool]:
        """A part of a transaction with these changes, by number and bindings: which of them are new."""
        self._heard = True
        self._pending.clear()
        new = [mark[0] is None or mark not in self._parts for mark in marks]
        if last:
            self._forget()
        else:
            self._parts.update(mark for mark in marks if mark[0] is not None)
        return new

    def message(self, id_: str | None, position: str, *, again: bool) -> bool:
        """A message of the stream, which comes ``again`` from its position on: whether it is new."""
        new = id_ is None or id_ not in self._again
        if self._pending:  # until the snapshots are complete there is no place to keep
            return new
        self._heard, self.position = True, position
        if again and id_ is not None:
            self._again.add(id_)
        elif new:
            self._forget()
        return new

    def _forget(self) -> None:
        """What was heard does not come again."""
        self._parts.clear()
        self._again.clear()

    def batch(self, indices: Iterable[int], last: bool) -> tuple[bool, bool]:
        """A batch of a snapshot: whether it is the first, and whether all snapshots are complete."""
        indices = set(indices)
        self._heard = True
        self._pending |= indices
        first = not indices & self._begun
        self._begun |= indices
        if last:
            self._begun -= indices
            self._pending -= indices
        return first, self.settled
