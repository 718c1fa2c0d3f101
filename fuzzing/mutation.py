"""Changes to an input that keep it an input: of lines, and of the JSON within a line.

Bytes changed at random are seldom JSON. Every second change is one of those all the same.
"""

import random
from collections.abc import Callable
from typing import Any, Final

import msgspec

_WORDS: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 2**53, 2**64, 10**400, 1.5, -0.0, 1e300, "", "*", "\0", "é", "\u2028", "😀",
    "anon", "user:500", "user:9", "bad", "sb_x", "a.b.c", "true", "null", "public", "todos", "x" * 300,
    "id=eq.1", "or=(a.eq.1,b.is.null)", "phx_join", "phx_leave", "access_token", "heartbeat", "broadcast",
    "presence", "phoenix", "realtime:", "realtime:a", "realtime:b", "realtime:public:todos:id=eq.1",
    "NaN", "\\xab", {}, [], {"config": {}}, {"postgres_changes": []}, {"schema": "public", "table": "todos"},
    "json", "bytea", "numeric", "float8", "any", "text",
    {"array": "json"}, {"row": [["a", "json"], ["b", "float8"]]},
)  # fmt: skip
_KEYS: Final = (
    "config", "postgres_changes", "event", "schema", "table", "filter", "select", "private", "broadcast",
    "presence", "self", "ack", "replay", "since", "limit", "enabled", "key", "access_token", "user_token",
    "auth_token", "id", "topic", "payload", "ref", "join_ref", "a", "b", "",
)  # fmt: skip
_MARKS: Final = ('"', "(", ")", ",", ".", "=", ":", "\\", "\0", "é", "->", " ")

Mutate = Callable[[bytes, int], bytes]


def mutate(data: bytes, max_size: int, seed: int, bytewise: Mutate) -> bytes:
    """A change of ``data``, of at most ``max_size`` bytes."""
    chance = random.Random(seed)
    if chance.random() < 0.5:
        return bytewise(data, max_size)
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    match chance.randrange(8):
        case 0 if len(lines) > 1:
            del lines[at]
        case 1:
            lines.insert(chance.randrange(len(lines) + 1), lines[at])
        case 2:
            other = chance.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case _:
            lines[at] = _line(lines[at], chance) or bytewise(lines[at], max(1, max_size // 2))
    return b"\n".join(lines)[:max_size]


def _line(line: bytes, chance: random.Random) -> bytes | None:
    """The line with its JSON changed, which may stand behind one byte."""
    for skipped in (0, 1):
        try:
            value = msgspec.json.decode(line[skipped:])
        except (ValueError, RecursionError):
            continue
        try:
            return line[:skipped] + msgspec.json.encode(_changed(value, chance))
        except (msgspec.EncodeError, ValueError, RecursionError):
            return None
    return None


def _changed(value: Any, chance: random.Random) -> Any:
    deeper = chance.random() < 0.8
    match value:
        case dict() if value and deeper:
            key = chance.choice(list(value))
            return {**value, key: _changed(value[key], chance)}
        case dict():
            return _object(value, chance)
        case list() if value and deeper:
            at = chance.randrange(len(value))
            return [*value[:at], _changed(value[at], chance), *value[at + 1 :]]
        case list():
            return _list(value, chance)
        case str() if chance.random() < 0.5:
            at = chance.randrange(len(value) + 1)
            return value[:at] + chance.choice(_MARKS) + value[at:]
        case _:
            return chance.choice(_WORDS)


def _object(value: dict[str, Any], chance: random.Random) -> Any:
    keys = list(value)
    match chance.randrange(4):
        case 0 if keys:
            gone = chance.choice(keys)
            return {key: inner for key, inner in value.items() if key != gone}
        case 1:
            chance.shuffle(keys)
            return {key: value[key] for key in keys}
        case 2:
            return {**value, chance.choice(_KEYS): chance.choice([value, *_WORDS])}
        case _:
            return chance.choice([[value], *_WORDS])


def _list(value: list[Any], chance: random.Random) -> Any:
    match chance.randrange(4):
        case 0 if value:
            del value[chance.randrange(len(value))]
            return value
        case 1:
            return value * 2
        case 2:
            return [*value, chance.choice([*value, *_WORDS])]
        case _:
            return chance.choice([{"a": value}, *_WORDS])
