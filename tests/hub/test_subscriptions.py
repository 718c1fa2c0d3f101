"""Who hears a change, what the fan-out sends, and how large it may get."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rowcast.hub.feed import Subscriber
from rowcast.hub.lanes import Lane
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.binding import Binding, parse_binding
from rowcast.model.change import Change, Column, Op, Relation
from rowcast.model.claims import Subject
from rowcast.model.filter import Condition
from rowcast.model.predicate import Column as Compared
from rowcast.model.predicate import Predicate, make_predicate
from rowcast.model.reading import Reading
from rowcast.protocol.frames import payload_of
from rowcast.protocol.messages import Version
from support.streams import Kept

pytestmark = pytest.mark.anyio

LIMIT = 4_096
NOTES = Relation(1, 1, "public", "notes", (Column("id", "int4"), Column("body", "text")), frozenset({"id"}))

ANON = Subject("anon")


def whole(role: str, relation: Relation) -> Reading:
    return Reading()


class Frames(Kept):
    """Keeps whole payloads."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[bytes] = []

    def write(self, frames: Sequence[bytes]) -> None:
        self.payloads += [payload_of(frame)[1] for frame in frames]


def insert(size: int) -> Change:
    record = json.dumps({"id": 1, "body": "x" * size}).encode()
    return Change(NOTES, Op.INSERT, record, None, 1, "position", "2026-01-01T00:00:00.000Z")


def sent(change: Change, topic: str, version: Version) -> bytes:
    """The one message that a subscriber of everything is sent."""
    subscriptions, sink = Subscriptions(limit=LIMIT), Frames()
    lane = Lane(sink, sys.maxsize)
    subscriber = Subscriber(topic, version, lane, lambda: None)
    subscriptions.attach(subscriber, [parse_binding({"event": "*", "schema": "public"})], ANON)
    subscriptions.publish(change, whole)
    lane.flush()
    (payload,) = sink.payloads
    return payload


@pytest.mark.parametrize("version", list(Version))
@pytest.mark.parametrize("topic", ["realtime:a", "realtime:" + "long" * 200])
async def test_the_limit_bounds_the_whole_message_and_not_only_its_data(version: Version, topic: str) -> None:
    whole = len(sent(insert(0), topic, version))
    fits = sent(insert(LIMIT - whole), topic, version)
    over = sent(insert(LIMIT - whole + 1), topic, version)
    assert len(fits) == LIMIT
    assert b'"errors":null' in fits
    assert len(over) <= LIMIT
    assert b'"errors":["Error 413: Payload Too Large"]' in over
    assert b'"record":{"id":1}' in over


NAMES = ("a", "b")
# A table may be called "*".
TABLES = [
    Relation(number, number, schema, table, NOTES.columns, frozenset({"id"}))
    for number, (schema, table) in enumerate([*((s, t) for s in NAMES for t in NAMES), ("a", "*")], start=1)
]
OPS = [Op.INSERT, Op.UPDATE, Op.DELETE, Op.TRUNCATE]
BINDINGS = st.builds(
    lambda event, schema, table, value, select: parse_binding(
        {"event": event, "schema": schema, "table": table}
        | ({} if value is None else {"filter": f"id=eq.{value}"})
        | ({"select": ["body"]} if select and "*" not in (schema, table) else {})
    ),
    st.sampled_from(["*", "INSERT", "UPDATE", "DELETE"]),
    st.sampled_from([*NAMES, "*"]),
    st.sampled_from([*NAMES, "*"]),
    st.none() | st.none() | st.integers(0, 1),
    st.booleans(),
)


def passes(binding: Binding, relation: Relation, op: Op, value: int) -> bool:
    """Whether a binding is for a row with this ``id``."""
    match binding.filter:
        case Condition(value=text):
            passed = text == str(value) and op is not Op.TRUNCATE
        case _:
            passed = True
    return (
        passed
        and binding.schema in (relation.schema, "*")
        and binding.table in (relation.table, "*")
        and op in ({"INSERT", "UPDATE", "DELETE"} if binding.event == "*" else {binding.event})
    )


def predicates(bindings: Sequence[Binding]) -> dict[Binding, dict[int, Predicate]]:
    return {
        binding: {
            relation.id: make_predicate(
                binding.filter,
                {"id": Compared("int4", "int4")},
                {binding.filter: (binding.filter.value.encode(),)},
            )
            for relation in TABLES
        }
        for binding in bindings
        if isinstance(binding.filter, Condition)
    }


class WhoHears(RuleBasedStateMachine):
    """Subscribers come, change and leave between changes, against the list of their bindings."""

    def __init__(self) -> None:
        super().__init__()
        self.subscriptions = Subscriptions(limit=sys.maxsize)
        self.sinks = [Frames() for _ in range(3)]
        # A turn of the loop is never waited for: lanes are flushed.
        self.loop = asyncio.new_event_loop()
        self.subscribers = [
            Subscriber(f"realtime:{topic}", Version.V2, Lane(sink, sys.maxsize, self.loop), lambda: None)
            for topic, sink in zip("xxy", self.sinks, strict=True)
        ]
        self.bindings: dict[int, Sequence[Binding]] = {}

    @rule(number=st.integers(0, 2), bindings=st.lists(BINDINGS, max_size=4, unique=True))
    def attaches(self, number: int, bindings: list[Binding]) -> None:
        self.bindings[number] = bindings
        self.subscriptions.attach(self.subscribers[number], bindings, ANON, predicates(bindings))

    @rule(number=st.integers(0, 2))
    def detaches(self, number: int) -> None:
        self.bindings.pop(number, None)
        self.subscriptions.detach(self.subscribers[number])

    @rule(relation=st.sampled_from(TABLES), op=st.sampled_from(OPS), value=st.integers(0, 2))
    def changes(self, relation: Relation, op: Op, value: int) -> None:
        image = None if op is Op.TRUNCATE else json.dumps({"id": value, "body": "x"}).encode()
        record, old = None if op is Op.DELETE else image, None if op is Op.INSERT else image
        change = Change(relation, op, record, old, 1, "position", "2026-01-01T00:00:00.000Z")
        hearers = self.subscriptions.hearers(relation)
        wanted: dict[int, list[list[int]]] = {number: [] for number in range(3)}
        for number, bindings in self.bindings.items():
            meant = [one for one in bindings if passes(one, relation, op, value)]
            for select in {one.select for one in meant}:
                wanted[number].append(sorted(one.id for one in meant if one.select == select))
            assert not meant or (
                self.subscribers[number] in hearers
                and self.subscriptions.known(relation)
                and self.subscriptions.heard(relation, op)
            )
        self.subscriptions.publish(change, whole)
        for number, (subscriber, sink) in enumerate(zip(self.subscribers, self.sinks, strict=True)):
            subscriber.lane.flush()
            sent = [json.loads(payload) for payload in sink.payloads]
            sink.payloads.clear()
            assert sorted(sorted(message[4]["ids"]) for message in sent) == sorted(wanted[number])
            assert all(message[4]["data"]["table"] == relation.table for message in sent)

    @rule(relation=st.sampled_from(TABLES))
    def forgets(self, relation: Relation) -> None:
        ready = {one: self.subscriptions.predicates(self.subscribers[one]) for one in self.bindings}
        self.subscriptions.forget({relation.id})
        for number, found in ready.items():
            bindings = self.bindings[number]
            self.subscriptions.attach(self.subscribers[number], bindings, ANON, found)

    @invariant()
    def nothing_is_kept_once_nobody_is_there(self) -> None:
        kept = self.subscriptions
        if not any(self.bindings.values()):
            assert not any((kept._by_place, kept._groups, kept._narrower, kept._listeners, kept._indexes))
        assert len(kept) == len(self.bindings)

    def teardown(self) -> None:
        for subscriber in self.subscribers:
            subscriber.lane.end()
            self.subscriptions.detach(subscriber)
        self.bindings.clear()
        self.nothing_is_kept_once_nobody_is_there()
        self.loop.close()


TestWhoHears = WhoHears.TestCase


async def test_nothing_is_kept_for_tables_that_nobody_hears_however_many_change() -> None:
    subscriptions = Subscriptions(limit=LIMIT)
    lane = Lane(Frames(), sys.maxsize)
    subscriber = Subscriber("realtime:a", Version.V2, lane, lambda: None)
    bindings = [
        parse_binding({"schema": "public", "table": "other"}),
        parse_binding({"schema": "public", "table": "filtered", "filter": "id=eq.1"}),
    ]
    for some in (bindings[:1], bindings):
        subscriptions.attach(subscriber, some, ANON)
        before = len(subscriptions._groups), len(subscriptions._indexes)
        for number in range(10):
            relation = replace(NOTES, id=number, table=f"t{number}")
            assert not subscriptions.heard(relation, Op.INSERT)
            assert not list(subscriptions.asks(replace(insert(0), relation=relation)))
            subscriptions.publish(replace(insert(0), relation=relation), whole)
        assert (len(subscriptions._groups), len(subscriptions._indexes)) == before
    subscriptions.detach(subscriber)


@pytest.mark.parametrize(
    "names",
    [
        [("public", "notes"), ("public", "*")],
        [("public", "notes"), ("*", "notes")],
        [("public", "*"), ("*", "notes")],
        [("public", "*"), ("*", "*")],
        [("*", "notes"), ("public", "notes"), ("*", "*"), ("public", "*")],
    ],
)
async def test_two_names_for_one_table_are_one_message(names: list[tuple[str, str]]) -> None:
    subscriptions, sink = Subscriptions(limit=LIMIT), Frames()
    lane = Lane(sink, sys.maxsize)
    subscriber = Subscriber("realtime:a", Version.V2, lane, lambda: None)
    bindings = [parse_binding({"schema": schema, "table": table}) for schema, table in names]
    subscriptions.attach(subscriber, bindings, ANON)
    subscriptions.publish(insert(0), whole)
    lane.flush()
    (payload,) = sink.payloads
    assert sorted(json.loads(payload)[4]["ids"]) == sorted(binding.id for binding in bindings)


async def test_a_table_that_is_called_like_all_tables_is_heard_once() -> None:
    subscriptions, sink = Subscriptions(limit=LIMIT), Frames()
    lane = Lane(sink, sys.maxsize)
    subscriber = Subscriber("realtime:a", Version.V2, lane, lambda: None)
    subscriptions.attach(subscriber, [parse_binding({"schema": "public", "table": "*"})], ANON)
    starred = replace(insert(0), relation=replace(NOTES, table="*"))
    subscriptions.publish(starred, whole)
    lane.flush()
    assert len(sink.payloads) == 1


def asking(pattern: str, table: str = "notes") -> tuple[Binding, Predicate]:
    """A binding whose filter Postgres judges."""
    binding = parse_binding(
        {"event": "*", "schema": "public", "table": table, "filter": f"body=like.{pattern}"}
    )
    assert binding.filter is not None
    return binding, make_predicate(binding.filter, {"body": Compared("text", "text")}, {})


async def test_a_condition_is_taken_from_those_who_have_it_on_that_version_of_a_table_alone() -> None:
    subscriptions = Subscriptions(limit=LIMIT)
    newer = replace(NOTES, id=2)
    (one, slow), (other, fine) = asking("a%"), asking("b%")
    both, old, new = (
        Subscriber(f"realtime:{number}", Version.V2, Lane(Kept(), LIMIT), lambda: None) for number in range(3)
    )
    subscriptions.attach(both, [one, other], ANON, {one: {1: slow}, other: {1: fine}})
    subscriptions.attach(old, [one], ANON, {one: {1: slow}})
    subscriptions.attach(new, [other], ANON, {other: {1: fine, 2: fine}})
    (ask,) = slow.asks
    assert list(subscriptions.askers(NOTES, ask)) == [both, old]
    assert list(subscriptions.askers(newer, ask)) == []
    assert subscriptions.without(newer, ask) == []
    assert subscriptions.without(NOTES, ask) == [both, old]
    assert list(subscriptions.askers(NOTES, ask)) == []
    assert subscriptions.bindings(both) == (other,)
    assert [asked for _, asked in subscriptions.asks(insert(1))] == [*fine.asks]


async def test_the_version_moves_when_a_filter_becomes_ready() -> None:
    subscriptions = Subscriptions(limit=LIMIT)
    binding, predicate = asking("a%")
    subscriber = Subscriber("realtime:a", Version.V2, Lane(Kept(), LIMIT), lambda: None)
    subscriptions.attach(subscriber, [binding], ANON)
    (listeners,) = subscriptions.index(NOTES).missing
    before = subscriptions.version
    subscriptions.ready(listeners, {NOTES.id: predicate})
    assert subscriptions.version > before
    subscriptions.ready(listeners, {NOTES.id: predicate})
    assert subscriptions.version == before + 1
