"""What the server is expected to say, as values, and how it is held against what it said.

JSON is compared as JSON, to the last digit and with the order of keys; white space between its tokens does
not count. What differs from run to run (a moment, a position) is known by its form.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rowcast.protocol.messages import Version

SUBSCRIBED = "Subscribed to PostgreSQL"
GIVEN = "Unable to subscribe to changes with given parameters."
DISABLED = f"{GIVEN} Please check Realtime is enabled for the given connect parameters:"
FAILED = f"{GIVEN} An exception happened so please check your connect parameters:"


@dataclass(frozen=True, slots=True)
class Form:
    """Any value of this type whose text matches the pattern as a whole."""

    type: type
    pattern: str


@dataclass(frozen=True, slots=True)
class Unordered:
    """A list of these members, in any order."""

    members: tuple[Any, ...]


MOMENT = Form(str, r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\d\.\d{3}Z")
NUMBER = Form(int, r"[1-9]\d*")
POSITION = Form(str, r"[A-Za-z0-9._~-]+")


@dataclass(frozen=True, slots=True)
class Change:
    """A ``postgres_changes`` message.

    ``columns`` is written ``name:type name:type``. ``entries`` are the entries of the join, by their place,
    whose ids it carries. ``client`` is who hears it, ``topic`` on which channel: the only one by default.
    ``dated`` is False where the original was seen to send no time of commit.
    """

    type: str
    table: str
    columns: str
    record: Mapping[str, Any] | None = None
    old_record: Mapping[str, Any] | None = None
    entries: tuple[int, ...] = (0,)
    errors: Sequence[str] | None = None
    schema: str = "public"
    client: str = "A"
    topic: str | None = None
    dated: bool = True

    def payload(self, ids: Sequence[int]) -> dict[str, Any]:
        """The payload, given the ids of all entries of the join; with what this server adds."""
        data: dict[str, Any] = {"table": self.table, "type": self.type}
        if self.record is not None:
            data["record"] = self.record
        data["columns"] = columns(self.columns)
        data["errors"] = self.errors
        data["schema"] = self.schema
        data["commit_timestamp"] = MOMENT if self.dated else None
        if self.old_record is not None:
            data["old_record"] = self.old_record
        data |= {"seq": NUMBER, "position": POSITION}
        return {"data": data, "ids": Unordered(tuple(ids[entry] for entry in self.entries))}


@dataclass(frozen=True, slots=True)
class Told:
    """A ``system`` message about a channel's subscription."""

    message: str
    status: str = "error"
    client: str = "A"
    topic: str | None = None

    def payload(self, name: str) -> dict[str, Any]:
        """The payload, for the channel of this name; with what this server adds."""
        said = {"message": self.message, "status": self.status, "extension": "postgres_changes"}
        return {**said, "channel": name, **({"position": POSITION} if self.status == "ok" else {})}


OK = Told(SUBSCRIBED, "ok")


def columns(text: str) -> list[dict[str, str]]:
    """``id:int8 txt:text`` as a message has it."""
    pairs = (pair.split(":") for pair in text.split())
    return [{"name": name, "type": type_} for name, type_ in pairs]


def frame(
    version: Version,
    topic: str,
    event: str,
    payload: Any,
    ref: str | None = None,
    join_ref: str | None = None,
) -> Any:
    """A message of the server's, in the order of its version."""
    if version is Version.V1:
        return {"ref": ref, "event": event, "payload": payload, "topic": topic}
    return [join_ref, ref, topic, event, payload]


def read(text: str) -> Any:
    """JSON with every digit. A key that stands twice in one object is a fault."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        assert len(found) == len(pairs), f"a key stands twice: {pairs}"
        return found

    return json.loads(text, parse_float=Decimal, object_pairs_hook=unique)


def mismatch(said: Any, expected: Any, place: str = "$") -> str | None:
    """Where and how the two differ first; None where they do not."""
    match expected:
        case Form(type_, pattern):
            if type(said) is type_ and re.fullmatch(pattern, str(said)):
                return None
            return f"{place}: {said!r} is not of the form {pattern}"
        case Unordered(members):
            if isinstance(said, list) and sorted(said) == sorted(members):
                return None
            return f"{place}: {said!r}, not {members!r} in some order"
        case Mapping():
            if not isinstance(said, dict) or list(said) != list(expected):
                return f"{place}: {said!r}, not an object of {list(expected)}"
            parts = [(key, said[key], expected[key]) for key in expected]
        case list() | tuple():
            if not isinstance(said, list) or len(said) != len(expected):
                return f"{place}: {said!r}, not a list of {len(expected)}"
            parts = [(n, *pair) for n, pair in enumerate(zip(said, expected, strict=True))]
        case _:
            # As text, since 1.1 and 1.10 are equal.
            same = type(said) is type(expected) and str(said) == str(expected)
            return None if same else f"{place}: {said!r}, not {expected!r}"
    for key, part, wanted in parts:
        if found := mismatch(part, wanted, f"{place}.{key}"):
            return found
    return None
