"""What becomes of the broadcasts that a client sends.

    a broadcast that                  with `ack`                   without
    is sent                           reply ok                     nothing
    is to be stored                   reply ok once it is          nothing
    cannot be stored                  reply error                  nothing
    is too large, or no JSON          reply error                  nothing
    policies let nobody send          reply error, or silence      nothing
    cannot be judged now              where that was asked for     nothing
    is one too many of its socket     `system` error, phx_close    the same

The right to send on a private channel is asked for with its first broadcast, and anew under a new token. A
client that hears itself hears its broadcast before the reply.
"""

from dataclasses import replace
from typing import Any

from rowcast.model.allowed import Allowed, ChannelUnavailable
from rowcast.model.message import Message
from rowcast.model.rates import RateWindow
from rowcast.protocol.broadcasts import (
    Broadcast,
    MessageError,
    UserBroadcast,
    is_json,
    message_of_binary,
    message_of_text,
    persists,
    text_broadcast,
)
from rowcast.protocol.messages import ClientMessage, reply
from rowcast.session.admission import NOT_STORED, Limits
from rowcast.session.channel import Channel
from rowcast.session.wants import Authorize, Publish, Send, Store, Want

#: What ends a channel whose socket says too much.
TOO_MANY_EVENTS = "Too many messages per second"
TOO_LARGE = "payload_size_exceeded"
#: Of a private channel, for whoever may only listen.
UNSTORED = "UnableToStoreMessages"
UNWRITABLE = "Unauthorized: You do not have permissions to write to this Channel topic"


class Broadcasts:
    """Those of one connection."""

    __slots__ = ("_events", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: Made with the first event: most connections only listen.
        self._events: RateWindow | None = None

    def take(self, now: float) -> bool:
        """Count something that the client says on a channel. Whether that is not too much."""
        if self._events is None:
            self._events = RateWindow(self._limits.events_per_second)
        return self._events.take(now)

    def push(self, channel: Channel, message: ClientMessage) -> list[Want]:
        """A broadcast came. If its right is to be asked for, that is all that is wanted: see ``judged``."""
        broadcast = self._read(message)
        if isinstance(broadcast, str):
            return self._fail(channel, message, broadcast)
        if channel.readable is not None and channel.writable is None:
            return [Authorize(channel.name, channel.claims, channel.presence, writes=True)]
        if channel.writable is not None and not channel.writable.broadcast:
            return self._deny(channel, message, f"{UNWRITABLE}: {channel.name}")
        if not channel.store and not persists(message.payload):
            return [Publish(channel.key, broadcast), *self._answer(channel, message, "ok", {})]
        if channel.readable is None and not self._limits.store_public:
            return self._fail(channel, message, f"{UNSTORED}: {NOT_STORED}")
        try:
            return [Store(channel.key, message, self._message(channel, message.payload))]
        except MessageError as error:
            return self._fail(channel, message, f"{UNSTORED}: {error}")

    def stored(self, channel: Channel, message: ClientMessage, reason: str | None) -> list[Want]:
        """A broadcast was stored, or why it was not."""
        if reason is not None:
            return self._fail(channel, message, f"{UNSTORED}: {reason}")
        return self._answer(channel, message, "ok", {})

    def judged(
        self, channel: Channel, message: ClientMessage, answer: Allowed | ChannelUnavailable
    ) -> list[Want]:
        """What may be written on the channel, for the broadcast that this was asked for."""
        if isinstance(answer, ChannelUnavailable):
            return self._deny(channel, message, answer.reason)
        channel.writable = answer
        return self.push(channel, message)

    @staticmethod
    def _message(channel: Channel, payload: Any) -> Message:
        name, private = channel.name, channel.readable is not None
        if isinstance(payload, UserBroadcast):
            return message_of_binary(name, private, payload)
        return message_of_text(name, private, payload)

    def _read(self, message: ClientMessage) -> Broadcast | str:
        """What is to be sent, or why it cannot be."""
        broadcast: Broadcast
        if isinstance(message.payload, UserBroadcast):
            # What a client says beside is for the server alone.
            broadcast = replace(message.payload, meta=b"")
        else:
            try:
                broadcast = text_broadcast(message.payload)
            except RecursionError:
                return "the payload is nested too deeply"
        if len(broadcast.payload) > self._limits.payload_size:
            return TOO_LARGE
        if isinstance(broadcast, UserBroadcast) and not broadcast.raw and not is_json(broadcast.payload):
            return "the payload is no JSON, as its frame says it is"
        return broadcast

    def _deny(self, channel: Channel, message: ClientMessage, reason: str) -> list[Want]:
        return [] if self._limits.silent_denials else self._fail(channel, message, reason)

    def _fail(self, channel: Channel, message: ClientMessage, reason: str) -> list[Want]:
        # Who asks to have one broadcast stored, as supabase-js does, looks for an `error`.
        error = {"error": reason} if persists(message.payload) else {}
        return self._answer(channel, message, "error", {"reason": reason, **error})

    @staticmethod
    def _answer(
        channel: Channel, message: ClientMessage, status: str, response: dict[str, str]
    ) -> list[Want]:
        if not channel.ack or message.ref is None:
            return []
        return [Send(reply(channel.topic, message.ref, channel.join_ref, status, dict(response)))]
