"""The payload of ``phx_join``, read leniently: a bad field falls back to its default, as clients expect."""

from dataclasses import dataclass
from typing import Any, Final

#: An entry is flat but for lists. The limit keeps its echo well within what can be encoded.
_MAX_NESTING: Final = 32


class JoinError(ValueError):
    """A join that is refused for its payload. The text is the reason of the reply."""


@dataclass(frozen=True, slots=True)
class JoinPayload:
    """What a join asks for. ``token`` is None when the connection's own is to be used."""

    private: bool
    token: str | None
    entries: tuple[dict[str, Any], ...]


def parse_join(payload: Any) -> JoinPayload:
    """Read the payload of a join. Raises JoinError when it, or its ``config``, is not an object, or an entry
    is nested too deeply."""
    if not isinstance(payload, dict):
        raise JoinError("UnknownErrorOnChannel: expected the payload of the join to be an object")
    config = payload.get("config", {})
    if not isinstance(config, dict):
        raise JoinError("UnknownErrorOnChannel: expected `config` to be an object")
    return JoinPayload(
        private=_flag(config.get("private")),
        token=_token(payload),
        entries=_entries(config.get("postgres_changes")),
    )


def usable_token(value: Any) -> str | None:
    """A token that stands for somebody: a string that is no opaque ``sb_`` key."""
    return value if isinstance(value, str) and not value.startswith("sb_") else None


def _entries(value: Any) -> tuple[dict[str, Any], ...]:
    entries = tuple(entry for entry in value if isinstance(entry, dict)) if isinstance(value, list) else ()
    if not all(_within(entry, _MAX_NESTING) for entry in entries):
        raise JoinError(
            f"UnknownErrorOnChannel: expected `postgres_changes` to be at most {_MAX_NESTING} levels deep"
        )
    return entries


def _within(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested at most so many levels deep."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return True
    return levels > 0 and all(_within(inner, levels - 1) for inner in value)


def _token(payload: dict[str, Any]) -> str | None:
    for name in ("user_token", "access_token"):
        if isinstance(payload.get(name), str):
            return usable_token(payload[name])
    return None


def _flag(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")
