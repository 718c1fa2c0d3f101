"""Filters against a plain telling of Supabase's grammar: both read, or refuse, the same texts alike."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rowcast.model.elixir import inspect
from rowcast.model.filter import FilterError, Op, conditions, parse_filter

PREFIX = "Error parsing `filter` params: "
EMPTY = "filter must not contain empty segments (check for extra commas)"
BARE_IN = "`in` filter value must be wrapped by parentheses"

WORDS = 'a;b c; ;,;,a=eq.;.;=;(;);";"),;\\;not.;or(;é;\n'
SCRAPS = st.lists(st.sampled_from(WORDS.split(";")), max_size=12).map("".join)
BEGINNINGS = st.sampled_from(["", "a=eq.", 'a=eq."', "a=not.in.(", 'a=in.("', "a=in."])


def supabase_segments(text: str) -> list[str]:
    """Supabase's splitting, told character by character."""
    segments, depth, quoted, escaped, previous = [""], 0, False, False, ""
    for character in text:
        if quoted:
            quoted = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"' and previous and previous in ".(,":
            quoted = True
        elif character == "(":
            depth += 1
        elif character == ")":
            depth = max(0, depth - 1)
        elif character == "," and not depth:
            segments.append("")
            previous = ""
            continue
        segments[-1] += character
        previous = character
    return segments


def supabase_value(op: str, value: str) -> str | None:
    """Supabase's reading of a value; None where it refuses it."""
    if op == "in":
        return "{" + value[1:-1] + "}" if len(value) > 1 and value[0] + value[-1] == "()" else None
    if not value.startswith('"'):
        return value
    unquoted, rest = "", list(value[1:])
    while rest:
        character = rest.pop(0)
        if character == '"':
            return value if rest else unquoted
        unquoted += rest.pop(0) if character == "\\" and rest else character
    return value


def supabase(text: str) -> list[tuple[str, str, str, bool]] | str:
    """Supabase's reading of a filter: its conditions, or the reason why it is refused."""
    read = []
    for segment in supabase_segments(text.strip()):
        if not (trimmed := segment.strip()):
            return EMPTY
        column, equals, rest = trimmed.partition("=")
        if not equals:
            return inspect([trimmed])
        op, *values = rest.removeprefix("not.").split(".", 1)
        if op not in list(Op) or not values:
            return inspect([op, *values])
        if (value := supabase_value(op, values[0])) is None:
            return BARE_IN
        read.append((column, op, value, rest.startswith("not.")))
    return read


@settings(max_examples=500)
@given(scraps=st.lists(st.tuples(BEGINNINGS, SCRAPS), min_size=1, max_size=3))
def test_a_text_is_read_or_refused_as_supabase_does(
    scraps: list[tuple[str, str]],
) -> None:
    text = ",".join(begin + scrap for begin, scrap in scraps)
    assume(text.strip() and 'in."{' not in text)
    expected = supabase(text)
    if isinstance(expected, list):
        found = parse_filter(text)
        assert found is not None
        assert [(c.column, c.op, c.value, c.negated) for c in conditions(found)] == expected
        assert not any(c.path for c in conditions(found))
    elif not any(word in text for word in ("or(", "and(", "or=(", "and=(")):
        with pytest.raises(FilterError) as caught:
            parse_filter(text)
        assert str(caught.value) == PREFIX + expected
