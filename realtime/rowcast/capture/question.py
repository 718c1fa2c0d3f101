"""A question about rows, that is put to Postgres at once."""

from dataclasses import dataclass

from rowcast.hub.lanes import Lane
from rowcast.model.change import Relation
from rowcast.model.predicate import Ask, Truth


@dataclass(frozen=True, slots=True)
class Question:
    """Rows of one version of a table that one role asks about, by their place in the batch.

    ``payer`` is the connection at whose cost it is asked, where that is not everybody's. ``partly`` says that
    there are more rows.
    """

    relation: Relation
    role: str
    asks: tuple[Ask, ...]
    rows: tuple[int, ...]
    payer: Lane | None = None
    partly: bool = False

    def unknown(self) -> list[dict[Ask, Truth]]:
        """That nothing was answered."""
        return [dict.fromkeys(self.asks) for _ in self.rows]
