"""Transaction: the changes of one transaction, as a ``transaction`` callback receives them."""

from dataclasses import dataclass
from datetime import datetime

from .change import Change


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a transaction changed, in order; of a very large one a part.

    A part has ``last`` false but for the final one, and the parts of a transaction follow each other. A part
    that is not the last carries the position before the transaction. After a gap the rest does not come.
    """

    changes: tuple[Change, ...]
    commit_timestamp: datetime | None
    """When it was committed, with zone."""
    position: str | None
    """Where the stream stands after it; opaque."""
    last: bool
