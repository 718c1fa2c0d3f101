"""How a role may read a table, and what somebody is shown of a change."""

from dataclasses import dataclass
from typing import NamedTuple

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reading:
    """A role reads a table without the columns that are ``hidden`` from it.

    ``judged``: row by row, as policies say for the claims of whoever looks. ``open_deletes``: a DELETE
    is for everybody, by its primary key alone.
    """

    judged: bool = False
    hidden: frozenset[str] = NOTHING
    open_deletes: bool = False


class Seen(NamedTuple):
    """Which images of a changed row somebody may see. The row is the one that the change is reported by.

    ``unsure``: Postgres did not say in time of one of them, which then counts as not seen.
    """

    row: bool
    old: bool
    unsure: bool = False


class View(NamedTuple):
    """What somebody is shown of a change.

    The columns ``select`` with the primary key (None is all), but none that is ``hidden``; of the old row
    those of the replica identity, or of ``old`` where it is given.
    """

    select: frozenset[str] | None = None
    hidden: frozenset[str] = NOTHING
    old: frozenset[str] | None = None
