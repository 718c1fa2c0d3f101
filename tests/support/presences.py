"""Presence as a client of either version hears it, with its references by name."""

import json
from typing import Any

from rowcast.protocol.messages import Version
from support.frames import Client


class Watcher:
    """A client, and the references that it has heard of: each is called by the order in which it came.

    Several may share ``names``.
    """

    def __init__(self, client: Client, names: dict[str, str] | None = None) -> None:
        self.client = client
        self.names: dict[str, str] = {} if names is None else names
        self.join_ref = "11"

    async def track(self, topic: str, ref: str, *payload: Any, event: str = "track") -> None:
        given = {"payload": payload[0]} if payload else {}
        await self.client.say(
            topic, "presence", {"type": "presence", "event": event, **given}, ref, self.join_ref
        )

    async def untrack(self, topic: str, ref: str) -> None:
        await self.client.say(topic, "presence", {"type": "presence", "event": "untrack"}, ref, self.join_ref)

    async def hears_state(self, topic: str, state: Any, join_ref: str | None = "11") -> None:
        """Assert that `presence_state` comes next."""
        assert await self.heard_state(topic, join_ref) == state

    async def hears_diff(self, topic: str, joins: Any = None, leaves: Any = None) -> None:
        """Assert that `presence_diff` comes next."""
        assert await self.heard_diff(topic) == (joins or {}, leaves or {})

    async def heard_state(self, topic: str, join_ref: str | None = "11") -> Any:
        """The state that comes next: metas by key."""
        return self._named(await self._next(topic, "presence_state", join_ref))

    async def heard_diff(self, topic: str) -> tuple[Any, Any]:
        """What joins and what leaves by the diff that comes next: metas by key."""
        found = await self._next(topic, "presence_diff", None)
        assert list(found) == ["joins", "leaves"]
        return self._named(found["joins"]), self._named(found["leaves"])

    async def _next(self, topic: str, event: str, join_ref: str | None) -> Any:
        heard = json.loads(await self.client.hear())
        if self.client.version is Version.V1:
            assert list(heard) == ["ref", "event", "payload", "topic"]
            assert (heard["ref"], heard["event"], heard["topic"]) == (None, event, topic)
            return heard["payload"]
        assert heard[:4] == [join_ref, None, topic, event]
        return heard[4]

    def _named(self, presences: Any) -> Any:
        """By key, the metas with the names of their references."""
        named = {}
        for key, presence in presences.items():
            assert list(presence) == ["metas"]
            named[key] = [self._meta(**meta) for meta in presence["metas"]]
        return named

    def _meta(self, phx_ref: str, **rest: Any) -> dict[str, Any]:
        name = self.names.setdefault(phx_ref, f"r{len(self.names) + 1}")
        if "phx_ref_prev" in rest:
            rest["phx_ref_prev"] = self.names.get(rest["phx_ref_prev"], rest["phx_ref_prev"])
        return {"phx_ref": name, **rest}
