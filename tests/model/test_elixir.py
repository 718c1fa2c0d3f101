"""Elixir's notation: how values are quoted, cut and broken into lines."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.elixir import inspect

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nil"),
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (1.5, "1.5"),
        ("", '""'),
        ("é", '"é"'),
        ('a "b" \\', r'"a \"b\" \\"'),
        ("#{x} # {", r'"\#{x} # {"'),
        ("\a\b\x7f\x1b\f\n\r\t\v", r'"\a\b\d\e\f\n\r\t\v"'),
        ("a\u00a0\u200b\ufeff", r'"a\u00A0\u200B\uFEFF"'),
        ("a\0é", "<<97, 0, 195, 169>>"),
        ([], "[]"),
        ((), "{}"),
        ({}, "%{}"),
        (["a", ("b", None)], '["a", {"b", nil}]'),
        ({"table": None, "event": "*", "Z": [1, {"a": True}]}, None),
    ],
)
def test_a_value_is_quoted_as_elixir_does(value: object, text: str | None) -> None:
    assert inspect(value) == (text or '%{"Z" => [1, %{"a" => true}], "event" => "*", "table" => nil}')


def test_what_is_long_is_cut() -> None:
    assert inspect("x" * 4096) == '"' + "x" * 4096 + '"'
    assert inspect("x" * 4097) == '"' + "x" * 4096 + '" <> ...'
    assert inspect([1] * 50) == "[" + ", ".join("1" * 50) + "]"
    assert inspect([1] * 51) == "[" + ", ".join("1" * 50) + ", ...]"
    assert inspect([0] * 48 + [(1, 2, 3)]) == "[" + "0, " * 48 + "{1, ...}]"
    assert inspect({f"{n:02}": 1 for n in range(51)}).endswith('"49" => 1, ...}')
    assert inspect("\0" * 51) == "<<" + "0, " * 50 + "...>>"


def test_a_list_of_words_is_filled_up_to_the_width() -> None:
    words = ["a" * 20, "b" * 20, "c" * 20, "d" * 20]
    assert inspect(words[:3], 80) == f'["{words[0]}", "{words[1]}", "{words[2]}"]'
    assert inspect(words, 80) == f'["{words[0]}", "{words[1]}", "{words[2]}",\n "{words[3]}"]'


@pytest.mark.parametrize(("last", "broken"), [(7, False), (8, True)])
def test_a_line_may_be_as_wide_as_the_width_and_no_wider(last: int, broken: bool) -> None:
    text = inspect(["x" * 65, "y" * last], 80)
    assert ("\n" in text) is broken
    assert len(inspect(["x" * 65, "y" * 7], 80)) == 80


def test_width_is_counted_in_bytes() -> None:
    assert "\n" not in inspect(["é" * 20, "x" * 32], 80)
    assert "\n" in inspect(["é" * 20, "x" * 33], 80)


def test_a_list_of_tuples_has_each_in_lines_of_its_own() -> None:
    value = [("id", "in", "{" + "1" * 80 + "}", False), ("a", "eq", "1", True)]
    lines = ["[", '  {"id", "in",', '   "{' + "1" * 80 + '}",', "   false},", '  {"a", "eq", "1", true}', "]"]
    assert inspect(value, 80) == "\n".join(lines)


@given(value=JSON, width=st.none() | st.integers(0, 200))
def test_any_value_is_shown(value: object, width: int | None) -> None:
    assert inspect(value, width)


@given(members=st.lists(st.text("abc", max_size=9), max_size=40), width=st.integers(13, 100))
def test_breaking_changes_nothing_but_spaces(members: list[str], width: int) -> None:
    text = inspect(members, width)
    assert text.replace("\n", "") == inspect(members)
    assert all(len(line) <= width for line in text.split("\n")[:-1])
