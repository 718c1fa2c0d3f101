"""One client's conversation: what it says, what it is answered, what has to be done for it.

This module performs no I/O and has no clock. Every method takes ``now`` (Unix seconds) where time matters and
returns what is wanted, in order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rowcast.model.binding import Binding, BindingError, binding_id, parse_binding
from rowcast.model.claims import Claims, TokenError
from rowcast.model.rates import RateWindow
from rowcast.model.seats import Seats
from rowcast.protocol.join import JoinError, JoinPayload, parse_join, usable_token
from rowcast.protocol.messages import ClientMessage, Ref, Version, reply
from rowcast.session.channel import PREFIX, Channel
from rowcast.session.wants import Attach, Close, Detach, Send, Want

SUBSCRIBED = "Subscribed to PostgreSQL"
#: What a handshake is refused with, and a join, when the whole server is joined too often.
TOO_MANY_JOINS = "Too many joins per second"
#: The same where as many connections as are allowed have a channel.
TOO_MANY_USERS = "Too many connected users"
#: The original closes with 1000 or 1001 then, after which the official Python client never connects again.
TRY_AGAIN_LATER = 1013
NO_CHANNEL = 4004
_CHANGES = "postgres_changes"
#: Longer than any that a handshake can carry. It is kept with its channel.
_MAX_TOKEN = 16 * 1024
_MANY = 10
_NOT_OFFERED = {"broadcast": "Broadcast", "presence": "Presence"}

Verify = Callable[[str, float], Claims]


class _TooManyJoinsError(JoinError):
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
            case _ if channel is None:
                return [Send(reply(message.topic, message.ref, None, "error", {"reason": "unmatched topic"}))]
            case "phx_leave":
                answer = reply(channel.topic, message.ref, channel.join_ref, "ok", {})
                return [Send(answer), *self._end(channel, "phx_close", now)]
            case "access_token":
                return self._refresh(channel, message.payload, now)
            case "broadcast" | "presence" if message.ref is not None:
                reason = f"{_NOT_OFFERED[message.event]} is not available on this server"
                return [
                    Send(reply(channel.topic, message.ref, channel.join_ref, "error", {"reason": reason}))
                ]
            case _:
                return []

    def alive(self, now: float) -> None:
        """A frame came, whatever was in it."""
        self._heard = now

    # What was done for it

    def attached(
        self, key: int, attempt: int, refused: tuple[str, ...], ok: bool, position: str | None
    ) -> list[Want]:
        """A subscription was made, or not. One that was overtaken is ignored."""
        channel = self._by_key(key)
        if channel is None or channel.attempt != attempt:
            return []
        channel.attached = ok
        wants: list[Want] = [Send(channel.system("error", text, _CHANGES)) for text in refused]
        if ok:
            wants.append(Send(channel.system("ok", SUBSCRIBED, _CHANGES, position=position)))
        return wants

    def told(self, key: int, status: str, text: str, position: str | None) -> list[Want]:
        """Something became of a subscription after it was made. ``status`` is ``ok`` or ``error``."""
        channel = self._by_key(key)
        if channel is None:
            return []
        if status != "ok":
            return [Send(channel.system(status, text, _CHANGES))]
        channel.attached = True
        return [Send(channel.system(status, text, _CHANGES, position=position))]

    def lost(self, key: int, now: float) -> list[Want]:
        """The source of changes cannot say what this channel missed: the client is to join again."""
        channel = self._by_key(key)
        return [] if channel is None else self._end(channel, "phx_error", now)

    # Time

    def deadline(self) -> float:
        """When ``tick`` is to be called next, at the latest."""
        ends = [self._heard + self._limits.idle_timeout]
        ends += [channel.claims.expires_at for channel in self._channels.values()]
        if self._empty_since is not None:
            ends.append(self._empty_since + self._limits.no_channel_timeout)
        return min(ends)

    def tick(self, now: float) -> list[Want]:
        """Time has passed: tokens may have expired, the client may have gone silent or stayed idle."""
        if now >= self._heard + self._limits.idle_timeout:
            return [Close(1000)]
        if self._empty_since is not None and now >= self._empty_since + self._limits.no_channel_timeout:
            return [Close(NO_CHANNEL, "no channel was joined for too long")]
        wants: list[Want] = []
        for channel in list(self._channels.values()):
            if now >= channel.claims.expires_at:
                error = TokenError.expired(now - channel.claims.expires_at)
                wants += self._shut(channel, error.text, now)
        return wants

    def end(self) -> list[Want]:
        """The socket is gone."""
        wants: list[Want] = [Detach(channel.key) for channel in self._channels.values() if channel.bindings]
        if self._channels:
            self._seats.leave()
        self._channels.clear()
        return wants

    # Joining

    def _join(self, message: ClientMessage, old: Channel | None, now: float) -> list[Want]:
        join_ref = message.join_ref if message.join_ref is not None else message.ref
        wants: list[Want] = [] if old is None else self._forget(old, now)
        delay = 0.0
        try:
            payload = self._admit(message, now)
            token = payload.token if payload.token is not None else self._token
            claims = self._authorize(message, payload, token, now)
        except (JoinError, TokenError) as error:
            reason = error.reason if isinstance(error, TokenError) else str(error)
            refusal = reply(message.topic, message.ref, join_ref, "error", {"reason": reason})
            delay = self._limits.refusal_delay
            wants.append(Send(refusal, delay))
            self._over = isinstance(error, _TooManyJoinsError)
        else:
            wants += self._open(message, join_ref, payload, token, claims)
        # Clients of 1.0.0 cannot tell whose end this is, and would close the new channel.
        if old is not None and self._version is not Version.V1:
            wants.append(Send(old.end("phx_close"), delay))
        if self._over:
            wants.append(Close(TRY_AGAIN_LATER, TOO_MANY_JOINS, delay))
        return wants

    def _admit(self, message: ClientMessage, now: float) -> JoinPayload:
        """What a join asks for, if it is within all limits. The order of checks is the original's."""
        name = message.topic.removeprefix(PREFIX)
        if not name:
            raise JoinError("TopicNameRequired: You must provide a topic name")
        if len(message.topic.encode()) > self._limits.topic_size:
            raise JoinError(
                f"UnknownErrorOnChannel: the topic is longer than {self._limits.topic_size} bytes"
            )
        payload = parse_join(message.payload, name)
        if self._limits.private_only and not payload.private:
            raise JoinError("PrivateOnly: This project only allows private channels")
        if not self._channels and self._seats.full:
            raise JoinError(f"ConnectionRateLimitReached: {TOO_MANY_USERS}")
        if not self._joins.take(now):
            raise _TooManyJoinsError(f"ClientJoinRateLimitReached: {TOO_MANY_JOINS}")
        if len(self._channels) >= self._limits.channels:
            raise JoinError("ChannelRateLimitReached: Too many channels")
        # Each is answered with its id. A few too many are told apart later; very many are not even looked at.
        if len(payload.entries) > (most := _MANY * self._limits.bindings):
            raise JoinError(f"UnknownErrorOnChannel: a join may have {most} `postgres_changes`")
        kept = sum(channel.size for channel in self._channels.values())
        if kept + payload.size > self._limits.entries_size:
            raise JoinError(
                "UnknownErrorOnChannel: the `postgres_changes` of all channels of a connection may have "
                f"{self._limits.entries_size} bytes"
            )
        return payload

    def _authorize(self, message: ClientMessage, payload: JoinPayload, token: str, now: float) -> Claims:
        claims = self._claims(token, now)
        if payload.private:
            name = message.topic.removeprefix(PREFIX)
            raise JoinError(
                f"Unauthorized: You do not have permissions to read from this Channel topic: {name}"
            )
        if payload.broadcast.replay is not None:
            raise JoinError("UnableToReplayMessages: Replay is not allowed for public channels")
        return claims

    def _open(
        self, message: ClientMessage, join_ref: Ref, payload: JoinPayload, token: str, claims: Claims
    ) -> list[Want]:
        bindings, errors = self._bindings(payload)
        self._next_key += 1
        channel = Channel(
            self._next_key, message.topic, join_ref, claims, token, bindings, payload.size, payload.legacy
        )
        if not self._channels:
            self._seats.take()
        self._channels[message.topic] = channel
        self._empty_since = None
        echo = [_echo(entry) for entry in payload.entries]
        answer = reply(message.topic, message.ref, join_ref, "ok", {_CHANGES: echo})
        wants: list[Want] = [Send(answer)]
        wants += [Send(channel.system("error", error, _CHANGES)) for error in errors]
        return wants + self._attach(channel)

    def _bindings(self, payload: JoinPayload) -> tuple[list[Binding], list[str]]:
        bindings, errors = [], []
        for entry in payload.entries[: self._limits.bindings]:
            try:
                bindings.append(parse_binding(entry))
            except BindingError as error:
                errors.append(str(error))
        if (over := len(payload.entries) - self._limits.bindings) > 0:
            errors.append(
                f"Too many postgres_changes in one join: {over} beyond the {self._limits.bindings} allowed "
                "are not subscribed. Use another channel for them."
            )
        return bindings, errors

    def _attach(self, channel: Channel) -> list[Want]:
        if not channel.bindings:
            return []
        channel.attempt += 1
        return [
            Attach(
                channel.key, channel.topic, channel.bindings, channel.claims, channel.attempt, channel.legacy
            )
        ]

    # Tokens

    def _refresh(self, channel: Channel, payload: Any, now: float) -> list[Want]:
        token = usable_token(payload.get("access_token")) if isinstance(payload, dict) else None
        if token is None or token == channel.token:
            return []
        try:
            claims = self._claims(token, now)
        except TokenError as error:
            return self._shut(channel, error.text, now)
        channel.claims, channel.token = claims, token
        return self._attach(channel)

    def _claims(self, token: str, now: float) -> Claims:
        if len(token) > _MAX_TOKEN:
            raise TokenError("MalformedJWT", "The token provided is not a valid JWT")
        return self._verify(token, now)

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
        return [Detach(channel.key)] if channel.bindings else []

    def _by_key(self, key: int) -> Channel | None:
        return next((channel for channel in self._channels.values() if channel.key == key), None)

    def _heartbeat(self, message: ClientMessage, position: str | None) -> Send:
        hears = any(channel.attached for channel in self._channels.values())
        response = {"position": position} if hears and position is not None else {}
        return Send(reply(message.topic, message.ref, None, "ok", response))


def _echo(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry as the reply has it: the id of ours first, whatever the client called its own."""
    return {"id": binding_id(entry), **{name: entry[name] for name in sorted(entry) if name != "id"}}
