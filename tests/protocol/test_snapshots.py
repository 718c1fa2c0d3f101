"""``snapshot`` messages: what is in them, and how many there are."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.change import Column, Relation
from rowcast.model.reading import View
from rowcast.protocol.messages import Version
from rowcast.protocol.snapshots import encode_snapshot, outline_of

COLUMNS = (Column("body", "text", "text"), Column("id", "int4", "int4"), Column("f", "float8", "float8"))
RELATION = Relation(1, 7, "public", 'no"tes', COLUMNS, frozenset({"id"}), key=frozenset({"id"}))


@pytest.mark.parametrize("version", list(Version))
def test_a_snapshot_holds_the_rows_and_where_the_stream_goes_on(version: Version) -> None:
    outline = outline_of(RELATION, View())
    assert outline.names == ("f", "id", "body")
    images = [b'{"f":1e+20,"id":1,"body":"x"}', b'{"f":"NaN","id":2,"body":null}']
    (message,) = encode_snapshot(
        outline, images, 'to"pic', [5, 6], version, last=True, position="P", limit=10_000
    )
    data = {
        "schema": "public",
        "table": 'no"tes',
        "columns": [{"name": one.name, "type": one.type} for one in COLUMNS],
        "key": ["id"],
        "records": [{"f": 10**20, "id": 1, "body": "x"}, {"f": None, "id": 2, "body": None}],
        "errors": None,
        "last": True,
        "position": "P",
    }
    payload = {"ids": [5, 6], "data": data}
    expected: object = [None, None, 'to"pic', "snapshot", payload]
    if version is Version.V1:
        expected = {"ref": None, "event": "snapshot", "payload": payload, "topic": 'to"pic'}
    assert json.loads(message) == expected


def test_a_view_shows_what_was_selected_and_the_key_and_nothing_hidden() -> None:
    assert outline_of(RELATION, View(select=frozenset({"f"}))).names == ("f", "id")
    assert outline_of(RELATION, View(frozenset({"f"}), frozenset({"f", "id"}))).names == ()


def test_a_snapshot_names_the_key_by_which_old_records_name_rows() -> None:
    def key(view: View = View(), **relation: Any) -> list[str]:  # noqa: B008
        outline = outline_of(replace(RELATION, **relation), view)
        (message,) = encode_snapshot(outline, [], "t", [1], Version.V2, last=True, position="P", limit=10_000)
        named: list[str] = json.loads(message)[4]["data"]["key"]
        return named

    everything, none = frozenset({"body", "id", "f"}), frozenset[str]()
    assert key(key=frozenset({"f", "id"}), identity=everything) == ["id", "f"]
    assert key(identity=frozenset({"body"})) == ["body"]
    assert key(identity=frozenset({"body"}), key=none) == ["body"]
    assert key(identity=everything, key=none) == key(identity=none) == []
    assert key(View(hidden=frozenset({"id"}))) == []


def test_images_that_need_no_rewriting_are_sent_as_they_are() -> None:
    outline = outline_of(RELATION, View(hidden=frozenset({"f"})))
    odd = b'{"id" :  1,"body":"x"}'
    (message,) = encode_snapshot(outline, [odd], "t", [1], Version.V2, last=False, position="P", limit=10_000)
    assert odd in message


@given(sizes=st.lists(st.integers(0, 300), max_size=20), limit=st.integers(400, 900), last=st.booleans())
def test_messages_stay_within_the_limit_and_hold_every_row_in_order(
    sizes: list[int], limit: int, last: bool
) -> None:
    outline = outline_of(RELATION, View(hidden=frozenset({"f"})))
    images = [json.dumps({"id": n, "body": "x" * size}).encode() for n, size in enumerate(sizes)]
    messages = encode_snapshot(outline, images, "t", [1], Version.V2, last=last, position="P", limit=limit)
    assert all(len(message) <= limit for message in messages)
    found = [json.loads(message)[4]["data"] for message in messages]
    assert [row["id"] for data in found for row in data["records"]] == list(range(len(sizes)))
    assert [data["last"] for data in found] == [False] * (len(found) - 1) + [last]
    for data in found:
        # What has no room even by itself comes by itself, without its long values.
        cut = [row for row in data["records"] if "body" not in row]
        assert data["errors"] == (["Error 413: Payload Too Large"] if cut else None)
        assert not cut or len(data["records"]) == 1
