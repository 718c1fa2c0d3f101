"""Saying: what a channel says to the server beyond its join, and who awaits what was said."""

from collections.abc import Callable, Iterator

from ..errors import RowcastError
from .broadcasts import Said, push
from .calls import Calls
from .frames import ReplyPayload
from .shown import Shown
from .wants import Send, Want


class Saying:
    """Of one channel: its broadcasts, which are said once, and what it shows of itself, until it does not."""

    def __init__(self, topic: str, next_ref: Callable[[], str]) -> None:
        self._topic, self._next_ref = topic, next_ref
        self._calls, self._shown = Calls(topic), Shown(topic, next_ref)

    def broadcast(self, join_ref: str, said: Said, number: int | None) -> Iterator[Send]:
        """Send this. With a ``number`` its answer is awaited."""
        ref = self._next_ref()
        if number is not None:
            self._calls.said(ref, number)
        yield Send(push(join_ref, ref, self._topic, said))

    def show(self, payload: bytes | None, number: int, join_ref: str | None) -> Iterator[Want]:
        """Show this from now on, or nothing. ``join_ref`` is None while the channel is not joined."""
        return self._shown.show(payload, number, join_ref)

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self._calls.forget(number)
        self._shown.forget(number)

    def joined(self, join_ref: str) -> Iterator[Want]:
        """The channel is joined."""
        return self._shown.joined(join_ref)

    def answered(self, ref: str | None, reply: ReplyPayload) -> Iterator[Want]:
        """An answer, perhaps to something that was said."""
        yield from self._calls.answered(ref, reply)
        yield from self._shown.answered(ref, reply)

    def offline(self, why: RowcastError) -> Iterator[Want]:
        """The connection ended."""
        self._shown.offline()
        yield from self._calls.lost(why)

    def ended(self, why: RowcastError) -> Iterator[Want]:
        """The server ended the channel."""
        yield from self._calls.lost(why)
        yield from self._shown.ended(why)

    def left(self, why: RowcastError) -> Iterator[Want]:
        """We left."""
        yield from self._calls.lost(why)
        yield from self._shown.left(why)
