"""What becomes of the presence that a client shows of itself, one for each channel.

    a call that                                     is answered                  then
    tracks an object                                reply ok                     it is shown
    untracks, or names no event                     reply ok                     joined
    tracks what is no object, or names another      reply error                  joined
    event
    policies do not let track                       reply error                  joined
    cannot be judged now                            reply error                  joined
    is one too many, or tracks what is too large    `system` error, phx_close    gone

The right to track on a private channel is asked for with its first broadcast or track, and anew under a new
token. A channel that tracks has presence from then on, whatever it joined with.
"""

from collections.abc import Mapping
from typing import Any

from rowcast.model.allowed import Allowed, ChannelUnavailable
from rowcast.protocol.messages import ClientMessage, reply
from rowcast.protocol.presence import tracked
from rowcast.session.admission import Limits
from rowcast.session.broadcasts import UNWRITABLE
from rowcast.session.channel import Channel
from rowcast.session.wants import Authorize, Send, Track, Untrack, Want

TOO_MANY_CALLS = "Client presence rate limit exceeded"
TOO_LARGE = "Track message size exceeded"
_NO_OBJECT = "Presence track payload must be a map"
_TOO_DEEP = "Presence track payload is nested too deeply"


class Presences:
    """Those of one connection. What is a text instead of wants is why the channel ends."""

    __slots__ = ("_channels", "_limits")

    def __init__(self, limits: Limits, channels: Mapping[str, Channel]) -> None:
        self._limits, self._channels = limits, channels

    def take(self, channel: Channel, now: float) -> bool:
        """Count a call. Whether it is not too much."""
        return channel.calls.take(self._limits.presence_calls, self._limits.presence_window, now)

    def push(self, channel: Channel, message: ClientMessage) -> list[Want] | str:
        """A call came. If its right is to be asked for, that is all that is wanted: see ``judged``."""
        call = message.payload if isinstance(message.payload, dict) else {"event": None}
        event = call.get("event", "")
        match event.lower() if isinstance(event, str) else None:
            case "track":
                return self._track(channel, message)
            case "untrack":
                channel.shown = 0
                return [*_answer(channel, message, "ok"), Untrack(channel.key)]
            case "":
                return _answer(channel, message, "ok")
            case _:
                return _answer(channel, message, "error")

    def judged(
        self, channel: Channel, message: ClientMessage, answer: Allowed | ChannelUnavailable
    ) -> list[Want] | str:
        """What may be written on the channel, for the call that this was asked for."""
        if isinstance(answer, ChannelUnavailable):
            return _answer(channel, message, "error", reason=answer.reason)
        channel.writable = answer
        return self._track(channel, message)

    def _track(self, channel: Channel, message: ClientMessage) -> list[Want] | str:
        payload = message.payload.get("payload", {})
        if not isinstance(payload, dict):
            return _answer(channel, message, "error", reason=_NO_OBJECT)
        try:
            shown = tracked(payload)
        except RecursionError:
            return _answer(channel, message, "error", reason=_TOO_DEEP)
        # What is shown is kept, unlike what is broadcast: a socket may have that much on all its channels.
        others = sum(one.shown for one in self._channels.values() if one is not channel)
        if others + len(shown) > self._limits.payload_size:
            return TOO_LARGE
        if channel.readable is not None and channel.writable is None:
            return [Authorize(channel.name, channel.claims, channel.presence, writes=True)]
        if channel.writable is not None and not channel.writable.presence:
            return _answer(channel, message, "error", reason=f"{UNWRITABLE}: {channel.name}")
        channel.presence, channel.shown = True, len(shown)
        return [*_answer(channel, message, "ok"), Track(channel.key, shown)]


def _answer(channel: Channel, message: ClientMessage, status: str, **response: Any) -> list[Want]:
    if message.ref is None:
        return []
    return [Send(reply(channel.topic, message.ref, channel.join_ref, status, response))]
