"""Asking: what a channel is subscribed with, and how its join says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Binding = dict[str, Any]


@dataclass(frozen=True, slots=True)
class How:
    """What holds for a channel as a whole.

    ``group``: changes come by the transaction. The channel begins at the present, or after the position
    ``resume``, or, with ``stored``, after the one that the answer to ``Load`` gives.
    """

    private: bool = False
    group: bool = False
    resume: str | None = None
    stored: bool = False


def config(
    bindings: Sequence[Binding], how: How, warning: float | None, resume: str | None
) -> dict[str, Any]:
    """The ``config`` of a join. ``warning``: how many seconds before its token's end to be told of it."""
    config: dict[str, Any] = {"postgres_changes": list(bindings)}
    if how.private:
        config["private"] = True
    asked: dict[str, Any] = {"gap": True} if bindings else {}
    if how.group:
        asked["group"] = "transaction"
    if warning is not None:
        asked["token_warning"] = warning
    if asked:
        config["rowcast"] = asked
    if resume is not None:
        config["resume"] = {"position": resume}
    return config


def snapshots(bindings: Sequence[Binding]) -> frozenset[int]:
    """The indices of those that want a snapshot."""
    return frozenset(index for index, binding in enumerate(bindings) if binding.get("snapshot"))
