"""Channels that hear messages as a part of the stream, against real writers: in one order with their changes,
and from every position on, nothing is missed and nothing comes twice."""

import asyncio
import base64
import contextlib
import json
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from rowcast.capture import questions
from rowcast.capture.snapshots import Snapshots, Taken
from rowcast.capture.stream import Stream
from rowcast.hub.feed import Hearing, Subscriber
from rowcast.hub.lanes import Lane
from rowcast.model.binding import parse_binding
from rowcast.model.claims import Claims
from rowcast.protocol.frames import payload_of
from rowcast.protocol.messages import Version
from support.resuming import arrived
from support.streams import SERVICE, Kept, streaming
from support.waiting import until

pytestmark = pytest.mark.anyio

NOTES = {"event": "*", "schema": "public", "table": "notes"}
#: What a channel may hear beside its messages: nothing, changes at once, after Postgres judged them, by the
#: transaction.
KINDS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "messages alone": ([], False),
    "changes": ([NOTES], False),
    "judged changes": ([NOTES | {"filter": "body=like.x%"}], False),
    "transactions": ([NOTES], True),
    "judged transactions": ([NOTES | {"filter": "body=like.x%"}], True),
}
SNAPSHOT = {"a snapshot": ([NOTES | {"snapshot": True}], False)}
NOBODY = Claims(role="nobody", expires_at=2e9, raw={"role": "nobody"})


class Heard(Kept):
    """A client that keeps its place as a client should: messages of which it was told that they come again
    are dropped then."""

    def __init__(self, place: str | None = None) -> None:
        super().__init__()
        self.place = place
        self.items: list[tuple[str, int]] = []
        #: How it stood after each message of the socket, by the items that it had then.
        self.states: dict[int, tuple[str | None, set[str]]] = {0: (place, set())}
        self.again: set[str] = set()

    def write(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            *_, event, payload = json.loads(payload_of(frame)[1])
            if event == "broadcast":
                id_, again = payload["meta"]["id"], "again" in payload["meta"]
                position, dropped = payload["meta"]["position"], id_ in self.again
                if not dropped:
                    self._hear(("message", payload["payload"]["n"]), position)
                self.place = position
                self.again = self.again | {id_} if again else set()
            elif event == "transaction":
                assert payload["last"]
                for change in payload["changes"]:
                    self._hear(_change(change["data"]), payload["position"])
            elif event == "postgres_changes":
                self._hear(_change(payload["data"]), payload["data"]["position"])
            self.states[len(self.items)] = (self.place, self.again)
        self._more.set()

    def _hear(self, item: tuple[str, int], position: str) -> None:
        self.place = position
        if item[0] == "change":
            self.again = set()
        self.items.append(item)

    def cut(self) -> "Heard":
        """The same client after a cut, when it comes back."""
        back = Heard(self.place)
        back.items, back.again = self.items, self.again
        return back


def _change(data: dict[str, Any]) -> tuple[str, int]:
    return "change", data["record"]["id"]


async def heard(stream: Stream, kind: str, client: Heard, topic: str = "room") -> Heard:
    """Subscribe a client as one of KINDS, or with a snapshot, from its place on if it has one."""
    entries, group = (KINDS | SNAPSHOT)[kind]
    client.subscriber = Subscriber(
        f"realtime:{topic}",
        Version.V2,
        Lane(client, 1 << 30),
        client.lost,
        told=client.tell,
        missed=client.missed,
        gap=True,
        group=group,
        hearing=Hearing(topic, True, lambda frame, _: client.subscriber.lane.push(frame)),
    )
    result = await stream.subscribe(
        client.subscriber, [parse_binding(entry) for entry in entries], SERVICE, client.place
    )
    assert result.ok, result.refused
    client.place = client.place or result.position
    client.position = result.position
    return client


async def said(connection: asyncpg.Connection, number: int, topic: str = "room") -> None:
    await connection.execute("select realtime.send(jsonb_build_object('n', $1::int), 'e', $2)", number, topic)


async def written(connection: asyncpg.Connection, seed: int, transactions: int) -> list[tuple[str, int]]:
    """Transactions of changes and messages in random order, some for nobody. What is to be heard."""
    rng, told = random.Random(seed), []
    for number in range(0, transactions * 10, 10):
        async with connection.transaction():
            for place in range(number, number + rng.randint(1, 5)):
                if rng.random() < 0.5:
                    await connection.execute("insert into notes values ($1, 'a', 'x')", place)
                    told.append(("change", place))
                else:
                    await said(connection, place)
                    told.append(("message", place))
                if rng.random() < 0.2:
                    await said(connection, place, "elsewhere")
                    await connection.execute("insert into others values ($1)", place)
    return told


def whole(kind: str, told: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """What a channel of a kind hears, in its order: messages come before the rest of their transaction where
    changes are sent by it."""
    told = [item for item in told if KINDS[kind][0] or item[0] == "message"]
    return sorted(told, key=lambda item: (item[1] // 10, item[0] == "change")) if KINDS[kind][1] else told


@pytest.mark.parametrize("kind", KINDS)
async def test_from_every_position_on_nothing_is_missed_and_nothing_comes_twice(
    migrated: str, notes: asyncpg.Connection, kind: str
) -> None:
    async with streaming(migrated, page_size=7) as stream:
        first = await heard(stream, kind, Heard())
        first.states[0] = (first.place, set())
        expected = whole(kind, await written(notes, 1, 12))
        await first.until(lambda: len(first.items) == len(expected))
        assert first.items == expected
        for count, (place, again) in first.states.items():
            late = Heard(place)
            late.items, late.again = list(expected[:count]), again
            await heard(stream, kind, late)
            await late.until(lambda late=late: len(late.items) >= len(expected))  # type: ignore[misc]
            await arrived(stream)
            assert late.items == expected
            stream.unsubscribe(late.subscriber)


async def test_clients_that_are_cut_again_and_again_hear_all_once_and_in_order(
    migrated: str, notes: asyncpg.Connection
) -> None:
    rng = random.Random(7)
    async with streaming(migrated, page_size=5) as one, streaming(migrated, page_size=11) as other:
        clients = {kind: await heard(one, kind, Heard()) for kind in KINDS}
        nodes = dict.fromkeys(KINDS, one)
        writing = asyncio.create_task(written(notes, 2, 60))
        while not writing.done():
            kind = rng.choice(list(KINDS))
            await clients[kind].until(lambda: bool(rng.randint(0, 2)) or writing.done())
            nodes[kind].unsubscribe(clients[kind].subscriber)
            nodes[kind] = rng.choice([one, other])
            clients[kind] = await heard(nodes[kind], kind, clients[kind].cut())
        told = await writing
        for kind, client in clients.items():
            expected = whole(kind, told)
            await client.until(lambda client=client, expected=expected: len(client.items) >= len(expected))  # type: ignore[misc]
            await arrived(nodes[kind])
            assert client.items == expected
            assert not client.gaps
            assert client.losses == 0


@pytest.mark.parametrize("kind", ["judged changes", "judged transactions"])
async def test_who_stops_hearing_changes_and_begins_again_hears_its_messages_in_order(
    migrated: str, notes: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    go, answered = asyncio.Event(), questions.Questions._answered

    async def later(self: questions.Questions, *more: Any) -> Any:
        await go.wait()
        return await answered(self, *more)

    monkeypatch.setattr(questions.Questions, "_answered", later)
    async with streaming(migrated) as stream:
        bindings = [parse_binding(entry) for entry in KINDS[kind][0]]
        client, other = await heard(stream, kind, Heard()), Heard()
        async with notes.transaction():
            await notes.execute("insert into notes values (0, 'a', 'x')")
            await said(notes, 1)
        await stream._present.read_once()
        # Its role may read nothing any more: what was written before is heard first.
        subscribing = asyncio.create_task(stream.subscribe(client.subscriber, bindings, NOBODY))

        async def is_wanted() -> bool:
            return bool(stream._live.moves._wanted) or subscribing.done()

        await until(is_wanted)
        await said(notes, 10)
        go.set()
        stopped = await subscribing
        await client.until(lambda: ("message", 10) in client.items)
        begin = whole(kind, [("change", 0), ("message", 1), ("message", 10)])
        assert client.items == begin
        late = await heard(stream, "messages alone", Heard(stopped.position))
        await late.until(lambda: late.items == [("message", 10)])
        # While the changes of others wait, it is let hear them again: those before are not for it.
        await heard(stream, kind, other)
        go.clear()
        async with notes.transaction():
            await notes.execute("insert into notes values (20, 'a', 'x')")
            await said(notes, 21)
        await client.until(lambda: ("message", 21) in client.items)
        began = await stream.subscribe(client.subscriber, bindings, SERVICE)
        await said(notes, 30)
        go.set()
        await client.until(lambda: ("message", 30) in client.items)
        assert client.items == [*begin, ("message", 21), ("message", 30)]
        late = await heard(stream, kind, Heard(began.position))
        await late.until(lambda: late.items == [("message", 30)])


async def test_messages_while_a_snapshot_is_taken_do_not_come_twice(
    migrated: str, notes: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, go, take = asyncio.Event(), asyncio.Event(), Snapshots.take

    @contextlib.asynccontextmanager
    async def later(*more: Any) -> AsyncIterator[Taken]:
        async with take(*more) as snapshot:
            taken.set()
            await go.wait()
            yield snapshot

    monkeypatch.setattr(Snapshots, "take", later)
    async with streaming(migrated) as stream:
        first, client = await heard(stream, "messages alone", Heard()), Heard()
        subscribing = asyncio.create_task(heard(stream, "a snapshot", client))
        await taken.wait()
        await said(notes, 1)
        await first.until(lambda: bool(first.items))
        # Those of its topic come as to everybody no more.
        hearing = client.subscriber.hearing
        assert hearing is not None
        assert hearing.began
        go.set()
        await subscribing
        await client.until(lambda: bool(client.items))
        assert client.items == [("message", 1)]


async def test_bytes_come_in_base64_and_other_topics_stay_apart(
    migrated: str, notes: asyncpg.Connection
) -> None:
    async with streaming(migrated) as stream:
        frames: list[dict[str, Any]] = []

        class Raw(Kept):
            def write(self, sent: Sequence[bytes]) -> None:
                frames.extend(json.loads(payload_of(one)[1])[4] for one in sent)
                self._more.set()

        kept = Raw()
        kept.subscriber = Subscriber(
            "realtime:room",
            Version.V2,
            Lane(kept, 1 << 20),
            kept.lost,
            hearing=Hearing("room", True, lambda frame, _: kept.subscriber.lane.push(frame)),
        )
        assert (await stream.subscribe(kept.subscriber, [], SERVICE)).ok
        await notes.execute("""
            select realtime.send('{}', 'public', 'room', false), realtime.send('{}', 'other', 'another'),
                   realtime.send_binary('\\xff00', 'bytes', 'room')
        """)
        await kept.until(lambda: bool(frames))
        (frame,) = frames
        assert (frame["event"], frame["meta"]["encoding"]) == ("bytes", "base64")
        assert base64.b64decode(frame["payload"]) == b"\xff\x00"
        # Who may not hear is not sent anything, from that moment on.
        assert kept.subscriber.hearing is not None
        kept.subscriber.hearing.allowed = False
        await said(notes, 1)
        await stream._present.settle()
        kept.subscriber.hearing.allowed = True
        await said(notes, 2)
        await kept.until(lambda: len(frames) == 2)
        assert frames[1]["payload"]["n"] == 2


async def test_messages_that_cannot_be_had_are_a_gap(migrated: str, notes: asyncpg.Connection) -> None:
    async with streaming(migrated) as stream:
        late = await heard(stream, "messages alone", Heard("no-position"))
        await late.until(lambda: bool(late.gaps))
        stream._lose("the database was promoted", "history")
        assert [gap.reason for gap in late.gaps] == ["unreadable", "history"]
        await said(notes, 1)
        await late.until(lambda: late.items == [("message", 1)])
