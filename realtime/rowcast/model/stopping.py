"""How far a server is on its way to its end. Who stops it says so here, and all its parts look."""

from dataclasses import dataclass


@dataclass(slots=True)
class Stopping:
    """``announced``: it says that it is not ready, so that others are given what comes.

    ``refusing``: it takes no new sockets; those that are open are served until each is closed.
    """

    announced: bool = False
    refusing: bool = False
