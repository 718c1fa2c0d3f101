"""What a channel is sent of messages that came before it joined, and when it hears the next."""

from collections.abc import Sequence

import msgspec

from rowcast.model.message import Message
from rowcast.protocol.broadcasts import message_broadcast
from rowcast.protocol.join import JoinPayload, Replay
from rowcast.session.admission import Limits
from rowcast.session.asked import Asked
from rowcast.session.channel import PREFIX, Channel
from rowcast.session.wants import Authorize, Send, Tell, Want

#: What the original says once the database's messages reach a channel for certain, and where they do not.
READY = "Replication connection established"
NOT_READY = "Replication connection was not established in time"


def replay_of(payload: JoinPayload) -> Replay | None:
    """What is to be read for a join; None where it wants nothing, or nothing valid.

    Nor for one that resumes its messages: it is sent them all by the stream.
    """
    wanted = payload.broadcast.replay
    if payload.messages and payload.resume is not None:
        return None
    return None if wanted is None or wanted.since is None else wanted


def replays(payload: JoinPayload, limits: Limits) -> bool:
    """Whether messages are looked up for a join before it is answered, if it may read them."""
    return replay_of(payload) is not None and (payload.private or limits.store_public)


def question(asked: Asked, payload: JoinPayload) -> Authorize:
    """What is to be found out before a join is answered."""
    name, presence = asked.message.topic.removeprefix(PREFIX), payload.presence.enabled
    return Authorize(name, asked.claims, presence, False, replay_of(payload), asked.key, payload.private)


def replay(channel: Channel, messages: Sequence[Message]) -> None:
    """Have a channel sent messages after the reply to its join: those of JSON by the join's reference."""
    channel.known = frozenset(message.id for message in messages)
    channel.replayed = [_replayed(channel, message) for message in messages]


def _replayed(channel: Channel, message: Message) -> Want:
    if message.raw:
        return Tell(channel.topic, message_broadcast(message, replayed=True))
    said: dict[str, object] = {
        "event": message.event,
        "meta": {"id": message.id, "replayed": True},
        "payload": msgspec.Raw(message.payload),
        "type": "broadcast",
    }
    return Send(channel.push("broadcast", said))
