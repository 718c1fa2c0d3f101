"""What the database sends goes to those who are joined to its topic."""

from typing import Final

import structlog

from rowcast.hub.topics import Topics
from rowcast.model.message import Message
from rowcast.protocol.broadcasts import message_broadcast

log: Final = structlog.get_logger("rowcast.messages")


class Messages:
    """Hands messages to topics, which begin with ``prefix``. One whose payload has more bytes than ``limit``
    is dropped, and logged."""

    def __init__(self, topics: Topics, prefix: str, limit: int) -> None:
        self._topics, self._prefix, self._limit = topics, prefix, limit

    def publish(self, message: Message) -> None:
        """Send it to all who hear its topic, within this turn."""
        if len(message.payload) > self._limit:
            # Not the topic: it is of the client's choosing.
            log.warning("message_too_large", bytes=len(message.payload), limit=self._limit)
            return
        topic = self._prefix + message.topic
        self._topics.publish(topic, message_broadcast(message), private=message.private, id_=message.id)
