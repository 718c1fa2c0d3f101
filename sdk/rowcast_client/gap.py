"""Gap: changes that a channel will not hear of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gap:
    """Changes between two positions are missing. The channel is joined all the same, and goes on.

    ``reason`` is ``retention`` (they are no longer kept), ``history`` (the database was restored or promoted,
    or its changes went uncaptured), ``future`` (the database does not know of the position yet),
    ``unreadable`` (the position is none of this database's), ``behind`` (the channel's filters or policies
    fell too far behind), or ``snapshot`` (the connection ended before the channel's snapshots were complete,
    and its entries without one went on later).
    """

    reason: str
    from_position: str | None
    """The position asked for, or the last one heard of; None where there was none."""
    position: str | None
    """Where the channel goes on."""
    message: str
    """The server's words."""
