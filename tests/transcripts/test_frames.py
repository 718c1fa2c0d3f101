"""The comparison itself: what must not pass for equal does not."""

from typing import Any

import pytest

from rowcast.protocol.messages import Version
from transcripts.frames import MOMENT, NUMBER, OK, POSITION, Change, Told, Unordered, frame, mismatch, read


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('{"a": 1.10, "b": [1, null, "é"]}', {"a": read("1.10"), "b": [1, None, "é"]}),
        ("9007199254740993", 9007199254740993),
        ("[2,1,1]", Unordered((1, 1, 2))),
        ('"2026-11-23T07:02:07.920Z"', MOMENT),
        ("17", NUMBER),
    ],
)
def test_what_is_equal_passes(said: str, expected: Any) -> None:
    assert mismatch(read(said), expected) is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("1.1", read("1.10")),
        ("1", True),
        ("1.0", 1),
        ('"1"', 1),
        ("null", {}),
        ('{"b":1,"a":1}', {"a": 1, "b": 1}),
        ('{"a":1,"b":1}', {"a": 1}),
        ('{"a":{"b":[1,2]}}', {"a": {"b": [1, 3]}}),
        ("[1]", [1, 2]),
        ("[1,1]", Unordered((1, 2))),
        ("[1,1]", Unordered((1,))),
        ('"2026-11-23T07:02:07.92Z"', MOMENT),
        ("0", NUMBER),
        ('""', POSITION),
    ],
)
def test_what_differs_is_found(said: str, expected: Any) -> None:
    assert mismatch(read(said), expected) is not None


def test_a_key_that_stands_twice_is_a_fault() -> None:
    with pytest.raises(AssertionError, match="a key stands twice"):
        read('{"a":1,"a":1}')


def test_a_change_is_a_message_in_the_order_that_was_seen() -> None:
    change = Change("UPDATE", "t", "id:int4", {"id": 2}, {"id": 1}, entries=(1,))
    said = read(
        '[null,null,"realtime:x","postgres_changes",{"data":{"table":"t","type":"UPDATE","record":{"id":2},'
        '"columns":[{"name":"id","type":"int4"}],"errors":null,"schema":"public",'
        '"commit_timestamp":"2026-11-23T07:02:07.920Z","old_record":{"id":1},"seq":5,"position":"p"},'
        '"ids":[8]}]'
    )
    expected = frame(Version.V2, "realtime:x", "postgres_changes", change.payload([7, 8]))
    assert mismatch(said, expected) is None


def test_only_a_subscription_that_took_has_a_position() -> None:
    assert [list(told.payload("x")) for told in (OK, Told("no"))] == [
        ["message", "status", "extension", "channel", "position"],
        ["message", "status", "extension", "channel"],
    ]
