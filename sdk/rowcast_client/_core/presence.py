"""Presence: who is there, as a state and what changes it tell.

A state is the whole of it, and comes with each join; a difference is what became of it since. What comes
before the state of its join is kept, and applied after it. A presence is known by its reference: a state that
follows a reconnect tells who came and who went meanwhile.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import ProtocolError
from ..presence import Presence, PresenceEvent
from .wants import Present

#: How many differences are kept before the state of their join: it holds what is older.
_KEPT = 1000

ByKey = Mapping[str, tuple[Presence, ...]]


class _Entry(msgspec.Struct):
    metas: list[dict[str, Any]]


class _Diff(msgspec.Struct):
    joins: dict[str, _Entry] = {}
    leaves: dict[str, _Entry] = {}


_state = msgspec.json.Decoder(dict[str, _Entry])
_diff = msgspec.json.Decoder(_Diff)


class Roster:
    """Who is there on one channel."""

    def __init__(self) -> None:
        self._there: dict[str, tuple[Presence, ...]] = {}
        self._join_ref: str | None = None
        self._kept: deque[tuple[str, ByKey, ByKey]] = deque(maxlen=_KEPT)

    def state(self) -> dict[str, list[Presence]]:
        """Who is there, by key."""
        return {key: list(presences) for key, presences in self._there.items()}

    def clear(self) -> None:
        """The channel was left: nobody is there that it knows of."""
        self._there, self._join_ref = {}, None
        self._kept.clear()

    def told(self, told: Present) -> list[PresenceEvent]:
        """What a message changes, in the order to tell it. Raises ProtocolError if it cannot be read."""
        try:
            if told.whole:
                return self._whole(told.join_ref, _read(_state.decode(told.data)))
            diff = _diff.decode(told.data)
            joins, leaves = _read(diff.joins), _read(diff.leaves)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
            raise ProtocolError("a presence message has another shape than the protocol's") from fault
        if told.join_ref != self._join_ref:
            self._kept.append((told.join_ref, joins, leaves))
            return []
        return self._change(joins, leaves)

    def _whole(self, join_ref: str, there: ByKey) -> list[PresenceEvent]:
        self._join_ref = join_ref
        gone = {key: _without(those, there.get(key, ())) for key, those in self._there.items()}
        events = self._change(there, gone)
        kept = [(joins, leaves) for of, joins, leaves in self._kept if of == join_ref]
        self._kept.clear()
        for joins, leaves in kept:
            events += self._change(joins, leaves)
        return events

    def _change(self, joins: ByKey, leaves: ByKey) -> list[PresenceEvent]:
        events: list[PresenceEvent] = []
        for key in dict.fromkeys((*joins, *leaves)):
            before = self._there.get(key, ())
            after = _without((*before, *_without(joins.get(key, ()), before)), leaves.get(key, ()))
            joined, left = _without(after, before), _without(before, after)
            if after:
                self._there[key] = after
            else:
                self._there.pop(key, None)
            if joined:
                events.append(PresenceEvent("join", key, joined, left, after))
            if left:
                events.append(PresenceEvent("leave", key, joined, left, after))
        came = tuple(one for event in events if event.event == "join" for one in event.joined)
        went = tuple(one for event in events if event.event == "leave" for one in event.left)
        everybody = tuple(one for those in self._there.values() for one in those)
        return [*events, PresenceEvent("sync", None, came, went, everybody)]


def _without(those: tuple[Presence, ...], others: tuple[Presence, ...]) -> tuple[Presence, ...]:
    refs = {one.ref for one in others}
    return tuple(one for one in those if one.ref not in refs)


def _read(entries: Mapping[str, _Entry]) -> dict[str, tuple[Presence, ...]]:
    return {key: tuple(_presence(key, meta) for meta in entry.metas) for key, entry in entries.items()}


def _presence(key: str, meta: dict[str, Any]) -> Presence:
    ref = meta.pop("phx_ref", None)
    if not isinstance(ref, str):
        raise msgspec.ValidationError("a presence without a reference")
    meta.pop("phx_ref_prev", None)
    return Presence(ref, key, meta)
