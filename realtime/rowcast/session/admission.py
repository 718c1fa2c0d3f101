"""What a join must satisfy before anything is done for it."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from rowcast.model.allowed import Allowed, ChannelUnavailable
from rowcast.model.binding import Binding, BindingError, binding_id, parse_binding
from rowcast.model.rates import RateWindow
from rowcast.model.seats import Seats
from rowcast.protocol.join import JoinError, JoinPayload, parse_join
from rowcast.protocol.messages import ClientMessage
from rowcast.protocol.presence import INHERITED_KEYS
from rowcast.session.channel import PREFIX, Channel

#: What a handshake is refused with, and a join, when the whole server is joined too often.
TOO_MANY_JOINS = "Too many joins per second"
#: The same where as many connections as are allowed have a channel.
TOO_MANY_USERS = "Too many connected users"
NO_SEAT = f"ConnectionRateLimitReached: {TOO_MANY_USERS}"
_UNREADABLE = "You do not have permissions to read from this Channel topic"
_UNREADABLE_NOW = "You no longer have permission to read from this Channel topic"
#: Of a channel that is public, where those may not store.
NOT_STORED = "Storing is not allowed for public channels"
_MANY = 10


class TooManyJoins(JoinError):
    """A join that the whole server has no room for now. The connection ends with it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may ask for. Times in seconds, sizes in bytes.

    ``bindings`` bounds the entries of one join, ``entries_size`` those of all channels together, as JSON;
    ``refusals`` the refused joins whose replies are still due. ``private_only`` leaves out public channels.
    ``payload_size`` bounds a broadcast, and what all channels track together; ``events_per_second`` is the
    average of a minute; with ``silent_denials`` nobody is told that a broadcast may not be sent.
    With ``store_public`` the messages of public channels may be stored, too.
    ``presence_calls`` of a channel may come within ``presence_window``; ``presence_enabled`` has each join
    ask for presence.
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
    payload_size: int = 3_000_500
    events_per_second: float = 100
    silent_denials: bool = False
    store_public: bool = False
    presence_calls: int = 5
    presence_window: float = 30.0
    presence_enabled: bool = False
    presence_key_size: int = 1024


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
    _check_key(payload.presence.key, limits)
    if limits.presence_enabled and not payload.presence.enabled:
        return replace(payload, presence=replace(payload.presence, enabled=True))
    return payload


def _check_key(key: str | None, limits: Limits) -> None:
    if key is not None and len(key.encode()) > limits.presence_key_size:
        raise JoinError(f"InvalidPresenceKey: the key is longer than {limits.presence_key_size} bytes")
    if key in INHERITED_KEYS:
        raise JoinError(f"InvalidPresenceKey: every object of JavaScript has `{key}`: choose another key")


def refusal(
    topic: str,
    payload: JoinPayload,
    allowed: Allowed | ChannelUnavailable | None,
    *,
    full: bool,
    store_public: bool,
) -> str | None:
    """Why a join is refused that was admitted, or None.

    ``allowed`` is what a private channel may read; ``full`` says that there is no seat any more for one.
    ``store_public`` is as in ``Limits``.
    """
    if isinstance(allowed, ChannelUnavailable):
        return allowed.reason
    replay = payload.broadcast.replay
    if allowed and full:
        # Another connection took the last one while the policies were asked.
        return NO_SEAT
    if allowed is not None and not (allowed.broadcast if replay is not None else allowed):
        return f"Unauthorized: {_UNREADABLE}: {topic.removeprefix(PREFIX)}"
    stored = allowed is not None or store_public
    if replay is not None and (reason := replay.refusal(stored=stored)) is not None:
        return f"UnableToReplayMessages: {reason}"
    if payload.broadcast.store and not stored:
        return f"UnableToStoreMessages: {NOT_STORED}"
    return None


def unreadable(channel: Channel, answer: Allowed | ChannelUnavailable) -> str | None:
    """Why a private channel ends when this is what its new token may read, or None."""
    had = channel.readable or Allowed()
    if isinstance(answer, ChannelUnavailable):
        return answer.text
    if not answer:
        return f"{_UNREADABLE}: {channel.name}"
    if (had.broadcast and not answer.broadcast) or (had.presence and not answer.presence):
        return f"{_UNREADABLE_NOW}: {channel.name}"
    return None


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


def echo(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry as the reply has it: the id of ours first, whatever the client called its own."""
    return {"id": binding_id(entry), **{name: entry[name] for name in sorted(entry) if name != "id"}}
