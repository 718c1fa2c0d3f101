"""Asking: what a channel is subscribed with, and how its join says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Binding = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Replay:
    """Which earlier broadcasts to hear first: the newest ``limit`` since then (ms of Unix time)."""

    since: int
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class How:
    """What holds for a channel as a whole.

    ``group``: changes come by the transaction. The channel begins at the present, or after the position
    ``resume``, or, with ``stored``, after the one that the answer to ``Load`` gives. ``ack``: broadcasts are
    answered. ``echo``: it hears its own. ``presence``: it is told who is present, and is so itself under
    ``presence_key``, or a key that the server makes. ``messages``: it hears those of the database as a part
    of the stream, where the server can. ``store``: its broadcasts are stored, and answered.
    """

    private: bool = False
    group: bool = False
    resume: str | None = None
    stored: bool = False
    ack: bool = False
    echo: bool = False
    presence: bool = False
    presence_key: str | None = None
    replay: Replay | None = None
    messages: bool = False
    store: bool = False


def config(
    bindings: Sequence[Binding], how: How, warning: float | None, resume: str | None
) -> dict[str, Any]:
    """The ``config`` of a join. ``warning``: how many seconds before its token's end to be told of it."""
    config: dict[str, Any] = {"postgres_changes": list(bindings)}
    if how.private:
        config["private"] = True
    if broadcast := _broadcast(how, resume):
        config["broadcast"] = broadcast
    if how.presence:
        key = {} if how.presence_key is None else {"key": how.presence_key}
        config["presence"] = {"enabled": True, **key}
    asked: dict[str, Any] = {"gap": True} if bindings or how.messages else {}
    if how.messages:
        asked["messages"] = True
    if how.group:
        asked["group"] = "transaction"
    if warning is not None:
        asked["token_warning"] = warning
    if asked:
        config["rowcast"] = asked
    if resume is not None:
        config["resume"] = {"position": resume}
    return config


def _broadcast(how: How, resume: str | None) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if how.ack or how.store:
        asked["ack"] = True
    if how.echo:
        asked["self"] = True
    if how.store:
        asked["store"] = True
    # Who goes on from somewhere has heard what was before.
    if how.replay is not None and resume is None:
        limit = {} if how.replay.limit is None else {"limit": how.replay.limit}
        asked["replay"] = {"since": how.replay.since, **limit}
    return asked


def snapshots(bindings: Sequence[Binding]) -> frozenset[int]:
    """The indices of those that want a snapshot."""
    return frozenset(index for index, binding in enumerate(bindings) if binding.get("snapshot"))
