"""The payload of ``phx_join``, read leniently: a bad field falls back to its default, as clients expect."""

from dataclasses import dataclass
from typing import Any


class JoinError(ValueError):
    """A join that is refused for its payload. The text is the reason of the reply."""


@dataclass(frozen=True, slots=True)
class JoinPayload:
    """What a join asks for. ``token`` is None when the connection's own is to be used."""

    private: bool
    token: str | None
    entries: tuple[dict[str, Any], ...]


def parse_join(payload: Any) -> JoinPayload:
    """Read the payload of a join. Raises JoinError when it, or its ``config``, is not an object."""
    if not isinstance(payload, dict):
        raise JoinError("UnknownErrorOnChannel: expected the payload of the join to be an object")
    config = payload.get("config", {})
    if not isinstance(config, dict):
        raise JoinError("UnknownErrorOnChannel: expected `config` to be an object")
    entries = config.get("postgres_changes")
    return JoinPayload(
        private=_flag(config.get("private")),
        token=_token(payload),
        entries=tuple(entry for entry in entries if isinstance(entry, dict))
        if isinstance(entries, list)
        else (),
    )


def usable_token(value: Any) -> str | None:
    """A token that stands for somebody: a string that is no opaque ``sb_`` key."""
    return value if isinstance(value, str) and not value.startswith("sb_") else None


def _token(payload: dict[str, Any]) -> str | None:
    for name in ("user_token", "access_token"):
        if isinstance(payload.get(name), str):
            return usable_token(payload[name])
    return None


def _flag(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")
