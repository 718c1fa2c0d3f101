"""Calls: the broadcasts of a channel whose answer somebody awaits.

A broadcast is said once. Where the channel ends before its answer came, nobody knows whether it was sent, and
whoever awaits it is told so.
"""

from collections.abc import Iterator

from ..errors import ClientClosed, ConnectionLost, RowcastError, SendError
from .answers import unsent
from .frames import ReplyPayload
from .wants import Settle

UNKNOWN = "it is not known whether it was sent"


class Calls:
    """Of one channel. A call is known to the shell by a number, and to the server by a reference."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._numbers: dict[str, int] = {}
        self._refs: dict[int, str] = {}

    def said(self, ref: str, number: int) -> None:
        """It was said, and is to be answered."""
        self._numbers[ref], self._refs[number] = number, ref

    def forget(self, number: int) -> None:
        """Nobody waits for it any more."""
        if (ref := self._refs.pop(number, None)) is not None:
            del self._numbers[ref]

    def answered(self, ref: str | None, reply: ReplyPayload) -> Iterator[Settle]:
        """An answer, perhaps to one of them."""
        number = self._numbers.pop(ref, None) if ref is not None else None
        if number is not None:
            del self._refs[number]
            error = None if reply.status == "ok" else unsent(reply.response)
            yield Settle(self._topic, number, error)

    def lost(self, why: RowcastError) -> Iterator[Settle]:
        """No answer will come."""
        error = interrupted(why, UNKNOWN)
        numbers, self._numbers, self._refs = self._refs, {}, {}
        for number in numbers:
            yield Settle(self._topic, number, error)


def interrupted(why: RowcastError, then: str) -> RowcastError:
    """What ended a channel or its connection, told to whoever awaited an answer. ``then`` is what follows."""
    if isinstance(why, ClientClosed):
        return ClientClosed(f"the channel was left before the server answered; {then}")
    if isinstance(why, ConnectionLost):
        code = why.close_code
        return ConnectionLost(f"the connection ended before the server answered; {then}", close_code=code)
    return SendError(f"the channel ended before the server answered; {then}: {why.message}", code=why.code)
