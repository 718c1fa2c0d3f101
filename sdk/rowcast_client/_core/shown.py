"""Shown: what a channel shows of itself, and the calls that change it.

What the server has taken is told it again with each join. A call that somebody awaits is said again with the
next join where the connection ended before its answer; one that the server ended the channel after is not, as
it may be what ended it. What was untracked is not shown again, whatever became of the call.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from ..errors import RowcastError
from .answers import unsent
from .calls import interrupted
from .frames import ReplyPayload, encode
from .wants import Report, Send, Settle, Want

_AGAIN = "what was shown before is shown again"


@dataclass(slots=True, eq=False)
class _Call:
    """``payload`` is an object's JSON; None to show nothing. ``number`` is whose, None where nobody waits."""

    payload: bytes | None
    number: int | None
    ref: str | None = None


class Shown:
    """Of one channel."""

    def __init__(self, topic: str, next_ref: Callable[[], str]) -> None:
        self._topic, self._next_ref = topic, next_ref
        self._tracked: bytes | None = None
        self._calls: list[_Call] = []

    def show(self, payload: bytes | None, number: int, join_ref: str | None) -> Iterator[Want]:
        """Show this from now on, or nothing. ``join_ref`` is None while the channel is not joined."""
        if payload is None:
            self._tracked = None
            if join_ref is None and not self._calls:
                yield Settle(self._topic, number, None)
                return
        call = _Call(payload, number)
        self._calls.append(call)
        if join_ref is not None:
            yield self._say(call, join_ref)

    def forget(self, number: int) -> None:
        """Nobody waits for this any more. What the server was not told yet, it is not told."""
        for call in [call for call in self._calls if call.number == number]:
            if call.ref is None:
                self._calls.remove(call)
            call.number = None

    def joined(self, join_ref: str) -> Iterator[Want]:
        """The channel is joined."""
        if self._tracked is not None and all(call.payload is not None for call in self._calls):
            self._calls.insert(0, _Call(self._tracked, None))
        for call in self._calls:
            yield self._say(call, join_ref)

    def answered(self, ref: str | None, reply: ReplyPayload) -> Iterator[Want]:
        """An answer, perhaps to one of these calls."""
        call = next((call for call in self._calls if ref is not None and call.ref == ref), None)
        if call is None:
            return
        self._calls.remove(call)
        error = None if reply.status == "ok" else unsent(reply.response)
        if error is None and all(later.payload is not None for later in self._calls):
            self._tracked = call.payload
        if call.number is not None:
            yield Settle(self._topic, call.number, error)
        elif error is not None:
            yield Report(error)

    def offline(self) -> None:
        """The connection ended."""
        self._calls = [call for call in self._calls if call.number is not None]
        for call in self._calls:
            call.ref = None

    def ended(self, why: RowcastError) -> Iterator[Want]:
        """The server ended the channel."""
        said = [call for call in self._calls if call.ref is not None]
        self._calls = [call for call in self._calls if call.ref is None]
        yield from self._settle(said, interrupted(why, _AGAIN))

    def left(self, why: RowcastError) -> Iterator[Want]:
        """We left."""
        calls, self._calls, self._tracked = self._calls, [], None
        yield from self._settle(calls, interrupted(why, "nothing is shown"))

    def _settle(self, calls: list[_Call], error: RowcastError) -> Iterator[Want]:
        for call in calls:
            if call.number is not None:
                yield Settle(self._topic, call.number, error)

    def _say(self, call: _Call, join_ref: str) -> Want:
        call.ref = self._next_ref()
        said: dict[str, object] = {"type": "presence", "event": "untrack"}
        if call.payload is not None:
            said |= {"event": "track", "payload": msgspec.Raw(call.payload)}
        return Send(encode(join_ref, call.ref, self._topic, "presence", said))
