"""Filters: refused with a reason, or read; and what is written of them is read as the same.

A text that begins with ``!`` is a plan by which a filter is built, so that every kind of it is written, too;
any other is a filter's text.
"""

from collections.abc import Iterator
from typing import Final

from rowcast.model.filter import (
    MAX_CONDITIONS,
    MAX_NESTING,
    MAX_STEPS,
    Condition,
    Filter,
    FilterError,
    Group,
    Op,
    Step,
    conditions,
    parse_filter,
    write_filter,
    write_path,
)

_OPS: Final = tuple(Op)


def fuzz_filters(data: bytes) -> None:
    """Read one filter, write it, and read that."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    if text.startswith("!"):
        built = _built(iter(text[1:].split("|")))
        if sum(1 for _ in conditions(built)) <= MAX_CONDITIONS:
            check_written(built)
        return
    try:
        found = parse_filter(text)
    except FilterError:
        return
    if found is not None:
        check_filter(found)


def check_filter(found: Filter) -> None:
    """What holds for every filter that was read."""
    parts = list(conditions(found))
    assert 0 < len(parts) <= MAX_CONDITIONS
    # A list of conditions is a group as well.
    assert _depth(found) <= MAX_NESTING + 1
    for part in parts:
        assert len(part.path) <= MAX_STEPS
        assert part.op is not Op.IN or (part.value[0], part.value[-1]) == ("{", "}")
        assert "\0" not in part.column + part.value + write_path(part.path)
    check_written(found)


def check_written(filter_: Filter) -> None:
    """That a filter is read as what was written."""
    text = write_filter(filter_)
    again = parse_filter(text)
    assert again == filter_, text
    assert write_filter(again) == text


def _depth(filter_: Filter) -> int:
    return 1 + max(map(_depth, filter_.parts)) if isinstance(filter_, Group) else 0


def _built(words: Iterator[str]) -> Filter:
    """A filter from a plan: a word's first character says what it adds, the rest is its text."""
    planned = (_part(word, words, MAX_NESTING - 1) for word, _ in zip(words, range(20), strict=False))
    parts = [part for part in planned if part is not None] or [Condition("a", (), Op.EQ, "", False)]
    return parts[0] if len(parts) == 1 else Group(False, False, tuple(parts))


def _part(word: str, words: Iterator[str], depth: int) -> Filter | None:
    match word[:1]:
        case ")" | "":
            return None
        case "(" if depth:
            members: list[Filter] = []
            for inner in words:
                part = _part(inner, words, depth - 1)
                if part is None or len(members) == 3:
                    break
                members.append(part)
            negated = "n" in word
            if negated or len(members) > 1:
                return Group("o" in word, negated, tuple(members or [Condition("", (), Op.IS, "", False)]))
            return members[0] if members else None
    return _condition(word[0], word[1:].replace("\0", ""))


def _condition(first: str, text: str) -> Condition:
    column, _, rest = text.partition("~")
    value, *keys = rest.split("~")
    op = _OPS[ord(first) % len(_OPS)]
    path = tuple(Step(key[:1] == ">", _key(key.removeprefix(">"))) for key in keys[:MAX_STEPS])
    return Condition(column, path, op, f"{{{value}}}" if op is Op.IN else value, ord(first) > 0x60)


def _key(text: str) -> str | int:
    digits = text.removeprefix("-")
    plain = digits.isascii() and digits.isdecimal() and len(digits) < 10
    # As it is written: -0 is 0, and 007 is 7.
    return int(text) if plain else text
