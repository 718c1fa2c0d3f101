"""What a conversation waits for while policies are asked."""

from dataclasses import dataclass

from rowcast.model.claims import Claims
from rowcast.protocol.join import JoinPayload
from rowcast.protocol.messages import ClientMessage, ServerMessage


@dataclass(frozen=True, slots=True)
class Asked:
    """A join, or the token, a broadcast or a presence (both ``writes``) of a channel that has joined.

    ``payload`` is that of a join, and ``last`` what is sent once it was answered; ``key`` names the channel,
    or the one that a join is to become.
    """

    key: int
    message: ClientMessage
    token: str
    claims: Claims
    payload: JoinPayload | None = None
    last: tuple[ServerMessage, ...] = ()
    writes: bool = False
