"""Phases: where a channel stands, and how long it may stand there. ``join`` draws how it moves."""

from dataclasses import dataclass
from enum import Enum, auto

from ..states import ChannelState


class Phase(Enum):
    """Where a channel stands."""

    IDLE = auto()
    WAITING = auto()
    LOADING = auto()
    AUTHORIZING = auto()
    JOINING = auto()
    CONFIRMING = auto()
    SUBSCRIBED = auto()
    LEAVING = auto()


AWAITING_ANSWER = frozenset(
    {Phase.LOADING, Phase.AUTHORIZING, Phase.JOINING, Phase.CONFIRMING, Phase.LEAVING}
)
ON_SERVER = frozenset({Phase.JOINING, Phase.CONFIRMING, Phase.SUBSCRIBED})
HEARING = frozenset({Phase.CONFIRMING, Phase.SUBSCRIBED})
PUBLIC = {
    Phase.IDLE: ChannelState.CLOSED,
    Phase.SUBSCRIBED: ChannelState.JOINED,
    Phase.LEAVING: ChannelState.LEAVING,
}


@dataclass(frozen=True, slots=True)
class Timing:
    """How long, in seconds, to wait for what."""

    join_timeout: float
    heartbeat_interval: float
    heartbeat_timeout: float
