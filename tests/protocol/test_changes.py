"""``postgres_changes`` messages: their keys and columns, and what is left of one that is too large."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.change import Change, Column, Op, Relation
from rowcast.model.reading import View
from rowcast.model.shape import ArrayShape, RowShape
from rowcast.protocol.changes import SMALL_VALUE, encode_data, encode_legacy, encode_message, encode_reduced
from rowcast.protocol.messages import Version
from rowcast.protocol.rows import row_of

COLUMNS = (
    Column("id", "int8", "int8"),
    Column("title", "text", "text"),
    Column("raw", "bytea", "bytea"),
    Column("n", "numeric", "numeric"),
)
TODOS = Relation(1, 1, "public", "todos", COLUMNS, frozenset({"id"}), key=frozenset({"id"}))
FULL = Relation(
    2, 1, "public", "todos", COLUMNS, frozenset({"id", "title", "raw", "n"}), key=frozenset({"id"})
)
NEW = rb'{"id":1,"title":"new","raw":"\\x01","n":1.10}'
OLD = rb'{"id":1,"title":"old","raw":"\\x00","n":"NaN"}'
AT = "2026-03-01T10:20:30.123Z"
NAMES = st.text(st.characters(codec="utf-8"), min_size=1)


def change(relation: Relation, op: Op, new: bytes = NEW, old: bytes = OLD) -> Change:
    record, old_record = None if op is Op.DELETE else new, None if op is Op.INSERT else old
    return Change(relation, op, record, old_record, 7, "position", AT)


def data(change: Change, select: frozenset[str] | None = None) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(encode_data(change, View(select)))
    return read


def test_an_insert_has_a_record_and_no_old_one() -> None:
    assert encode_data(change(TODOS, Op.INSERT)) == (
        b'{"table":"todos","type":"INSERT","record":{"n":1.10,"id":1,"raw":"01","title":"new"},"columns":'
        b'[{"name":"id","type":"int8"},{"name":"title","type":"text"},{"name":"raw","type":"bytea"},'
        b'{"name":"n","type":"numeric"}],"errors":null,"schema":"public","commit_timestamp":'
        b'"2026-03-01T10:20:30.123Z","seq":7,"position":"position"}'
    )


@pytest.mark.parametrize(
    ("relation", "old_record"),
    [(TODOS, {"id": 1}), (FULL, {"n": None, "id": 1, "raw": "00", "title": "old"})],
)
def test_the_old_row_of_an_update_and_a_delete_is_what_the_replica_identity_shows(
    relation: Relation, old_record: dict[str, Any]
) -> None:
    updated, deleted = data(change(relation, Op.UPDATE)), data(change(relation, Op.DELETE))
    assert updated["record"] == {"n": 1.1, "id": 1, "raw": "01", "title": "new"}
    assert updated["old_record"] == deleted["old_record"] == old_record
    assert "record" not in deleted


def test_a_truncate_has_no_row() -> None:
    truncated = data(Change(TODOS, Op.TRUNCATE, None, None, 7, "position", AT))
    assert truncated.keys() & {"record", "old_record"} == set()


@pytest.mark.parametrize(
    ("select", "shown"),
    [
        (frozenset({"title"}), {"id", "title"}),
        (frozenset({"id", "n", "unheard of"}), {"id", "n"}),
        (frozenset[str](), {"id"}),
        (frozenset({"id", "title", "raw", "n"}), {"id", "title", "raw", "n"}),
    ],
)
def test_a_selection_shows_the_selected_columns_and_the_primary_key(
    select: frozenset[str], shown: set[str]
) -> None:
    updated = data(change(FULL, Op.UPDATE), select)
    whole = data(change(FULL, Op.UPDATE))
    assert updated["columns"] == [column for column in whole["columns"] if column["name"] in shown]
    assert updated["record"] == {name: whole["record"][name] for name in shown}
    assert updated["old_record"] == {name: whole["old_record"][name] for name in shown}
    assert data(change(TODOS, Op.DELETE), select)["old_record"] == {"id": 1}


def test_a_selection_of_a_table_without_primary_key_shows_what_is_selected() -> None:
    bare = Relation(3, 1, "public", "bare", COLUMNS, frozenset())
    updated = data(change(bare, Op.UPDATE), frozenset({"title"}))
    assert (updated["record"], updated["old_record"]) == ({"title": "new"}, {})


def test_columns_that_are_not_reported_are_in_neither_row() -> None:
    hidden = frozenset({"title", "raw"})
    kept = tuple(column for column in COLUMNS if column.name not in hidden)
    relation = Relation(4, 1, "public", "todos", kept, frozenset({"id", "title"}), omitted=hidden)
    updated = data(change(relation, Op.UPDATE))
    assert (updated["record"], updated["old_record"]) == ({"n": 1.1, "id": 1}, {"id": 1})
    assert [column["name"] for column in updated["columns"]] == ["id", "n"]


def test_two_versions_of_a_table_are_not_taken_for_each_other() -> None:
    renamed = (Column("id", "int8", "int8"), Column("name", "text", "text"))
    # Equal ids happen in one process when a database is restored, or another one is served.
    other = Relation(1, 1, "public", "todos", renamed, frozenset({"id"}))
    assert data(change(TODOS, Op.INSERT))["record"]["title"] == "new"
    assert data(change(other, Op.INSERT, b'{"id":1,"name":"x"}'))["record"] == {"id": 1, "name": "x"}


@pytest.mark.parametrize("select", [None, frozenset({"title", "n"})])
def test_a_change_that_is_too_large_keeps_its_small_values_without_nulls(
    select: frozenset[str] | None,
) -> None:
    fits, over = "x" * (SMALL_VALUE - 2), "x" * (SMALL_VALUE - 1)
    images = [json.dumps({"id": 1, "title": text, "raw": None, "n": "NaN"}).encode() for text in (fits, over)]
    small, large = (
        json.loads(encode_reduced(change(FULL, Op.UPDATE, image, image), View(select))) for image in images
    )
    assert small["errors"] == ["Error 413: Payload Too Large"]
    assert small["record"] == small["old_record"] == {"id": 1, "title": fits}
    assert large["record"] == large["old_record"] == {"id": 1}
    assert large["columns"] == data(change(FULL, Op.UPDATE), select)["columns"]


def test_the_size_of_a_value_is_that_of_its_text_on_the_wire() -> None:
    image = json.dumps({"id": 1, "title": None, "raw": "\\x" + "ab" * 31, "n": None}).encode()
    assert json.loads(encode_reduced(change(TODOS, Op.INSERT, image)))["record"] == {
        "id": 1,
        "raw": "ab" * 31,
    }


def test_rows_with_values_nested_deeper_than_parsers_go_are_encoded() -> None:
    relation = Relation(
        5, 1, "public", "t", (Column("id", "int8", "int8"), Column("a", "jsonb", "jsonb")), frozenset({"id"})
    )
    deep = b"[" * 3000 + b"]" * 3000
    image = b'{"id":1,"a":' + deep + b"}"
    encoded = encode_data(change(relation, Op.UPDATE, image, image))
    assert b'"record":{"a":' + deep + b',"id":1}' in encoded
    assert encoded.count(deep) == 1
    assert json.loads(encode_reduced(change(relation, Op.UPDATE, image, image)))["record"] == {"id": 1}


@pytest.mark.parametrize("half", [rb'"\ud800"', rb'{"\udfff":["\ud800"]}'])
@pytest.mark.parametrize("select", [None, frozenset({"j", "c"})])
@pytest.mark.parametrize("shape", ["json", "jsonb"])
def test_rows_with_half_of_a_surrogate_pair_are_encoded_as_they_are(
    shape: str, select: frozenset[str] | None, half: bytes
) -> None:
    composite = RowShape((("j", shape), ("b", "bytea")))
    columns = (
        Column("c", "pair", composite), Column("id", "int8", "int8"), Column("j", shape, shape),
        Column("l", "_pair", ArrayShape(composite)),
    )  # fmt: skip
    relation = Relation(7, 1, "public", "t", columns, frozenset({"id", "j"}), key=frozenset({"id"}))
    pair = b'{"j":' + half + rb',"b":"\\x01"}'
    image = b'{"c":' + pair + b',"id":1,"j":' + half + b',"l":[' + pair + b"]}"
    update = change(relation, Op.UPDATE, image, image)
    record = b'"record":{"c":{"b":"01","j":' + half + b'},"j":' + half
    encoded = encode_data(update, View(select))
    assert record + b',"l":[' + pair + b'],"id":1},' in encoded if select is None else record in encoded
    assert b'"old_record":{"j":' + half + b',"id":1},' in encoded
    assert record in encode_reduced(update, View(select))
    row = row_of(update)
    assert {name: row[name] for name in row} == {
        "c": pair, "id": b"1", "j": half, "l": b"[" + pair + b"]",
    }  # fmt: skip


@given(NAMES, NAMES, st.dictionaries(NAMES, st.text(), min_size=1))
def test_names_and_values_of_any_text_arrive_as_they_are(
    schema: str, table: str, row: dict[str, str]
) -> None:
    columns = tuple(Column(name, "text", "text") for name in row)
    relation = Relation(6, 1, schema, table, columns, frozenset(row))
    updated = data(change(relation, Op.UPDATE, json.dumps(row).encode(), json.dumps(row).encode()))
    assert (updated["schema"], updated["table"]) == (schema, table)
    assert updated["record"] == updated["old_record"] == row
    assert [column["name"] for column in updated["columns"]] == list(row)


@given(st.text(), st.lists(st.integers(1, 2**48), min_size=1))
def test_a_message_is_the_data_with_ids_and_a_topic_in_the_frame_of_its_version(
    topic: str, ids: list[int]
) -> None:
    body = encode_data(change(TODOS, Op.INSERT))
    payload = {"data": json.loads(body), "ids": ids}
    first = json.loads(encode_message(body, topic, ids, Version.V1))
    assert first == {"ref": None, "event": "postgres_changes", "payload": payload, "topic": topic}
    second = json.loads(encode_message(body, topic, ids, Version.V2))
    assert second == [None, None, topic, "postgres_changes", payload]


@given(st.text(), st.sampled_from([Op.INSERT, Op.UPDATE, Op.DELETE]))
def test_a_message_to_who_joined_the_old_way_has_the_operation_as_its_event(topic: str, op: Op) -> None:
    body = encode_data(change(TODOS, op))
    first = json.loads(encode_legacy(body, topic, op, Version.V1))
    assert first == {"ref": None, "event": op.value, "payload": json.loads(body), "topic": topic}
    second = json.loads(encode_legacy(body, topic, op, Version.V2))
    assert second == [None, None, topic, op.value, json.loads(body)]
