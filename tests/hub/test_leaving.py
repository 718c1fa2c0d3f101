"""Rows that leave what a channel hears: LEAVE is sent to whom it concerns, once, and to nobody else."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.binding import Binding, parse_binding
from rowcast.model.change import Change, Op, Relation
from rowcast.model.claims import Subject
from rowcast.model.reading import Reading, Seen
from rowcast.protocol.messages import Version
from support.fanout import NOTES, Listening, answered, change, insert, ready

pytestmark = pytest.mark.anyio

LIMIT = 1 << 20
#: Some roles are judged row by row.
READINGS = {"anon": Reading(), "user": Reading(judged=True), "blind": Reading(hidden=frozenset({"id"}))}
ROWS = st.fixed_dictionaries({"id": st.integers(0, 2), "body": st.sampled_from(["ax", "bx"])})


def may_read(role: str, relation: Relation) -> Reading | None:
    return READINGS.get(role)


def entry(**more: Any) -> Binding:
    return parse_binding({"schema": "public", "table": "notes", **more})


def attach(subscriptions: Subscriptions, one: Listening, role: str, *bindings: Binding) -> Subject:
    subject = Subject(role, one.subscriber.topic)
    subscriptions.attach(one.subscriber, bindings, subject, ready(bindings))
    return subject


def sent(one: Listening) -> list[tuple[str, list[int]]]:
    """The type and ids of what was sent."""
    return [(message[4]["data"]["type"], sorted(message[4]["ids"])) for message in one.heard()]


def publish(subscriptions: Subscriptions, change: Change, sees: dict[Subject, Seen] | None = None) -> None:
    leave = subscriptions.leave(change)
    left = {} if leave is None else answered(leave, subscriptions.asks(leave))
    answers = answered(change, subscriptions.asks(change))
    wanted = {one.subject for one in subscriptions.judged(change, may_read, answers, left)}
    sees = {subject: seen for subject, seen in (sees or {}).items() if subject in wanted}
    subscriptions.publish(change, may_read, answers, sees, left)


ENTRIES = st.builds(
    lambda table, event, filter_, select, leave, truncate: parse_binding(
        {"schema": "public", "table": table if filter_ is None and select is None else "notes"}
        | {"event": event, "leave": leave, "truncate": truncate}
        | ({} if filter_ is None else {"filter": filter_})
        | ({} if select is None else {"select": [select]})
    ),
    st.sampled_from(["notes", "*"]),
    st.sampled_from(["*", "*", "UPDATE", "DELETE"]),
    st.sampled_from([None, None, "id=eq.0", "id=eq.1", "body=like.a%"]),
    st.sampled_from([None, "body", "id"]),
    st.booleans(),
    st.booleans(),
)


def passes(binding: Binding, row: dict[str, Any], reading: Reading) -> bool:
    if binding.filter is None:
        return True
    column, wanted = ("id", binding.filter.value) if "id" in str(binding.filter) else ("body", "a")  # type: ignore[union-attr]
    return column not in reading.hidden and str(row[column]).startswith(wanted)


def expected(
    bindings: Sequence[Binding], change: Change, old: Any, new: Any, reading: Reading | None, seen: Seen
) -> list[tuple[str, tuple[int, ...]]]:
    """What a channel is to be sent, as types and ids."""
    if reading is None:
        return []
    if not reading.judged:
        seen = Seen(row=True, old=True)
    by: dict[tuple[str, Any], list[int]] = {}
    for binding in bindings:
        both = binding.event in ("*", change.op)
        if change.op is Op.TRUNCATE:
            if binding.truncate and binding.event == "*":
                by.setdefault(("TRUNCATE", binding.select), []).append(binding.id)
            continue
        row = old if change.op is Op.DELETE else new
        if both and seen.row and passes(binding, row, reading):
            by.setdefault((change.op, binding.select), []).append(binding.id)
        elif change.op is Op.UPDATE and both and binding.leave and seen.old and passes(binding, old, reading):
            by.setdefault(("LEAVE", binding.select), []).append(binding.id)
    return sorted((str(op), tuple(sorted(ids))) for (op, _), ids in by.items())


@given(
    channels=st.lists(
        st.tuples(
            st.sampled_from(["user", "user", *READINGS, "nobody"]), st.lists(ENTRIES, max_size=4, unique=True)
        ),
        max_size=4,
    ),
    op=st.sampled_from([Op.UPDATE, Op.UPDATE, Op.DELETE, Op.TRUNCATE]),
    old=ROWS,
    new=ROWS,
    seen=st.sampled_from([Seen(True, True), Seen(True, False), *[Seen(False, True)] * 3, Seen(False, False)]),
)
@settings(max_examples=300)
def test_each_channel_is_told_what_left_it_and_what_it_did_not_ask_for_never(
    channels: list[tuple[str, list[Binding]]], op: Op, old: Any, new: Any, seen: Seen
) -> None:
    loop = asyncio.new_event_loop()
    subscriptions = Subscriptions(limit=LIMIT)
    listening = [Listening("same", loop) for _ in channels]
    sees = {}
    for one, (role, bindings) in zip(listening, channels, strict=True):
        sees[attach(subscriptions, one, role, *bindings)] = seen
    truncates = op is Op.TRUNCATE
    made = change(op, new if op is Op.UPDATE else None, None if truncates else old, 7)
    publish(subscriptions, made, sees)
    for one, (role, bindings) in zip(listening, channels, strict=True):
        messages = one.heard()
        found = [(message[4]["data"]["type"], tuple(sorted(message[4]["ids"]))) for message in messages]
        assert sorted(found) == expected(bindings, made, old, new, READINGS.get(role), seen)
        # LEAVE goes first, and only after the last of them has a client heard all.
        types = [type_ for type_, _ in found]
        assert types == sorted(types)
        positions = [message[4]["data"]["position"] for message in messages]
        assert positions == ["p6"] * (len(positions) - 1) + ["p7"] * bool(positions)
        asked = {"LEAVE": any(b.leave for b in bindings), "TRUNCATE": any(b.truncate for b in bindings)}
        assert all(asked.get(type_, True) for type_ in types)
        one.lane.end()
        subscriptions.detach(one.subscriber)
    assert not any(
        (subscriptions._leaves, subscriptions._groups, subscriptions._early, subscriptions._listeners)
    )
    loop.close()


@pytest.mark.parametrize("version", list(Version))
async def test_a_leave_shows_what_the_replica_identity_shows_of_the_old_row(version: Version) -> None:
    subscriptions, one = Subscriptions(limit=LIMIT), Listening(version=version)
    binding = entry(filter="id=eq.1", leave=True)
    attach(subscriptions, one, "anon", binding)
    publish(subscriptions, change(Op.UPDATE, {"id": 2, "body": "b"}, {"id": 1, "body": "a"}))
    (message,) = one.heard()
    payload = message["payload"] if version is Version.V1 else message[4]
    assert payload["ids"] == [binding.id]
    data = payload["data"]
    assert list(data) == [
        "table", "type", "columns", "errors", "schema", "commit_timestamp", "old_record", "seq", "position",
    ]  # fmt: skip
    assert (data["type"], data["old_record"], data["seq"]) == ("LEAVE", {"id": 1}, 1)


async def test_a_row_that_somebody_may_no_longer_see_leaves_every_binding_that_asked() -> None:
    subscriptions = Subscriptions(limit=LIMIT)
    whole, filtered, unasked = (Listening(topic) for topic in "xyz")
    bindings = [entry(leave=True), entry(leave=True, filter="id=eq.1"), entry(filter="id=eq.1")]
    sees = {
        attach(subscriptions, one, "user", binding): Seen(row=False, old=True)
        for one, binding in zip((whole, filtered, unasked), bindings, strict=True)
    }
    publish(subscriptions, change(Op.UPDATE, {"id": 1, "body": "b"}, {"id": 1, "body": "a"}), sees)
    assert sent(whole) == [("LEAVE", [bindings[0].id])]
    assert sent(filtered) == [("LEAVE", [bindings[1].id])]
    assert sent(unasked) == []


async def test_nothing_is_asked_about_old_rows_but_for_filters_that_want_to_know() -> None:
    subscriptions = Subscriptions(limit=LIMIT)
    plain, wants = Listening(), Listening()
    update = change(Op.UPDATE, {"id": 1, "body": "b"}, {"id": 1, "body": "a"})
    attach(subscriptions, plain, "anon", entry(filter="body=like.a%"))
    assert subscriptions.leave(update) is None
    attach(subscriptions, wants, "anon", entry(filter="body=like.b%", leave=True))
    leave = subscriptions.leave(update)
    assert leave is not None
    assert [ask.value for _, ask in subscriptions.asks(leave)] == ["b%"]
    assert len(list(subscriptions.asks(update))) == 2
    assert subscriptions.leave(insert("a")) is None
    attach(subscriptions, wants, "anon", entry(filter="body=like.b%"))
    assert subscriptions.leave(update) is None


async def test_messages_about_one_change_come_in_order_however_channels_joined() -> None:
    """Channels that share what is sent to some of them, in all orders: none has its last message first."""
    entries = [entry(select=["id"]), entry(select=["body"]), entry()]
    choices = [order for size in (1, 2, 3) for order in itertools.permutations(entries, size)]
    subscriptions = Subscriptions(limit=LIMIT)
    channels = [Listening("same") for _ in choices]
    for one, bindings in zip(channels, choices, strict=True):
        attach(subscriptions, one, "anon", *bindings)
    publish(subscriptions, insert("a", 7))
    for one, bindings in zip(channels, choices, strict=True):
        positions = [message[4]["data"]["position"] for message in one.heard()]
        assert positions == ["p6"] * (len(bindings) - 1) + ["p7"]


async def test_a_truncate_is_told_who_asked_whatever_their_filter_and_rows() -> None:
    subscriptions = Subscriptions(limit=LIMIT)
    asked = [entry(truncate=True), entry(truncate=True, filter="id=eq.5", select=["body"])]
    cases: list[tuple[str, list[Binding]]] = [
        ("anon", asked[:1]), ("user", asked[1:]), ("user", asked), ("blind", asked[1:]), ("anon", [entry()]),
        ("nobody", asked), ("anon", [entry(truncate=True, event="DELETE")]),
    ]  # fmt: skip
    channels = [Listening() for _ in cases]
    for one, (role, bindings) in zip(channels, cases, strict=True):
        attach(subscriptions, one, role, *bindings)
    assert subscriptions.heard(NOTES, Op.TRUNCATE)
    publish(subscriptions, change(Op.TRUNCATE, None, None))
    messages = [one.heard() for one in channels]
    assert [len(heard) for heard in messages] == [1, 1, 2, 1, 0, 0, 0]
    data = messages[0][0][4]["data"]
    assert data["type"] == "TRUNCATE"
    assert not {"record", "old_record"} & data.keys()
