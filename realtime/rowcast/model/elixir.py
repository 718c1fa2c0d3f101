"""JSON values in Elixir's notation, in which Supabase's server quotes values in its error texts.

Lists and tuples are Elixir's lists and tuples, objects are its maps. What is long is cut as there: 50 members
of a container, less the place of the container in its own, and 4,096 characters of a string. This module
performs no I/O.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_MEMBERS: Final = 50
_CHARACTERS: Final = 4096
_WORDS: Final[Mapping[bool | None, str]] = {None: "nil", True: "true", False: "false"}
#: A string with one of these is shown as its bytes.
_UNPRINTABLE: Final = re.compile("[\0-\6\x0e-\x1a\x1c-\x1f\x80-\x9f\ud800-\udfff\ufffe\uffff]")
_NAMED: Final = dict(zip("\a\b\x7f\x1b\f\n\r\t\v", "abdefnrtv", strict=True))
#: Spaces and marks that would be taken for something else are shown by their number.
_ESCAPED: Final = re.compile(
    '#\\{|["\\\\\a\b\x7f\x1b\f\n\r\t\v'
    "\xa0\u034f\u061c\u2000-\u200f\u2028-\u202e\u205f-\u2064\u2066-\u2069\ufeff\ufff9-\ufffc]"
)


@dataclass(frozen=True, slots=True)
class _Container:
    """Members between brackets, and all of it on one line."""

    open: str
    members: "Sequence[str | _Container]"
    close: str
    flat: str


def inspect(value: object, width: int | None = None) -> str:
    """A value of JSON, or a tuple of such, as Elixir's ``inspect`` writes it.

    With ``width``, a list or tuple of more bytes is broken into lines.
    """
    return _lines(_document(value, _MEMBERS), width, 0, "")


def _document(value: object, limit: int) -> str | _Container:
    match value:
        case None | bool():
            return _WORDS[value]
        case str():
            return _string(value, limit)
        case list():
            return _container("[", value, "]", limit)
        case tuple():
            return _container("{", value, "}", limit)
        case dict():
            pairs = sorted((_bytes(key), key, inner) for key, inner in value.items())
            shown = [
                f"{_string(key, left)} => {_flat(_document(inner, left))}"
                for left, (_, key, inner) in zip(range(limit - 1, -1, -1), pairs, strict=False)
            ]
            return "%{" + ", ".join(shown + ["..."] * (len(pairs) > limit)) + "}"
    return str(value)


def _container(open_: str, values: Sequence[object], close: str, limit: int) -> str | _Container:
    if not values:
        return open_ + close
    members = [_document(inner, left) for left, inner in zip(range(limit - 1, -1, -1), values, strict=False)]
    members += ["..."] * (len(values) > limit)
    return _Container(open_, members, close, f"{open_}{', '.join(map(_flat, members))}{close}")


def _flat(document: str | _Container) -> str:
    return document if isinstance(document, str) else document.flat


def _lines(document: str | _Container, width: int | None, indent: int, after: str) -> str:
    """The document at a line's start, or where its ``indent`` is; ``after`` follows its last line."""
    if isinstance(document, str) or width is None or indent + len(_bytes(document.flat)) <= width:
        return _flat(document) + after
    ends = [","] * (len(document.members) - 1) + [document.close + after]
    if all(isinstance(member, str) for member in document.members):
        return _filled(document, ends, width, indent + 1)
    margin = "\n" + " " * (indent + 2)
    ends[-1] = ""
    lines = [
        _lines(member, width, indent + 2, end) for member, end in zip(document.members, ends, strict=True)
    ]
    return document.open + margin + margin.join(lines) + "\n" + " " * indent + document.close + after


def _filled(document: _Container, ends: Sequence[str], width: int, indent: int) -> str:
    """As many members in each line as fit: what has nothing but words within is written so."""
    written, column = [document.open], indent
    for member, end in zip(document.members, ends, strict=True):
        text = _flat(member) + end
        size = len(_bytes(text))
        if len(written) > 1:
            fits = column + 1 + size <= width
            written.append(" " if fits else "\n" + " " * indent)
            column = column + 1 if fits else indent
        written.append(text)
        column += size
    return "".join(written)


def _string(text: str, limit: int) -> str:
    start = text[:_CHARACTERS]
    if _UNPRINTABLE.search(start):
        data = _bytes(text)
        return f"<<{', '.join([*map(str, data[:limit]), *['...'] * (len(data) > limit)])}>>"
    return f'"{_ESCAPED.sub(_escape, start)}"' + " <> ..." * (len(text) > _CHARACTERS)


def _escape(match: re.Match[str]) -> str:
    found = match[0]
    if found in _NAMED:
        return "\\" + _NAMED[found]
    return f"\\u{ord(found):04X}" if found > "\x7f" else "\\" + found


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
