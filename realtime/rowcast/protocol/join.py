"""The payload of ``phx_join``, read leniently: a bad field falls back to its default, as clients expect.

A payload without ``config`` is a join of the old kind: its topic is what it subscribes to.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from rowcast.model.flag import flag

#: An entry is flat but for lists. The limit keeps its echo well within what can be encoded.
_MAX_NESTING: Final = 32
_MAX_REPLAY: Final = 25
#: Milliseconds.
_WAIT: Final = 15_000
_MAX_WAIT: Final = 20_000
#: In seconds. No token that is renewed lives on for long after such a warning.
_MAX_WARNING: Final = 3600.0
_LEGACY_PARTS: Final = ("schema", "table", "filter")

_encode: Final = msgspec.json.Encoder().encode


class JoinError(ValueError):
    """A join that is refused. The text is the reason of the reply."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a join asks to have sent again: at most ``limit`` broadcasts (1 to 25) since ``since``.

    ``since`` is in milliseconds since the Unix epoch, and None where what was asked for is not valid.
    """

    since: int | None
    limit: int

    def refusal(self, *, stored: bool) -> str | None:
        """Why nothing is sent again, or None. ``stored`` is whether the channel's messages may be kept."""
        if not stored:
            return "Replay is not allowed for public channels"
        return "Replay params are not valid" if self.since is None else None


@dataclass(frozen=True, slots=True)
class BroadcastOptions:
    """``config.broadcast``: whether a client hears itself, and is answered; what it missed and wants; whether
    what it sends is stored."""

    echo: bool = False
    ack: bool = False
    replication_ready: bool = False
    replay: Replay | None = None
    store: bool = False


@dataclass(frozen=True, slots=True)
class PresenceOptions:
    """``config.presence``. ``key`` is None when the server is to choose one."""

    enabled: bool = False
    key: str | None = None


@dataclass(frozen=True, slots=True)
class JoinPayload:
    """What a join asks for. ``token`` is None when the connection's own is to be used.

    ``entries`` are the client's own objects, to be echoed; ``size`` is that of their JSON in bytes.
    ``legacy`` is a join of the old kind: its one entry comes from the topic. ``token_warning`` is how many
    seconds before its token ends the client wants to be told (0 to 3600), and None where it does not.
    ``wait`` is for how many seconds (at most 20) the reply may wait until its entries are subscribed; None is
    not at all. ``resume`` is the text of the position to resume from, whatever it holds; ``gap``, ``group``,
    ``health``, ``messages``, ``leave`` and ``truncate`` are what is wanted beyond Supabase's, the last two by
    every entry.
    """

    private: bool
    token: str | None
    entries: tuple[dict[str, Any], ...]
    size: int
    broadcast: BroadcastOptions = BroadcastOptions()
    presence: PresenceOptions = PresenceOptions()
    legacy: bool = False
    token_warning: float | None = None
    wait: float | None = None
    resume: str | None = None
    gap: bool = False
    group: bool = False
    health: bool = False
    messages: bool = False
    leave: bool = False
    truncate: bool = False


def parse_join(payload: Any, name: str) -> JoinPayload:
    """Read the payload of a join. ``name`` is its topic without the prefix.

    Raises JoinError when it, or its ``config``, is not an object, an entry is nested too deeply, or it does
    not say one position to resume from.
    """
    if not isinstance(payload, dict):
        raise JoinError("UnknownErrorOnChannel: expected the payload of the join to be an object")
    legacy = "config" not in payload
    config = payload.get("config")
    if not isinstance(config, dict | None):
        raise JoinError("UnknownErrorOnChannel: expected `config` to be an object")
    config = config or {}
    entries = (_legacy_entry(name),) if legacy else _entries(config.get("postgres_changes"))
    ours = _object(config.get("rowcast"))
    return JoinPayload(
        private=flag(config.get("private")),
        token=_token(payload),
        entries=entries,
        size=len(_encode(entries)),
        broadcast=_broadcast(_object(config.get("broadcast"))),
        presence=_presence(_object(config.get("presence"))),
        legacy=legacy,
        token_warning=_warning(ours.get("token_warning")),
        wait=_wait(_object(config.get("postgres_changes_options"))),
        resume=_resume([config, *entries]),
        gap=flag(ours.get("gap")),
        group=ours.get("group") == "transaction",
        health=flag(ours.get("health")),
        messages=flag(ours.get("messages")),
        leave=flag(ours.get("leave")),
        truncate=flag(ours.get("truncate")),
    )


def usable_token(value: Any) -> str | None:
    """A token that stands for somebody: a string that is no opaque ``sb_`` key."""
    return value if isinstance(value, str) and not value.startswith("sb_") else None


def _legacy_entry(name: str) -> dict[str, Any]:
    """``<schema>[:<table>[:<filter>]]`` as an entry. A filter may hold colons."""
    return dict(zip(_LEGACY_PARTS, name.split(":", 2), strict=False))


def _entries(value: Any) -> tuple[dict[str, Any], ...]:
    entries = tuple(entry for entry in value if isinstance(entry, dict)) if isinstance(value, list) else ()
    if not all(_within(entry, _MAX_NESTING) for entry in entries):
        raise JoinError(
            f"UnknownErrorOnChannel: expected `postgres_changes` to be at most {_MAX_NESTING} levels deep"
        )
    return entries


def _resume(places: Iterable[Mapping[str, Any]]) -> str | None:
    """The position to resume from, wherever it stands."""
    positions: set[str] = set()
    for wanted in (place["resume"] for place in places if place.get("resume") is not None):
        position = wanted.get("position") if isinstance(wanted, dict) else None
        if not isinstance(position, str):
            raise JoinError(
                "InvalidResume: expected `resume` to be an object with a `position` that is a string"
            )
        positions.add(position)
    if len(positions) > 1:
        raise JoinError(
            "InvalidResume: expected one position in a join. Use another channel for another position."
        )
    return positions.pop() if positions else None


def _within(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested at most so many levels deep."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return True
    return levels > 0 and all(_within(inner, levels - 1) for inner in value)


def _token(payload: Mapping[str, Any]) -> str | None:
    for name in ("user_token", "access_token"):
        if isinstance(payload.get(name), str):
            return usable_token(payload[name])
    return None


def _broadcast(options: Mapping[str, Any]) -> BroadcastOptions:
    return BroadcastOptions(
        echo=flag(options.get("self")),
        ack=flag(options.get("ack")),
        replication_ready=flag(options.get("replication_ready")),
        replay=_replay(options.get("replay")),
        store=flag(options.get("store")),
    )


def _replay(value: Any) -> Replay | None:
    if value is None:
        return None
    options = _object(value)
    since, limit = options.get("since"), options.get("limit")
    limit = _MAX_REPLAY if limit is None else limit
    if not (_is_integer(since) and _is_integer(limit)):
        return Replay(None, _MAX_REPLAY)
    return Replay(since, min(max(limit, 1), _MAX_REPLAY))


def _wait(options: Mapping[str, Any]) -> float | None:
    if not flag(options.get("wait")):
        return None
    timeout = options.get("timeout")
    given = timeout if isinstance(timeout, int) and not isinstance(timeout, bool) and timeout >= 0 else _WAIT
    return min(given, _MAX_WAIT) / 1000


def _presence(options: Mapping[str, Any]) -> PresenceOptions:
    return PresenceOptions(enabled=flag(options.get("enabled")), key=_key(options.get("key")))


def _warning(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return None
    # In this order: an integer may be too large for a float.
    return float(min(value, _MAX_WARNING))


def _key(value: Any) -> str | None:
    """Any scalar can be a key; one that is not a string is its JSON."""
    if isinstance(value, str):
        return value or None
    return _encode(value).decode() if isinstance(value, int | float) else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
