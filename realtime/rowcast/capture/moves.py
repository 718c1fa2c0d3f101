"""Who begins to ask Postgres: moved by the reader, while no change waits for an answer.

Until then such a subscriber was sent each change at once; what waits would be sent to it again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from rowcast.capture.audiences import Audiences
from rowcast.capture.questions import Questions
from rowcast.hub.feed import Subscriber
from rowcast.hub.subscriptions import Predicates
from rowcast.model.binding import Binding
from rowcast.model.claims import Subject

#: So long the reader waits for answers.
_WAIT_SECONDS: Final = 5.0


class Moves:
    """Moves that are wanted. ``wake`` wakes the reader; ``lose`` tells who asks that changes are missing."""

    def __init__(
        self,
        audiences: Audiences,
        questions: Questions,
        wake: asyncio.Event,
        lose: Callable[[str], None],
    ) -> None:
        self._audiences, self._questions, self._wake, self._lose = audiences, questions, wake, lose
        self._wanted: list[tuple[Callable[[], None], asyncio.Future[None]]] = []

    async def attach(
        self,
        subscriber: Subscriber,
        bindings: Sequence[Binding],
        subject: Subject,
        ready: Mapping[Binding, Predicates],
        *,
        judged: bool = False,
    ) -> None:
        """Attach a subscriber: at once, or by the reader's hand."""

        def attach() -> None:
            if not subscriber.gone:
                self._audiences.attach(subscriber, bindings, subject, ready, judged=judged)

        if not self._audiences.moves(subscriber, bindings, ready, judged=judged):
            attach()
            return
        done = asyncio.get_running_loop().create_future()
        self._wanted.append((attach, done))
        self._wake.set()
        await done

    async def attach_again(self, subscribers: Sequence[Subscriber], *, judged: bool = False) -> None:
        """For the reader: these have to ask from now on, or have rows judged."""
        if subscribers:
            await self._quiet()
            for subscriber in subscribers:
                if (heard := self._audiences.hears(subscriber)) is not None:
                    self._audiences.attach(subscriber, *heard, judged=judged)

    async def make(self) -> None:
        """For the reader: make the moves that are wanted."""
        if self._wanted:
            await self._quiet()
            self.finish()

    def finish(self) -> None:
        """The same where no change waits, or those that did were forgotten."""
        wanted, self._wanted = self._wanted, []
        for attach, done in wanted:
            if not done.done():
                attach()
                done.set_result(None)

    async def _quiet(self) -> None:
        """Wait until no change waits: the reader alone puts them there, and it waits here."""
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._questions.drain()
        except TimeoutError:
            self._lose("filters that Postgres judges got no answer")
