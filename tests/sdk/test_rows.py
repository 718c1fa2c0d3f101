"""Rows that are kept as they change."""

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast_client import (
    Client,
    ClientClosed,
    JoinError,
    RowcastError,
    RowChange,
    Rows,
    RowsError,
    TimedOut,
    UsageError,
)
from rowcast_client.change import read_change
from rowcast_client.snapshot import read_snapshot

pytestmark = pytest.mark.anyio

Connect = Callable[..., Client]
Table = dict[int, int]
TOPIC = "realtime:todos"


def rows_of(faults: list[RowcastError] | None = None, **options: Any) -> Rows:
    on_error = faults.append if faults is not None else None
    return Client("http://localhost", "key", on_error=on_error).channel("todos").rows("todos", **options)


def batch(rows: Rows, records: Iterable[Any], *, first: bool = True, last: bool = True, **more: Any) -> None:
    data = {"schema": "public", "table": "todos", "records": list(records), "key": ["id"], "last": last}
    rows._batch(read_snapshot(json.dumps(data | more).encode(), first))


def change(rows: Rows, kind: str, new: Any = None, old: Any = None, **more: Any) -> None:
    data = {"schema": "public", "table": "todos", "type": kind, "record": new, "old_record": old}
    rows._change(read_change(json.dumps(data | more).encode()))


def records(table: Table) -> list[dict[str, int]]:
    return [{"id": key, "v": value} for key, value in table.items()]


def pending(changes: Any) -> list[RowChange]:
    taken = list(changes._pending.values())
    changes._pending.clear()
    return taken


keys, values = st.integers(0, 3), st.integers(0, 2)
tables = st.dictionaries(keys, values)
steps = st.one_of(
    st.tuples(st.just("put"), keys, values),
    st.tuples(st.just("move"), keys, keys),
    st.tuples(st.sampled_from(["DELETE", "LEAVE"]), keys, values),
    st.tuples(st.just("TRUNCATE"), keys, values),
    st.tuples(st.just("gap"), tables, values),
    st.tuples(st.just("look"), keys, values),
)


@given(tables, st.lists(steps, max_size=30))
def test_rows_are_the_table_and_its_changes_add_up_to_it(table: Table, script: list[Any]) -> None:
    rows = rows_of()
    changes, folded = rows.__aiter__(), dict[int, Any]()
    batch(rows, records(table))
    for kind, key, value in script:
        if kind == "put":
            old = {"id": key} if key in table else None
            table[key] = value
            change(rows, "UPDATE" if old else "INSERT", {"id": key, "v": value}, old)
        elif kind == "move" and key in table and value not in table:
            table[value] = table.pop(key)
            change(rows, "UPDATE", {"id": value, "v": table[value]}, {"id": key})
        elif kind in ("DELETE", "LEAVE"):
            table.pop(key, None)
            change(rows, kind, None, {"id": key})
        elif kind == "TRUNCATE":
            table = {}
            change(rows, kind)
        elif kind == "gap":
            before, table = dict(rows), dict(key)
            batch(rows, records(table)[:1], last=False)
            assert dict(rows) == before
            batch(rows, records(table)[1:], first=False)
        else:
            for one in pending(changes):
                assert folded.get(one.key) == one.old
                folded = {**folded, one.key: one.new} if one.new else folded
                folded.pop(one.key, None) if one.new is None else None
            assert folded == rows
        assert rows == {id_: {"id": id_, "v": v} for id_, v in table.items()}
        assert len(changes._pending) <= len(rows) + 4


def test_a_key_of_several_columns_is_a_tuple_and_any_value_can_be_in_it() -> None:
    rows = rows_of()
    batch(rows, [{"a": [1, 2], "b": {"x": 1}, "v": 1}], key=["a", "b"])
    assert list(rows) == [((1, 2), (("x", 1),))]
    change(rows, "DELETE", None, {"a": [1, 2], "b": {"x": 1}})
    assert (len(rows), rows.key) == (0, ("a", "b"))


def test_the_old_row_of_who_could_not_see_it_is_no_key() -> None:
    rows = rows_of()
    batch(rows, [])
    change(rows, "UPDATE", {"id": 1}, {})
    assert rows == {1: {"id": 1}}


async def test_rows_without_a_key_say_so_and_heal_with_the_next_snapshot() -> None:
    faults: list[RowcastError] = []
    rows = rows_of(faults)
    batch(rows, [{"v": 1}], key=[])
    with pytest.raises(RowsError, match="key"):
        await rows.ready()
    batch(rows, [{"id": 1}])
    change(rows, "DELETE", None, {"other": 1})
    with pytest.raises(RowsError, match="replica identity"):
        await rows.ready()
    change(rows, "INSERT", {"id": 2})
    assert rows == {1: {"id": 1}}
    batch(rows, [{"id": 3}])
    assert await rows.ready() == {3: {"id": 3}}
    change(rows, "INSERT", {"id": 4}, errors=["Error 413: Payload Too Large"])
    assert 4 in rows
    assert [type(fault) for fault in faults] == [RowsError] * 3
    named = rows_of(key=["v"])
    batch(named, [{"id": 1, "v": 7}], key=[])
    assert list(named) == [7]


async def test_rows_are_ready_with_the_snapshot_and_iterated_as_they_change(
    peer: Any, connect: Connect
) -> None:
    client = connect()
    channel = client.channel("todos")
    rows = channel.rows("todos", filter="done=eq.false")
    with pytest.raises(UsageError):
        await rows.ready()
    channel.subscribe()
    line = await peer.line()
    join = await line.accept(position="p0")
    with pytest.raises(TimedOut):
        await rows.ready(timeout=0.01)
    asked = {"snapshot": True, "leave": True, "truncate": True, "filter": "done=eq.false"}
    what = {"event": "*", "schema": "public", "table": "todos"}
    assert join[4]["config"]["postgres_changes"] == [what | asked]
    await line.rows(TOPIC, [1, 2], "p0")
    assert list(await rows.ready()) == [1, 2]
    heard, arrived = [], asyncio.Event()

    async def follow() -> None:
        async for one in rows:
            heard.append((one.key, one.old, one.new))
            arrived.set() if one.key == 5 else None

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0)  # it begins to listen
    await line.insert(TOPIC, {"id": 3}, seq=3, position="p3")
    left = {"type": "LEAVE", "record": None, "old_record": {"id": 1}}
    await line.insert(TOPIC, {"id": 1}, **left, seq=4, position="p4")
    await line.insert(TOPIC, {"id": 5}, seq=5, position="p5")
    await arrived.wait()
    await line.socket.close(1012)
    line = await peer.line()
    join = await line.accept(position="p5")
    assert join[4]["config"]["resume"] == {"position": "p5"}
    assert list(rows) == [2, 3, 5]
    await client.close()
    await following
    assert heard == [(3, None, {"id": 3}), (1, {"id": 1}, None), (5, None, {"id": 5})]


async def test_who_waits_for_rows_is_told_why_they_do_not_come(peer: Any, connect: Connect) -> None:
    client = connect()
    channel = client.channel("todos")
    rows = channel.rows("todos")
    channel.subscribe()
    line = await peer.line()
    join = await line.accept(position="p0")
    waiting = asyncio.ensure_future(rows.ready())
    await channel
    await line.system(join, "error", "Unable to take a snapshot of public.todos: permission denied")
    with pytest.raises(JoinError, match="permission denied"):
        await waiting
    waiting = asyncio.ensure_future(rows.ready())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(ClientClosed):
        await waiting
