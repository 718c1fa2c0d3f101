"""A channel's subscription to row changes, while and after it is made."""

import asyncio
from dataclasses import dataclass

from rowcast.hub.feed import Subscriber
from rowcast.session.wants import Attach


@dataclass(slots=True)
class Subscription:
    """Made anew with each of a channel's tokens: one at a time, the latest that is wanted next.

    An attempt that is overtaken is not given up. It is newer than what stands, and somebody who sends tokens
    without end would else keep the rights of the first for ever. ``made`` says that one of them took.
    """

    subscriber: Subscriber
    made: bool = False
    wanted: Attach | None = None
    work: asyncio.Task[None] | None = None

    def take(self) -> Attach | None:
        """What is wanted, no longer."""
        want, self.wanted = self.wanted, None
        return want
