"""How many changes a second find their subscribers, by how many there are; what encoding a change costs."""

import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import asyncpg

from rowcast.capture.filters import Filters, answer
from rowcast.capture.relations import Relations
from rowcast.capture.watching import watch
from rowcast.db.migrations import migrate
from rowcast.dev.postgres import Postgres
from rowcast.hub.feed import Subscriber
from rowcast.hub.lanes import Lane
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.binding import Binding, parse_binding
from rowcast.model.change import Change, Op, Relation
from rowcast.model.claims import Subject
from rowcast.model.filter import Condition
from rowcast.model.predicate import Ask, Column, Predicate, Truth, make_predicate
from rowcast.model.reading import Reading
from rowcast.protocol.changes import encode_data
from rowcast.protocol.messages import Version
from rowcast.protocol.rows import row_of

SIZES = (1_000, 10_000, 100_000)
RANGES, PATTERNS = 100, 20
CHANGES = 2_000
BATCH = 200
ROUNDS = 5
ROLE = "anon"

_SETUP = """
create table events (id int8 primary key, room int4, name text, price numeric, at timestamptz, note text);
create table plain (id int8 primary key, n int4, big int8, name text, at timestamptz);
create table rewritten (id int8 primary key, n float8, raw bytea, doc json, name text);
grant select on events, plain, rewritten to anon;
"""
_PLAIN = (
    b'{"id":1,"n":5,"big":9007199254740993,"name":"a name of some length","at":"2026-01-01T00:00:00+00:00"}'
)
_REWRITTEN = (
    rb'{"id":1,"n":1.5e+20,"raw":"\\xdeadbeef","doc":{"b" : 1, "a": [1e3]},"name":"a name of some length"}'
)


class _Nowhere:
    """Takes frames, and counts them."""

    pipe = None

    def __init__(self) -> None:
        self.frames = 0

    def waiting(self) -> int:
        return 0

    def write(self, frames: Sequence[bytes]) -> None:
        self.frames += len(frames)

    def close(self, code: int, reason: str) -> None: ...

    def abort(self) -> None: ...


async def measure(server: Postgres) -> dict[str, tuple[float, float]]:
    """Ratios by name, each with its bar."""
    await migrate(server.dsn)
    connection = await asyncpg.connect(server.dsn)
    await connection.execute(_SETUP)
    for table in ("events", "plain", "rewritten"):
        await watch(connection, table)
    relations = Relations()
    found = await connection.fetch("select relation from rowcast.captured")
    await relations.load(connection, [record["relation"] for record in found])
    by_table = {relations[record["relation"]].table: relations[record["relation"]] for record in found}
    rates: dict[int, float] = {}
    for size in SIZES:
        rates[size] = await _matched(connection, by_table["events"], size)
        print(f"  {size:,} subscriptions: {rates[size]:,.0f} changes/s", flush=True)
    await connection.close()
    spliced = _encoded(by_table["plain"], _PLAIN)
    rewritten = _encoded(by_table["rewritten"], _REWRITTEN)
    print(f"  encoding: {spliced * 1e6:.1f} µs spliced, {rewritten * 1e6:.1f} µs rewritten", flush=True)
    return {
        "changes/s with 100,000 equality subscriptions ÷ with 1,000": (
            rates[SIZES[-1]] / rates[SIZES[0]],
            0.5,
        ),
        "encoding a change, spliced ÷ rewritten (µs)": (spliced / rewritten, 0.0),
    }


async def _matched(connection: asyncpg.Connection, relation: Relation, size: int) -> float:
    subscriptions, sink = Subscriptions(limit=1 << 20), _Nowhere()
    filters = Filters()
    for number in range(RANGES):
        await _subscribe(subscriptions, sink, filters, connection, relation, f"price=gt.{number * 10}")
    for number in range(PATTERNS):
        await _subscribe(subscriptions, sink, filters, connection, relation, f"name=like.%{number}%")
    # Cast here and not by Postgres, which would take longer than the measurement.
    columns = {"room": Column("int4", "pg_catalog.int4")}
    for number in range(size):
        binding = _binding(f"room=eq.{number}")
        assert isinstance(binding.filter, Condition)
        values = {binding.filter: (str(number).encode(),)}
        _attach(subscriptions, sink, binding, relation, make_predicate(binding.filter, columns, values))
    changes = [_change(relation, number, size) for number in range(CHANGES)]
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for first in range(0, CHANGES, BATCH):
            await _publish(connection, subscriptions, changes[first : first + BATCH])
        times.append(time.perf_counter() - began)
    assert subscriptions.counts.messages >= CHANGES * ROUNDS
    return CHANGES / median(times)


def _binding(text: str) -> Binding:
    return parse_binding({"event": "*", "schema": "public", "table": "events", "filter": text})


async def _subscribe(
    subscriptions: Subscriptions,
    sink: _Nowhere,
    filters: Filters,
    connection: asyncpg.Connection,
    relation: Relation,
    text: str,
) -> None:
    binding = _binding(text)
    predicate = await filters.prepare(connection, relation, binding, ROLE)
    assert predicate is not None
    _attach(subscriptions, sink, binding, relation, predicate)


def _attach(
    subscriptions: Subscriptions, sink: _Nowhere, binding: Binding, relation: Relation, predicate: Predicate
) -> None:
    subscriber = Subscriber(f"realtime:{binding.id}", Version.V2, Lane(sink, sys.maxsize), lambda: None)
    subscriptions.attach(subscriber, [binding], Subject(ROLE), {binding: {relation.id: predicate}})


def _change(relation: Relation, number: int, size: int) -> Change:
    record = (
        f'{{"id":{number},"room":{number * 7919 % size},"name":"n{number}","price":{number % 50},'
        '"at":"2026-01-01T00:00:00+00:00","note":"some text of a row"}'
    )
    return Change(relation, Op.INSERT, record.encode(), None, number, "position", "2026-01-01T00:00:00.000Z")


async def _publish(
    connection: asyncpg.Connection, subscriptions: Subscriptions, changes: Sequence[Change]
) -> None:
    """As the server does it: what Postgres has to judge is asked once for the batch."""
    asks: dict[Ask, None] = {ask: None for change in changes for _, ask in subscriptions.asks(change)}
    rows = [row_of(change) for change in changes]
    answers: list[dict[Ask, Truth]] = await answer(connection, ROLE, list(asks), rows, 5.0)
    for change, given in zip(changes, answers, strict=True):
        subscriptions.publish(change, _everything, {ROLE: given})


def _everything(role: str, relation: Relation) -> Reading:
    return Reading()


def _encoded(relation: Relation, record: bytes) -> float:
    change = Change(relation, Op.INSERT, record, None, 1, "position", "2026-01-01T00:00:00.000Z")
    encode: Callable[[], object] = lambda: encode_data(change)  # noqa: E731
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CHANGES):
            encode()
        times.append((time.perf_counter() - began) / CHANGES)
    return median(times)
