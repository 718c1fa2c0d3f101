"""Who is attached anew, and from where it is told to resume."""

import asyncio
import contextlib
from typing import Any, NoReturn

import asyncpg
import pytest

from rowcast.auth.visibility import Visibility
from rowcast.capture import questions
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
from support.streams import streaming, subscribed
from support.waiting import until

pytestmark = pytest.mark.anyio

NOTES = """
create table notes (id int primary key, body text);
create table others (id int primary key, body text);
grant select on notes, others to service_role;
alter publication supabase_realtime add table notes, others;
"""
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
        lambda subscribers, relation: lose("doubt"),
    )
    moves = Moves(audiences, questions, asyncio.Event(), lose, lambda: HERE, lambda subscriber: HERE)
    binding = parse_binding({"table": "notes"})
    attached = asyncio.ensure_future(moves.attach(channel, [binding], Subject("anon"), {}))
    await asyncio.sleep(0)
    moves.finish()
    assert await attached == (HERE.encode() if open_ is None else "before")


async def test_who_comes_to_ask_while_changes_wait_is_sent_what_comes_after_its_position_and_no_other(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute(NOTES)
    async with streaming(migrated) as stream:
        await subscribed(stream, "notes", "body=like.a%")
        go, answered = asyncio.Event(), questions.Questions._answered

        async def later(self: questions.Questions, *more: Any) -> Any:
            await go.wait()
            return await answered(self, *more)

        monkeypatch.setattr(questions.Questions, "_answered", later)
        await connection.execute("insert into notes values (1, 'a'); insert into others values (1, 'a')")
        await stream._present.read_once()
        # The first of these waits, the other was nobody's.
        subscribing = asyncio.create_task(subscribed(stream, "*", "body=like.a%"))

        async def is_attached() -> bool:
            return len(stream._live.audiences) == 2

        await until(is_attached)
        await connection.execute("insert into others values (2, 'a'); insert into notes values (2, 'a')")
        await stream._present.read_once()
        go.set()
        late = await subscribing
        await late.until(lambda: len(late.changes) == 2)
        await stream._present.settle()
        assert [(change["table"], change["record"]["id"]) for change in late.changes] == [
            ("others", 2),
            ("notes", 2),
        ]
        again = await subscribed(stream, "*", "body=like.a%", resume=late.position)
        await again.until(lambda: len(again.changes) == 2)
        assert [change["seq"] for change in again.changes] == [change["seq"] for change in late.changes]
        await connection.close()


async def test_who_came_while_changes_waited_is_nowhere_beyond_those_that_wait_for_it(
    migrated: str, notes: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = asyncio.Event()
    answered = Questions._answered

    async def late(self: Questions, *arguments: Any) -> Any:
        await held.wait()
        return await answered(self, *arguments)

    monkeypatch.setattr(Questions, "_answered", late)
    async with streaming(migrated) as stream:
        await subscribed(stream, "notes", "body=like.a%")
        await notes.execute("insert into notes values (1, null, 'a')")
        await stream._present.catch_up()
        came = await subscribed(stream, "notes", "body=like.%a")
        await notes.execute("insert into notes values (2, null, 'a')")
        await stream._present.catch_up()
        here = stream._live.here_of(came.subscriber)
        assert here is not None
        assert here.encode() == came.position
        resumed = await subscribed(stream, "notes", resume=here.encode())
        await resumed.until(lambda: bool(resumed.changes))
        held.set()
        await came.until(lambda: len(came.changes) == 1)
        assert [one.changes[0]["record"]["id"] for one in (came, resumed)] == [2, 2]
