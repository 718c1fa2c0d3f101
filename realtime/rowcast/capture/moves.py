"""Subscribers are attached by the reader, between two batches: each hears all from a position on.

Who begins to ask Postgres is moved while no change waits for an answer. Until then it was sent each change at
once; what waits would be sent to it again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rowcast.capture.audiences import Audiences
from rowcast.capture.questions import Questions
from rowcast.hub.feed import Subscriber
from rowcast.hub.subscriptions import Predicates
from rowcast.model.binding import Binding
from rowcast.model.claims import Subject
from rowcast.model.position import Position

#: So long the reader waits for answers.
_WAIT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Move:
    """A subscriber to be attached. ``done`` gets the position from which it hears."""

    subscriber: Subscriber
    bindings: Sequence[Binding]
    subject: Subject
    ready: Mapping[Binding, Predicates]
    judged: bool
    done: asyncio.Future[str | None]


class Moves:
    """Moves that are wanted. ``wake`` wakes the reader; ``lose`` tells who asks that changes are missing;
    ``here`` says up to where rows were handed out, and ``here_of`` up to where they were to a subscriber."""

    def __init__(
        self,
        audiences: Audiences,
        questions: Questions,
        wake: asyncio.Event,
        lose: Callable[[str], None],
        here: Callable[[], Position | None],
        here_of: Callable[[Subscriber], Position | None],
    ) -> None:
        self._audiences, self._questions, self._wake, self._lose = audiences, questions, wake, lose
        self._here, self._here_of = here, here_of
        self._wanted: list[_Move] = []

    async def attach(
        self,
        subscriber: Subscriber,
        bindings: Sequence[Binding],
        subject: Subject,
        ready: Mapping[Binding, Predicates],
        *,
        judged: bool = False,
    ) -> str | None:
        """Attach a subscriber between two batches. Returns the position from which it hears."""
        done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._wanted.append(_Move(subscriber, bindings, subject, ready, judged, done))
        self._wake.set()
        return await done

    async def attach_again(self, subscribers: Sequence[Subscriber], *, judged: bool = False) -> None:
        """For the reader: these have to ask from now on, or have rows judged."""
        if subscribers:
            await self._quiet()
            for subscriber in subscribers:
                if (heard := self._audiences.hears(subscriber)) is not None:
                    self._audiences.attach(subscriber, *heard, judged=judged)

    async def make(self) -> None:
        """For the reader, between two batches: make the moves that are wanted."""
        if any(
            self._audiences.moves(one.subscriber, one.bindings, one.ready, judged=one.judged)
            for one in self._wanted
        ):
            await self._quiet()
        self.finish()

    def finish(self) -> None:
        """The same where no change waits, or those that did were forgotten."""
        wanted, self._wanted = self._wanted, []
        for one in wanted:
            if one.done.done():
                continue
            if not one.subscriber.gone:
                asked = one.subscriber in self._audiences.asking
                self._audiences.attach(
                    one.subscriber, one.bindings, one.subject, one.ready, judged=one.judged
                )
                if not asked:
                    present = self._here()
                    self._questions.begin(one.subscriber, None if present is None else present.encode())
            here, open_ = self._here_of(one.subscriber), one.subscriber.transaction
            # Of a transaction that is open it was sent nothing yet.
            at = open_.before if open_ is not None else None if here is None else here.encode()
            one.done.set_result(at)

    async def _quiet(self) -> None:
        """Wait until no change waits: the reader alone puts them there, and it waits here."""
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._questions.drain()
        except TimeoutError:
            self._lose("filters that Postgres judges got no answer")
