"""One client's conversation: what it says, what it is answered, what has to be done for it.

This module performs no I/O and has no clock. Every method takes ``now`` (Unix seconds) where time matters and
returns what is wanted, in order.
"""

from collections.abc import Callable, Sequence

from rowcast.model.allowed import Allowed, ChannelUnavailable
from rowcast.model.claims import Claims, TokenError
from rowcast.model.message import Message
from rowcast.model.rates import RateWindow
from rowcast.model.seats import Seats
from rowcast.protocol.join import JoinError, JoinPayload, usable_token
from rowcast.protocol.messages import ClientMessage, Version, reply
from rowcast.session.admission import (
    TOO_MANY_JOINS,
    Limits,
    TooManyJoins,
    admit,
    echo,
    refusal,
    unreadable,
    usable_bindings,
)
from rowcast.session.asked import Asked
from rowcast.session.broadcasts import TOO_MANY_EVENTS, Broadcasts
from rowcast.session.channel import CHANGES, PREFIX, Channel, join_ref
from rowcast.session.presences import TOO_MANY_CALLS, Presences
from rowcast.session.replays import NOT_READY, READY, question, replay, replays
from rowcast.session.wants import Authorize, Close, Detach, Send, Want

SUBSCRIBED = "Subscribed to PostgreSQL"
#: The original closes with 1000 or 1001 then, after which the official Python client never connects again.
TRY_AGAIN_LATER = 1013
NO_CHANNEL = 4004
_PUSHES = ("broadcast", "presence")
_DISABLED = "RealtimeDisabledForConfiguration"
_NOT_IN_TIME = "PostgresChangesSubscribeTimeout: the subscription was not confirmed in time"

Verify = Callable[[str, float], Claims]
#: What is wanted, or why the channel ends.
_Found = list[Want] | str


class Connection:
    """The conversation on one socket.

    ``verify`` is pure: it gives a token's claims or raises TokenError. ``joins`` and ``seats`` are shared by
    the connections of a server; without ``seats`` any number of them may have channels.
    """

    def __init__(
        self,
        version: Version,
        token: str,
        verify: Verify,
        limits: Limits,
        now: float,
        joins: RateWindow,
        seats: Seats | None = None,
    ) -> None:
        self._version = version
        self._token = token
        self._verify = verify
        self._limits = limits
        self._joins = joins
        self._seats = Seats() if seats is None else seats
        self._heard = now
        self._empty_since: float | None = now
        self._over = False
        self._channels: dict[str, Channel] = {}
        self._next_key = 0
        self._asked: Asked | None = None
        self._broadcasts = Broadcasts(limits)
        self._presences = Presences(limits, self._channels)

    @property
    def joined(self) -> bool:
        """Whether it has a channel."""
        return bool(self._channels)

    # What the client says

    def receive(self, message: ClientMessage, now: float, position: str | None = None) -> list[Want]:
        """Take a message. ``position`` is that of the stream, for the reply to a heartbeat."""
        self.alive(now)
        if self._over:
            return []
        if message.topic == "phoenix" and message.event == "heartbeat":
            return [self._heartbeat(message, position)]
        channel = self._channels.get(message.topic)
        match message.event:
            case "phx_join" if message.topic.startswith(PREFIX):
                return self._join(message, channel, now)
            case "phx_leave" if channel is None:
                return [Send(reply(message.topic, message.ref, message.join_ref, "ok", {}))]
            case _ if channel is None or (message.event in _PUSHES and channel.answer is not None):
                return [Send(reply(message.topic, message.ref, None, "error", {"reason": "unmatched topic"}))]
            case "phx_leave":
                return [Send(channel.reply(message.ref, "ok", {})), *self._end(channel, "phx_close", now)]
            case "access_token":
                return self._refresh(channel, message, now)
            case _ if not self._broadcasts.take(now):
                return self._shut(channel, TOO_MANY_EVENTS, now)
            case "presence" if not self._presences.take(channel, now):
                return self._shut(channel, TOO_MANY_CALLS, now)
            case "broadcast" | "presence":
                found = self._sender(message.event).push(channel, message)
                return self._pushed(channel, message, found, now)
            case _:
                return []

    def alive(self, now: float) -> None:
        """A frame came, whatever was in it."""
        self._heard = now

    # What was done for it

    def attached(
        self, key: int, attempt: int, refused: tuple[str, ...], ok: bool, position: str | None
    ) -> list[Want]:
        """A subscription was made, or not. One that was overtaken is told of only where none was before."""
        channel = self._by_key(key)
        if channel is None:
            return []
        if ok:
            channel.resume = None
        if channel.attempt != attempt:
            refused, told = (), channel.attached or channel.answer is not None
            if told or not ok:
                return []
        if channel.messages and not ok and channel.answer is None:
            # It may have heard some by the stream: only a new join tells what it missed.
            return self._end(channel, "phx_error", self._heard)
        wants: list[Want] = []
        if channel.answer is not None:
            if refused:
                return self._reject(channel, f"{_DISABLED}: {refused[0]}", self._heard)
            wants += channel.answered()
        channel.attached = ok
        wants += [Send(channel.system("error", text, CHANGES)) for text in refused]
        if ok:
            at = {} if position is None else {"position": position}
            wants.append(Send(channel.system("ok", SUBSCRIBED, CHANGES, **at)))
        return wants

    def authorized(
        self, answer: Allowed | ChannelUnavailable, now: float, replayed: Sequence[Message] = ()
    ) -> list[Want]:
        """What the policies of a private channel allow to read, or why nobody can tell now; and what it is
        sent of earlier broadcasts."""
        asked, self._asked = self._asked, None
        if asked is None:
            return []
        if asked.writes:
            if (channel := self._by_key(asked.key)) is None:
                return []
            judged = self._sender(asked.message.event).judged(channel, asked.message, answer)
            return self._pushed(channel, asked.message, judged, now)
        if asked.payload is None:
            return self._reread(asked, answer, now)
        rights = answer if asked.payload.private or isinstance(answer, ChannelUnavailable) else None
        wants, delay = self._answer(asked, asked.payload, rights, now, replayed)
        return [*wants, *(Send(message, delay) for message in asked.last)]

    def stored(self, key: int, asked: ClientMessage, reason: str | None) -> list[Want]:
        """A broadcast of a channel was stored, or why it was not."""
        channel = self._by_key(key)
        return [] if channel is None else self._broadcasts.stored(channel, asked, reason)

    def ready(self, key: int, now: float, *, ok: bool) -> list[Want]:
        """Messages of the database are certain to reach a channel, or were not for too long."""
        channel = self._by_key(key)
        if channel is None:
            return []
        return [Send(channel.system("ok", READY, "system"))] if ok else self._shut(channel, NOT_READY, now)

    def told(self, key: int, status: str, text: str, position: str | None) -> list[Want]:
        """Something became of a subscription after it was made. ``status`` is ``ok`` or ``error``."""
        channel = self._by_key(key)
        if channel is None:
            return []
        if channel.answer is not None:
            return [] if status == "ok" else self._reject(channel, f"{_DISABLED}: {text}", self._heard)
        if status != "ok":
            return [Send(channel.system(status, text, CHANGES))]
        channel.attached = True
        return [Send(channel.system(status, text, CHANGES, position=position))]

    def missed(self, key: int, reason: str, since: str | None, position: str | None) -> list[Want]:
        """A channel missed changes, or may have, and goes on. The arguments are as ``Channel.missing`` has
        them."""
        channel = self._by_key(key)
        if channel is None:
            return []
        gap = channel.missing(reason, since, position)
        if channel.answer is None:
            return [Send(gap)]
        channel.after_answer.append(gap)
        return []

    def lost(self, key: int, now: float) -> list[Want]:
        """The source of changes cannot say what this channel missed: the client is to join again."""
        channel = self._by_key(key)
        return [] if channel is None else self._end(channel, "phx_error", now)

    def healthy(self, *, well: bool, key: int | None = None) -> list[Want]:
        """The database went away, or is back: who asked for it is told, or only the channel ``key``."""
        found = [one for one in self._channels.values() if one.health and key in (None, one.key)]
        return [Send(one.healthy(well=well)) for one in found if one.answer is None]

    # Time

    def deadline(self) -> float:
        """When ``tick`` is to be called next, at the latest."""
        ends = [self._heard + self._limits.idle_timeout, *(one.due for one in self._channels.values())]
        if self._empty_since is not None:
            ends.append(self._empty_since + self._limits.no_channel_timeout)
        return min(ends)

    def tick(self, now: float) -> list[Want]:
        """Time has passed: tokens may have expired or soon do, the client may be silent, or idle for long."""
        if now >= self._heard + self._limits.idle_timeout:
            return [Close(1000)]
        if self._empty_since is not None and now >= self._empty_since + self._limits.no_channel_timeout:
            return [Close(NO_CHANNEL, "no channel was joined for too long")]
        wants: list[Want] = []
        for channel in list(self._channels.values()):
            if now >= channel.claims.expires_at:
                error = TokenError.expired(now - channel.claims.expires_at)
                wants += self._shut(channel, error.text, now)
            elif now >= channel.wait_until:
                wants += self._reject(channel, _NOT_IN_TIME, now)
            elif now >= channel.warn_at:
                wants.append(Send(channel.warn(now)))
        return wants

    def end(self) -> list[Want]:
        """The socket is gone."""
        wants: list[Want] = [Detach(channel.key) for channel in self._channels.values()]
        if self._channels:
            self._seats.leave()
        self._channels.clear()
        self._asked = None
        return wants

    # Joining

    def _join(self, message: ClientMessage, old: Channel | None, now: float) -> list[Want]:
        wants: list[Want] = [] if old is None else self._forget(old, now)
        # Clients of 1.0.0 cannot tell whose end this is, and would close the new channel.
        last = () if old is None or self._version is Version.V1 else (old.end("phx_close"),)
        delay = 0.0
        try:
            payload = admit(message, self._channels.values(), self._limits, self._joins, self._seats, now)
            token = payload.token if payload.token is not None else self._token
            claims = self._verify(token, now)
        except (JoinError, TokenError) as error:
            reason = error.reason if isinstance(error, TokenError) else str(error)
            wants += self._refuse(message, reason)
            delay = self._limits.refusal_delay
            self._over = isinstance(error, TooManyJoins)
        else:
            self._next_key += 1
            asked = Asked(self._next_key, message, token, claims, payload, last)
            if payload.private or replays(payload, self._limits):
                self._asked = asked
                return [*wants, question(asked, payload)]
            answered, delay = self._answer(asked, payload, None, now)
            wants += answered
        wants += [Send(one, delay) for one in last]
        if self._over:
            wants.append(Close(TRY_AGAIN_LATER, TOO_MANY_JOINS, delay))
        return wants

    def _refuse(self, message: ClientMessage, reason: str) -> list[Want]:
        refusal = reply(message.topic, message.ref, join_ref(message), "error", {"reason": reason})
        return [Send(refusal, self._limits.refusal_delay)]

    def _answer(
        self,
        asked: Asked,
        payload: JoinPayload,
        answer: Allowed | ChannelUnavailable | None,
        now: float,
        earlier: Sequence[Message] = (),
    ) -> tuple[list[Want], float]:
        """Open a channel, or refuse it; and how late that is answered. ``answer`` is a private one's."""
        full = not self._channels and self._seats.full
        topic, store_public = asked.message.topic, self._limits.store_public
        if (reason := refusal(topic, payload, answer, full=full, store_public=store_public)) is None:
            assert not isinstance(answer, ChannelUnavailable)
            return self._open(asked, payload, answer, now, earlier), 0.0
        kept = [Detach(asked.key)] if replays(payload, self._limits) else []
        return [*kept, *self._refuse(asked.message, reason)], self._limits.refusal_delay

    def _open(
        self,
        asked: Asked,
        payload: JoinPayload,
        readable: Allowed | None,
        now: float,
        earlier: Sequence[Message],
    ) -> list[Want]:
        bindings, errors = usable_bindings(payload, self._limits)
        message = asked.message
        channel = Channel.joined(asked.key, message, asked.claims, asked.token, bindings, payload, readable)
        replay(channel, earlier)
        if not self._channels:
            self._seats.take()
        self._channels[message.topic] = channel
        self._empty_since = None
        entries = [echo(entry) for entry in payload.entries]
        response = {CHANGES: entries} | ({"messages": True} if channel.messages else {})
        answer = channel.reply(message.ref, "ok", response)
        if payload.wait is not None and payload.entries:
            channel.answer, channel.wait_until = answer, now + payload.wait
            if errors:
                return self._reject(channel, f"{_DISABLED}: {errors[0]}", now)
            return channel.attach()
        wants = channel.first(answer)
        wants += [Send(channel.system("error", error, CHANGES)) for error in errors]
        return [*wants, *channel.attach(), *channel.arrive()]

    def _reject(self, channel: Channel, reason: str, now: float) -> list[Want]:
        """Refuse a join whose reply waited."""
        assert channel.answer is not None
        refusal = channel.reply(channel.answer.ref, "error", {"reason": reason})
        return [*self._forget(channel, now), Send(refusal, self._limits.refusal_delay)]

    # Tokens

    def _refresh(self, channel: Channel, message: ClientMessage, now: float) -> list[Want]:
        payload = message.payload
        token = usable_token(payload.get("access_token")) if isinstance(payload, dict) else None
        if token is None or token == channel.token:
            return []
        try:
            claims = self._verify(token, now)
        except TokenError as error:
            return self._shut(channel, error.text, now)
        if channel.readable is not None:
            self._asked = Asked(channel.key, message, token, claims)
            return [Authorize(channel.name, claims, channel.presence)]
        channel.take(token, claims)
        return channel.attach()

    def _reread(self, asked: Asked, answer: Allowed | ChannelUnavailable, now: float) -> list[Want]:
        """A private channel has a new token: it ends if that takes a right away that the old one gave."""
        channel = self._by_key(asked.key)
        if channel is None or channel.readable is None:
            return []
        if (text := unreadable(channel, answer)) is not None:
            return self._shut(channel, text, now)
        assert isinstance(answer, Allowed)
        had = channel.readable
        channel.take(asked.token, asked.claims)
        channel.readable = answer
        heard = [] if channel.answer is not None or had == answer else [channel.enter()]
        return [*channel.attach(), *heard]

    # Broadcasts and presence

    def _sender(self, event: str) -> Broadcasts | Presences:
        return self._presences if event == "presence" else self._broadcasts

    def _pushed(self, channel: Channel, message: ClientMessage, found: _Found, now: float) -> list[Want]:
        """What is wanted for what a channel sends, or why it ends."""
        if isinstance(found, str):
            return self._shut(channel, found, now)
        if found and isinstance(found[-1], Authorize):
            self._asked = Asked(channel.key, message, channel.token, channel.claims, writes=True)
        return found

    # Ending

    def _shut(self, channel: Channel, text: str, now: float) -> list[Want]:
        return [Send(channel.system("error", text, "system")), *self._end(channel, "phx_close", now)]

    def _end(self, channel: Channel, event: str, now: float) -> list[Want]:
        return [*self._forget(channel, now), Send(channel.end(event))]

    def _forget(self, channel: Channel, now: float) -> list[Want]:
        del self._channels[channel.topic]
        if not self._channels:
            self._seats.leave()
            self._empty_since = now
        return [Detach(channel.key)]

    def _by_key(self, key: int | None) -> Channel | None:
        return next((channel for channel in self._channels.values() if channel.key == key), None)

    def _heartbeat(self, message: ClientMessage, position: str | None) -> Send:
        hears = any(channel.attached for channel in self._channels.values())
        response = {"position": position} if hears and position is not None else {}
        return Send(reply(message.topic, message.ref, None, "ok", response))
