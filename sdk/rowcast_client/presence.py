"""Presence: who is there on a channel, and what became of it, as a ``presence`` callback receives it."""

from dataclasses import dataclass
from typing import Any, Literal

PresenceKind = Literal["sync", "join", "leave"]


@dataclass(frozen=True, slots=True)
class Presence:
    """What one channel of somebody's shows of itself. Several may stand under one key."""

    ref: str
    """Of this presence alone: when the channel tracks something else, that has another."""
    key: str
    payload: dict[str, Any]
    """What was tracked."""


@dataclass(frozen=True, slots=True)
class PresenceEvent:
    """What a message of the server's changed.

    ``join`` and ``leave`` are of one ``key``: who came under it (``joined``), who went (``left``), and who is
    there under it now (``current``). Where a channel tracks something else, both happen at once: the events
    of that key have what is new in ``joined`` and what it takes the place of in ``left``.

    ``sync`` follows them, and comes with every message, also with one that changed nothing: ``key`` is None,
    ``joined`` and ``left`` are those of all keys, ``current`` is everybody.
    """

    event: PresenceKind
    key: str | None
    joined: tuple[Presence, ...]
    left: tuple[Presence, ...]
    current: tuple[Presence, ...]
