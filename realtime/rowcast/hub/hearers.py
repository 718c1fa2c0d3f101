"""Channels that hear the messages of their topic as a part of the stream: in one order with row changes, each
with the position after it, so that a later join goes on from there. Runs on the event loop only; nothing here
waits.
"""

from collections.abc import Iterable

from rowcast.hub.feed import Subscriber
from rowcast.model.message import Message
from rowcast.protocol.broadcasts import encode_broadcast, stream_broadcast
from rowcast.protocol.messages import Version

_Topic = tuple[str, bool]


class Hearers:
    """Those of one place of the stream, by topic."""

    def __init__(self) -> None:
        self._by_topic: dict[_Topic, dict[Subscriber, None]] = {}
        self._subscribers: dict[Subscriber, _Topic] = {}

    def __contains__(self, subscriber: Subscriber) -> bool:
        return subscriber in self._subscribers

    def attach(self, subscriber: Subscriber) -> None:
        """Let a subscriber hear its topic, if it wants to."""
        if (hearing := subscriber.hearing) is not None:
            hearing.began = True
            topic = self._subscribers[subscriber] = (hearing.name, hearing.private)
            self._by_topic.setdefault(topic, {})[subscriber] = None

    def detach(self, subscriber: Subscriber) -> None:
        """Forget a subscriber, if it is known."""
        if (topic := self._subscribers.pop(subscriber, None)) is not None:
            hearers = self._by_topic[topic]
            del hearers[subscriber]
            if not hearers:
                del self._by_topic[topic]

    def subscribers(self) -> list[Subscriber]:
        """Everyone, as a copy that may be changed under."""
        return list(self._subscribers)

    def of(self, message: Message) -> list[Subscriber]:
        """Who hears a message."""
        return list(self._by_topic.get((message.topic, message.private), ()))


def hand_on(subscribers: Iterable[Subscriber], message: Message, position: str) -> None:
    """Send a message to those of its topic who may hear it. ``position`` is the one after it.

    A channel that is yet to be sent a part of a transaction gets the message with the position before that,
    and is told so: whoever is cut off then is sent both again. What is sent of the transaction later leads
    beyond the message.
    """
    frames: dict[tuple[Version, str | None], bytes | None] = {}
    for subscriber in subscribers:
        hearing = subscriber.hearing
        if hearing is None or not hearing.allowed or subscriber.gone:
            continue
        before = None
        if (open_ := subscriber.transaction) is not None:
            before, open_.position = open_.before, position
        key = (subscriber.version, before)
        if key not in frames:
            broadcast = stream_broadcast(message, position if before is None else before, before is not None)
            frames[key] = encode_broadcast(subscriber.topic, broadcast, subscriber.version)
        if (frame := frames[key]) is not None:
            hearing.send(frame, message.id)
