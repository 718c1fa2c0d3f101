"""Who is attached anew, and from where it is told to resume."""

import asyncio
import contextlib
from typing import NoReturn

import pytest

from rowcast.auth.visibility import Visibility
from rowcast.capture.audiences import Audiences
from rowcast.capture.costs import Costs
from rowcast.capture.judging import Judging
from rowcast.capture.moves import Moves
from rowcast.capture.questions import Questions
from rowcast.hub.feed import Transaction
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.binding import parse_binding
from rowcast.model.claims import Subject
from rowcast.model.position import Position, Snapshot
from support.fanout import Listening

pytestmark = pytest.mark.anyio

HERE = Position(b"\0" * 6, Snapshot(5, ()))


@pytest.mark.parametrize("open_", [None, Transaction("before", "after", "", 0)])
async def test_a_channel_is_told_no_position_within_a_transaction_that_it_was_not_sent(
    open_: Transaction | None,
) -> None:
    def lose(reason: str) -> None:
        raise AssertionError(reason)

    async def unasked(*_: object) -> NoReturn:
        raise AssertionError("nothing waits")

    channel = Listening(group=True).subscriber
    channel.transaction = open_
    audiences = Audiences(Subscriptions(limit=1000))
    # Nothing waits there, and nothing is asked.
    questions = Questions(
        audiences.asking,
        lambda role, relation: None,
        1.0,
        lose,
        lambda subscriptions, relation: contextlib.nullcontext(),
        unasked,
        Judging(Visibility(["anon"]), unasked),
        Costs(1.0),
    )
    moves = Moves(audiences, questions, asyncio.Event(), lose, lambda subscriber: HERE)
    binding = parse_binding({"table": "notes"})
    attached = asyncio.ensure_future(moves.attach(channel, [binding], Subject("anon"), {}))
    await asyncio.sleep(0)
    moves.finish()
    assert await attached == (HERE.encode() if open_ is None else "before")
