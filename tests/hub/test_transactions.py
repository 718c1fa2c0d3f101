"""Channels that are sent whole transactions: one message each, or several where one would be too large."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.capture.audiences import Audiences
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.binding import Binding, parse_binding
from rowcast.model.change import Change, Op, Relation
from rowcast.model.claims import Subject
from rowcast.model.reading import Reading
from rowcast.protocol.messages import Version
from support.fanout import Listening, change, insert, ready

pytestmark = pytest.mark.anyio

LIMIT = 2_000
ANON = Subject("anon")


def whole(role: str, relation: Relation) -> Reading:
    return Reading()


def entry(**more: Any) -> Binding:
    return parse_binding({"schema": "public", "table": "notes", **more})


def attach(subscriptions: Subscriptions, one: Listening, *bindings: Binding) -> None:
    subscriptions.attach(one.subscriber, bindings, ANON, ready(bindings))


def publish(subscriptions: Subscriptions, *changes: Change, end: bool = True) -> None:
    for one in changes:
        subscriptions.publish(one, whole)
    if end:
        subscriptions.end_transaction()


def seqs(payload: Any) -> list[int]:
    return [one["data"]["seq"] for one in payload["changes"]]


async def test_who_hears_no_changes_any_more_is_sent_what_it_has_of_a_transaction() -> None:
    audiences, one = Audiences(Subscriptions(limit=LIMIT)), Listening(group=True)
    audiences.attach(one.subscriber, [entry()], ANON, ready([entry()]))
    publish(audiences.plain, insert("a", 3), end=False)
    audiences.attach(one.subscriber, [], ANON, {})
    assert one.subscriber.transaction is None
    assert [seqs(message[4]) for message in one.heard()] == [[3]]


@pytest.mark.parametrize("version", list(Version))
async def test_a_transaction_is_one_message_once_it_is_complete(version: Version) -> None:
    subscriptions = Subscriptions(limit=LIMIT)
    grouped, plain = Listening(group=True, version=version), Listening()
    binding = entry()
    for one in (grouped, plain):
        attach(subscriptions, one, binding)
    publish(subscriptions, insert("a", 3), insert("b", 4), end=False)
    assert len(plain.heard()) == 2
    assert grouped.heard() == []
    subscriptions.end_transaction()
    (message,) = grouped.heard()
    if version is Version.V1:
        assert (message["ref"], message["event"], message["topic"]) == (None, "transaction", "realtime:a")
    else:
        assert message[:4] == [None, None, "realtime:a", "transaction"]
    payload = message["payload"] if version is Version.V1 else message[4]
    assert list(payload) == ["changes", "commit_timestamp", "position", "last"]
    assert seqs(payload) == [3, 4]
    assert [one["ids"] for one in payload["changes"]] == [[binding.id]] * 2
    assert payload["changes"][1]["data"]["record"] == {"id": 4, "body": "b"}
    assert (payload["commit_timestamp"], payload["position"]) == ("2026-01-01T00:00:00.000Z", "p4")
    assert payload["last"] is True
    subscriptions.end_transaction()
    assert grouped.heard() == []
    assert subscriptions.counts.messages == 3


async def test_each_channel_has_those_changes_that_are_for_it_and_nothing_of_other_transactions() -> None:
    subscriptions = Subscriptions(limit=LIMIT)
    all_, one, none = (Listening(group=True) for _ in range(3))
    attach(subscriptions, all_, entry())
    attach(subscriptions, one, entry(filter="id=eq.4"))
    attach(subscriptions, none, entry(filter="id=eq.9"))
    publish(subscriptions, insert("a", 3), insert("b", 4))
    publish(subscriptions, insert("c", 5))
    assert [seqs(message[4]) for message in all_.heard()] == [[3, 4], [5]]
    (message,) = one.heard()
    assert (seqs(message[4]), message[4]["position"]) == ([4], "p4")
    assert none.heard() == []


async def test_a_leave_and_the_update_beside_it_are_in_the_same_message() -> None:
    subscriptions, one = Subscriptions(limit=1 << 20), Listening(group=True)
    attach(subscriptions, one, entry(filter="id=eq.1", leave=True), entry(filter="id=eq.2"))
    publish(subscriptions, change(Op.UPDATE, {"id": 2, "body": "b"}, {"id": 1, "body": "a"}, 7))
    (message,) = one.heard()
    assert [part["data"]["type"] for part in message[4]["changes"]] == ["LEAVE", "UPDATE"]
    assert message[4]["position"] == "p7"


@given(sizes=st.lists(st.integers(0, 900), min_size=1, max_size=12), topic=st.sampled_from(["a", "b" * 300]))
def test_no_message_is_over_the_limit_and_together_they_are_the_transaction(
    sizes: Sequence[int], topic: str
) -> None:
    loop = asyncio.new_event_loop()
    subscriptions, one = Subscriptions(limit=2 * LIMIT), Listening(topic, loop, group=True)
    attach(subscriptions, one, entry(select=["id"]), entry())
    changes = [insert("x" * size, seq) for seq, size in enumerate(sizes, start=1)]
    publish(subscriptions, *(replace(one, position=one.position.ljust(300, ".")) for one in changes))
    sent = one.raw()
    assert max(map(len, sent)) <= 2 * LIMIT
    payloads = [json.loads(raw)[4] for raw in sent]
    order = [seq for payload in payloads for seq in seqs(payload)]
    assert sorted(set(order)) == list(range(1, len(sizes) + 1))
    assert order == sorted(order)
    assert [payload["last"] for payload in payloads] == [False] * (len(payloads) - 1) + [True]
    # Who is cut off in between is sent all of them again.
    assert [payload["position"] for payload in payloads[:-1]] == ["p0"] * (len(payloads) - 1)
    assert payloads[-1]["position"].rstrip(".") == f"p{len(sizes)}"
    # What is about one change stays together.
    for earlier, later in pairwise(payloads):
        assert not set(seqs(earlier)) & set(seqs(later))
    one.lane.end()
    loop.close()


async def test_a_change_that_is_too_large_for_a_message_goes_with_small_values_only() -> None:
    subscriptions, one = Subscriptions(limit=LIMIT), Listening(group=True)
    attach(subscriptions, one, entry())
    publish(subscriptions, insert("a", 1), insert("x" * LIMIT, 2), insert("c", 3))
    messages = one.heard()
    changes = [part["data"] for message in messages for part in message[4]["changes"]]
    assert [data["errors"] for data in changes] == [None, ["Error 413: Payload Too Large"], None]
    assert changes[1]["record"] == {"id": 2}


async def test_what_is_about_one_change_is_parted_where_it_does_not_fit_together() -> None:
    subscriptions, one = Subscriptions(limit=LIMIT), Listening(group=True)
    attach(subscriptions, one, entry(select=["body"]), entry())
    publish(subscriptions, insert("a", 1), insert("x" * 1500, 2))
    sent = one.raw()
    assert max(map(len, sent)) <= LIMIT
    assert [seqs(json.loads(raw)[4]) for raw in sent] == [[1, 1], [2], [2]]


async def test_equal_messages_are_encoded_once() -> None:
    subscriptions = Subscriptions(limit=LIMIT)
    channels = [Listening(group=True) for _ in range(3)]
    binding = entry()
    for one in channels:
        attach(subscriptions, one, binding)
    publish(subscriptions, insert("x" * 1500, 1), insert("y" * 1500, 2))
    frames = [list(one.lane._frames) for one in channels]
    assert [len(of) for of in frames] == [2, 2, 2]
    assert all(a is b for of in frames for a, b in zip(frames[0], of, strict=True))


async def test_a_channel_takes_what_it_has_with_it_wherever_it_is_attached() -> None:
    subscriptions, others = Subscriptions(limit=LIMIT), Subscriptions(limit=LIMIT)
    refreshed, moved = Listening(group=True), Listening(group=True)
    for one in (refreshed, moved):
        attach(subscriptions, one, entry())
    publish(subscriptions, insert("a", 1), end=False)
    attach(subscriptions, refreshed, entry())
    subscriptions.detach(moved.subscriber)
    attach(others, moved, entry())
    publish(subscriptions, insert("b", 2))
    assert [seqs(message[4]) for message in refreshed.heard()] == [[1, 2]]
    assert moved.heard() == []
    publish(others, insert("b", 2))
    assert [seqs(message[4]) for message in moved.heard()] == [[1, 2]]


async def test_nothing_of_a_transaction_comes_with_the_next_or_after_changes_were_missed() -> None:
    subscriptions, away, missing = Subscriptions(limit=LIMIT), Listening(group=True), Listening(group=True)
    for one in (away, missing):
        attach(subscriptions, one, entry())
    publish(subscriptions, insert("a", 1), end=False)
    missing.subscriber.transaction = None
    subscriptions.detach(away.subscriber)
    subscriptions.end_transaction()
    attach(subscriptions, away, entry())
    publish(subscriptions, replace(insert("b", 2), commit_timestamp="2026-01-01T00:00:01.000Z"))
    assert [(seqs(message[4]), message[4]["last"]) for message in away.heard()] == [([1], True), ([2], True)]
    assert [seqs(message[4]) for message in missing.heard()] == [[2]]
