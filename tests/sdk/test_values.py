"""Values and changes: from the JSON that Postgres writes to Python."""

import contextlib
import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast_client.change import read_change
from rowcast_client.errors import ProtocolError
from rowcast_client.values import convert, convert_row

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KNOWN = ["int2", "int4", "int8", "oid", "float4", "float8", "numeric", "bool", "timestamptz", "timestamp"]
KNOWN += ["date", "time", "timetz", "uuid", "bytea", "json", "jsonb", "text", "interval", "mood"]
TYPES = st.sampled_from(KNOWN + [f"_{name}" for name in KNOWN])


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        ("int8", "9007199254740993", 9007199254740993),
        ("int4", '"12"', 12),
        ("numeric", "1.50", Decimal("1.50")),
        (
            "numeric",
            "123456789012345678901234567890.123456789",
            Decimal("123456789012345678901234567890.123456789"),
        ),
        ("numeric", '"Infinity"', Decimal("Infinity")),
        ("float8", "1", 1.0),
        ("float8", '"-Infinity"', float("-inf")),
        ("bool", "true", True),
        ("bool", '"f"', False),
        ("timestamptz", '"2026-03-01T10:20:30.123456+00:00"', datetime(2026, 3, 1, 10, 20, 30, 123456, UTC)),
        ("timestamptz", '"infinity"', "infinity"),
        ("timestamptz", '"10000-01-01T00:00:00+00:00"', "10000-01-01T00:00:00+00:00"),
        ("timestamptz", '"0044-03-15T12:00:00+00:00 BC"', "0044-03-15T12:00:00+00:00 BC"),
        ("timestamp", '"2026-03-01T10:20:30"', datetime(2026, 3, 1, 10, 20, 30)),
        ("date", '"2026-03-01"', date(2026, 3, 1)),
        ("time", '"10:20:30"', time(10, 20, 30)),
        ("timetz", '"10:20:30+05:30"', time(10, 20, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
        ("timetz", '"10:20:30+00"', time(10, 20, 30, tzinfo=UTC)),
        ("uuid", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"', UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
        ("bytea", '"0102ff"', b"\x01\x02\xff"),
        ("bytea", '"\\\\x0102ff"', b"\x01\x02\xff"),
        ("bytea", '"xyz"', "xyz"),
        ("interval", '"3 days"', "3 days"),
        ("jsonb", '{"a": [1, "2026-03-01"]}', {"a": [1, "2026-03-01"]}),
        ("jsonb", '"12"', "12"),
        ("mood", '"happy"', "happy"),
        ("_int4", "[[1, 2], [3, null]]", [[1, 2], [3, None]]),
        ("_numeric", "[0.10]", [Decimal("0.10")]),
        ("_bytea", '["00"]', [b"\x00"]),
        ("_jsonb", "[[1], {}]", [[1], {}]),
        ("_int4", "null", None),
        ("int4", "null", None),
        ("int4", "true", True),
    ],
)
def test_a_value_becomes_what_its_type_means(type_: str, text: str, value: object) -> None:
    converted = convert(text.encode(), type_)
    assert (converted, type(converted)) == (value, type(value))


def test_a_numeric_keeps_its_digits() -> None:
    assert str(convert(b"1.500", "numeric")) == "1.500"


@given(JSON, TYPES)
def test_any_json_under_any_type_is_converted_or_left_as_it_is(value: Any, type_: str) -> None:
    convert(json.dumps(value).encode(), type_)


@given(st.integers())
def test_integers_of_any_size_come_back(number: int) -> None:
    assert convert(str(number).encode(), "int8") == number


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_numerics_come_back_with_every_digit(number: Decimal) -> None:
    plain = format(number, "f")
    assert str(convert(plain.encode(), "numeric")) == str(Decimal(plain))


@given(st.datetimes(timezones=st.just(UTC)))
def test_moments_come_back(moment: datetime) -> None:
    assert convert(json.dumps(moment.isoformat()).encode(), "timestamptz") == moment


@given(st.binary())
def test_bytes_come_back(content: bytes) -> None:
    assert convert(json.dumps(content.hex()).encode(), "bytea") == content


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_columns_without_a_type_are_left_as_json_gives_them(row: dict[str, Any]) -> None:
    assert convert_row(json.dumps(row).encode(), {}) == json.loads(json.dumps(row))


def wire(**more: Any) -> bytes:
    change = {
        "schema": "public",
        "table": "todos",
        "type": "UPDATE",
        "commit_timestamp": "2026-03-01T10:20:30.123Z",
        "columns": [{"name": "id", "type": "int8"}, {"name": "price", "type": "numeric"}],
        "record": {"id": 46, "price": "1.5"},
        "old_record": {"id": 46},
        "errors": None,
        **more,
    }
    return json.dumps(change).encode()


def test_a_change_is_read_by_attribute_and_by_key() -> None:
    change = read_change(wire(seq=7, position="p"))
    assert change.new == change["new"] == {"id": 46, "price": Decimal("1.5")}
    assert change.eventType == change.event_type == change["eventType"] == change["event_type"] == "UPDATE"
    assert change.commit_timestamp == datetime(2026, 3, 1, 10, 20, 30, 123000, UTC)
    assert (change.old, change.schema, change.table) == ({"id": 46}, "public", "todos")
    assert (change.seq, change.position, change.errors) == (7, "p", None)
    assert change.raw["record"] == {"id": 46, "price": "1.5"}
    assert set(change) == set(dict(change))
    assert len(change) == 9
    with pytest.raises(KeyError):
        change["raw"]
    with pytest.raises(AttributeError):
        change.table = "other"  # type: ignore[misc]


def test_images_that_are_absent_or_null_are_empty() -> None:
    change = read_change(b'{"schema":"s","table":"t","type":"INSERT","record":null,"commit_timestamp":null}')
    assert (change.new, change.old, change.commit_timestamp, change.seq) == ({}, {}, None, None)


def test_a_change_cut_down_by_the_server_says_why() -> None:
    assert read_change(wire(errors=["Error 413: Payload Too Large"])).errors == [
        "Error 413: Payload Too Large"
    ]


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"schema":1,"table":"t","type":"x"}', wire(record=3)])
def test_what_is_no_change_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_change(text)


@given(JSON)
def test_any_json_is_a_change_or_a_protocol_error(value: Any) -> None:
    with contextlib.suppress(ProtocolError):
        read_change(json.dumps(value).encode())
