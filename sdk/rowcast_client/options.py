"""Options: what a channel is asked for with, whole, so that two askings can be compared."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypedDict

from ._core.asking import Replay
from .errors import UsageError
from .payloads import text


class ReplayOptions(TypedDict, total=False):
    """Which earlier broadcasts a private channel hears first: the newest ``limit`` (1 to 25, 25 unless given)
    since then, a ``datetime`` with zone or milliseconds of Unix time. Only what the database sent is kept."""

    since: datetime | int
    limit: int


@dataclass(frozen=True, slots=True)
class Options:
    """The keywords of ``client.channel``."""

    private: bool = False
    ack: bool = False
    echo: bool = False
    presence_key: str | None = None
    replay: Replay | None = None
    store: bool = False

    def unlike(self, other: "Options") -> str | None:
        """The name of an option that differs, if one does."""
        names = (field.name for field in fields(self))
        return next((name for name in names if getattr(self, name) != getattr(other, name)), None)


def options(
    *,
    private: bool,
    ack: bool,
    echo: bool,
    presence_key: str | None,
    replay: Mapping[str, Any] | None,
    store: bool,
) -> Options:
    """The options of a channel. Raises UsageError for what can mean nothing."""
    if presence_key is not None:
        if not isinstance(presence_key, str) or not presence_key:
            raise UsageError("presence_key must be a text that is not empty")
        text(presence_key, "presence_key")
    if replay is not None and not (private or store):
        raise UsageError("only what is stored has a replay", hint="ask with private=True or store=True")
    earlier = None if replay is None else _replay(replay)
    return Options(private, ack, echo, presence_key, earlier, store)


def _replay(asked: Any) -> Replay:
    known = ReplayOptions.__annotations__.keys()
    if not isinstance(asked, Mapping) or "since" not in asked or asked.keys() - known:
        raise UsageError("replay must be a dict with since, and perhaps limit")
    since, limit = asked["since"], asked.get("limit")
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise UsageError("since has no zone", hint="datetime.now(UTC) has one")
        since = round(since.timestamp() * 1000)
    if not _whole(since) or (limit is not None and not (_whole(limit) and limit > 0)):
        hint = "since is a datetime or milliseconds of Unix time, limit a number from 1 to 25"
        raise UsageError("since and limit of a replay must be whole numbers", hint=hint)
    return Replay(since, limit)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
