"""Bindings: what an entry of a join asks for, and why some entries are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.binding import BindingError, binding_id, parse_binding

NAMES = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize(
    ("entry", "event", "schema", "table"),
    [
        ({"event": "INSERT", "schema": "app", "table": "todos"}, "INSERT", "app", "todos"),
        ({"event": "insert", "table": "todos"}, "INSERT", "public", "todos"),
        ({"event": "TRUNCATE", "table": "todos"}, "*", "public", "todos"),
        ({"event": 7, "schema": "app"}, "*", "app", "*"),
        ({"schema": "*", "table": None}, "*", "*", "*"),
        ({"schema": "", "table": "todos"}, "*", "public", "todos"),
        ({"schema": "app", "table": ""}, "*", "app", "*"),
        ({"schema": "app", "filter": " ", "select": []}, "*", "app", "*"),
    ],
)
def test_an_entry_is_read_with_its_defaults(
    entry: dict[str, Any], event: str, schema: str, table: str
) -> None:
    binding = parse_binding(entry)
    assert (binding.event, binding.schema, binding.table) == (event, schema, table)
    assert binding.id == binding_id(entry)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"event": "*"}, "No subscription params provided"),
        ({"schema": "", "table": ""}, "No subscription params provided"),
        ({"schema": "app", "table": 7}, "No subscription params provided"),
        ({"table": "a\0b"}, "NUL"),
        ({"table": "a", "filter": "id=eq.1"}, "Filters are not supported"),
        ({"table": "a", "select": ["id"]}, "Column selection is not supported"),
    ],
)
def test_an_entry_that_cannot_be_subscribed_says_why(entry: dict[str, Any], text: str) -> None:
    with pytest.raises(BindingError, match=text):
        parse_binding(entry)


@given(schema=NAMES, table=NAMES)
def test_any_name_can_be_asked_for(schema: str, table: str) -> None:
    binding = parse_binding({"schema": schema, "table": table})
    assert (binding.schema, binding.table) == (schema, table)


@given(entry=st.dictionaries(NAMES, NAMES | st.integers() | st.booleans()))
def test_equal_parameters_have_one_id_that_javascript_can_hold(entry: dict[str, Any]) -> None:
    assert 0 < binding_id(entry) < 2**53
    assert binding_id(dict(reversed(entry.items()))) == binding_id(entry)
