"""What a join must satisfy before anything is done for it."""

from collections.abc import Collection
from dataclasses import dataclass

from rowcast.model.binding import Binding, BindingError, parse_binding
from rowcast.model.rates import RateWindow
from rowcast.model.seats import Seats
from rowcast.protocol.join import JoinError, JoinPayload, parse_join
from rowcast.protocol.messages import ClientMessage
from rowcast.session.channel import PREFIX, Channel

#: What a handshake is refused with, and a join, when the whole server is joined too often.
TOO_MANY_JOINS = "Too many joins per second"
#: The same where as many connections as are allowed have a channel.
TOO_MANY_USERS = "Too many connected users"
NO_SEAT = f"ConnectionRateLimitReached: {TOO_MANY_USERS}"
_MANY = 10


class TooManyJoins(JoinError):
    """A join that the whole server has no room for now. The connection ends with it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may ask for. Times in seconds, sizes in bytes.

    ``bindings`` bounds the entries of one join, ``entries_size`` those of all channels together, as JSON;
    ``refusals`` the refused joins whose replies are still due. ``private_only`` leaves out public channels.
    """

    channels: int = 100
    bindings: int = 100
    entries_size: int = 1024**2
    topic_size: int = 1024
    message_size: int = 5_000_000
    refusals: int = 1000
    idle_timeout: float = 60.0
    no_channel_timeout: float = 600.0
    refusal_delay: float = 5.0
    private_only: bool = False


def admit(
    message: ClientMessage,
    channels: Collection[Channel],
    limits: Limits,
    joins: RateWindow,
    seats: Seats,
    now: float,
) -> JoinPayload:
    """What a join asks for, if it is within all limits. The order of checks is the original's.

    ``channels`` are those of its connection. Raises JoinError.
    """
    name = message.topic.removeprefix(PREFIX)
    if not name:
        raise JoinError("TopicNameRequired: You must provide a topic name")
    if len(message.topic.encode()) > limits.topic_size:
        raise JoinError(f"UnknownErrorOnChannel: the topic is longer than {limits.topic_size} bytes")
    payload = parse_join(message.payload, name)
    if limits.private_only and not payload.private:
        raise JoinError("PrivateOnly: This project only allows private channels")
    if not channels and seats.full:
        raise JoinError(NO_SEAT)
    if not joins.take(now):
        raise TooManyJoins(f"ClientJoinRateLimitReached: {TOO_MANY_JOINS}")
    if len(channels) >= limits.channels:
        raise JoinError("ChannelRateLimitReached: Too many channels")
    # Each is answered with its id. A few too many are told apart later; very many are not even looked at.
    if len(payload.entries) > (most := _MANY * limits.bindings):
        raise JoinError(f"UnknownErrorOnChannel: a join may have {most} `postgres_changes`")
    kept = sum(channel.size for channel in channels)
    if kept + payload.size > limits.entries_size:
        raise JoinError(
            "UnknownErrorOnChannel: the `postgres_changes` of all channels of a connection may have "
            f"{limits.entries_size} bytes"
        )
    return payload


def usable_bindings(payload: JoinPayload, limits: Limits) -> tuple[list[Binding], list[str]]:
    """The bindings of a join, and why others of its entries are none."""
    bindings, errors = [], []
    for entry in payload.entries[: limits.bindings]:
        try:
            bindings.append(parse_binding(entry, leave=payload.leave, truncate=payload.truncate))
        except BindingError as error:
            errors.append(str(error))
    if (over := len(payload.entries) - limits.bindings) > 0:
        errors.append(
            f"Too many postgres_changes in one join: {over} beyond the {limits.bindings} allowed "
            "are not subscribed. Use another channel for them."
        )
    return bindings, errors
