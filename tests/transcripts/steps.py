"""What a conversation is made of: joins and transactions, and what is heard after each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transcripts.differences import Difference
from transcripts.frames import OK, Change, Told

Event = Change | Told
Events = tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Differs:
    """What was seen there, and what is right here."""

    why: Difference
    there: Events
    here: Events


@dataclass(frozen=True, slots=True)
class Joins:
    """A client, a new socket the first time it is named, joins; then it hears this on the channel."""

    topic: str
    entries: tuple[Mapping[str, Any], ...]
    heard: Events | Differs = (OK,)
    client: str = "A"
    role: str = "anon"
    claims: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refreshes:
    """A client goes on with another token on a channel that it has joined; then it hears this on it."""

    topic: str
    role: str
    claims: Mapping[str, Any]
    heard: Events = (OK,)
    client: str = "A"


@dataclass(frozen=True, slots=True)
class Runs:
    """One transaction, and what is heard of it; ``quiet`` is False where the next is not to wait for it."""

    sql: str
    heard: Events | Differs = ()
    quiet: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """Steps, after some SQL that nobody hears of."""

    name: str
    setup: str
    steps: tuple[Joins | Refreshes | Runs, ...]


def on(table: str, event: str = "*", **more: Any) -> dict[str, Any]:
    """An entry of a join."""
    return {"event": event, "schema": "public", "table": table, **more}
