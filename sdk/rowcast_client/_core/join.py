"""Join: the life of one channel, as a state machine.

::

    IDLE         --subscribe-->           WAITING       (CLOSED is told on the way back here)
    WAITING      --due, socket open-->    LOADING       wants the stored position, once, if one is stored
    WAITING, LOADING             -->      AUTHORIZING   wants the token
    AUTHORIZING  --token-->               JOINING       sends phx_join
    JOINING      --reply ok-->            CONFIRMING    or SUBSCRIBED, when nothing comes by the stream
    CONFIRMING   --system ok-->           SUBSCRIBED
    CONFIRMING   --system error-->        WAITING       if no binding is left; told CHANNEL_ERROR
    SUBSCRIBED   --system error-->        SUBSCRIBED    told CHANNEL_ERROR; SUBSCRIBED at the next ok
    SUBSCRIBED   --token ends soon-->     SUBSCRIBED    wants the next token; sends access_token
    any of these --refused, silent, ended, socket gone--> WAITING   told CHANNEL_ERROR or TIMED_OUT
    any          --leave-->               LEAVING       sends phx_leave; IDLE at once when nothing was joined
    LEAVING      --reply, phx_close, silence, socket gone--> IDLE   (WAITING, if subscribed again meanwhile)

Rules: one join in flight at most; a frame that carries another join's ref is not ours; a failed join is tried
again for ever, each time with a fresh token, and from where the channel has come to (``place``); a socket
that went away costs the channel no waiting of its own; a binding that the server refuses, or gives up for a
while, takes no other with it; what the channel says is sent from the reply to the join on, and what it tracks
is sent again then.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import ClientClosed, JoinError, ProtocolError, RowcastError, TimedOut
from ..retry import RetryPolicy
from ..states import ChannelState, SubscribeStatus
from .answers import UNSTORED, match, refusal
from .asking import Binding, How, config, snapshots
from .backoff import Backoff
from .broadcasts import Said
from .content import Content
from .frames import Frame, decode_object, decode_reply, encode
from .phases import AWAITING_ANSWER, HEARING, ON_SERVER, PUBLIC, Phase, Timing
from .place import Place
from .renewal import Renewal
from .saying import Saying
from .wants import Advance, Authorize, Hear, Load, Miss, Notify, Refresh, Report, Send, System, Want

_OTHERS = "mend it or leave it out; the channel's other subscriptions go on"
_LONGEST_WARNING = 3600
_NOT_STORED = "use a Rowcast server that does; what is sent reaches only who is connected"
_NO_SNAPSHOT = "Unable to take a snapshot"
_UNCONFIRMED = "the server did not confirm the channel"
_STAYS = "the channel stays joined, and is SUBSCRIBED again when the server says so"


class Join:
    """One channel's side of the conversation. Each method takes ``now`` and yields what is wanted."""

    def __init__(self, topic: str, timing: Timing, retry: RetryPolicy, next_ref: Callable[[], str]) -> None:
        self.topic = topic
        self.phase = Phase.IDLE
        self.bindings: tuple[Binding, ...] = ()
        self.how = How()
        self.place = Place()
        self.join_ref: str | None = None
        self._deadline: float | None = None
        self._timing, self._next_ref, self._backoff = timing, next_ref, Backoff(retry)
        self._renewal = Renewal(retry)
        self._content = Content(topic, self.place)
        self._saying = Saying(topic, next_ref)
        self._leave_ref: str | None = None
        self._again = self._failing = self._stored = self._streams = False
        self._reason: str | None = None
        self._refusals: list[JoinError] = []

    @property
    def state(self) -> ChannelState:
        """The phase in public words."""
        return PUBLIC.get(self.phase, ChannelState.ERRORED if self._failing else ChannelState.JOINING)

    @property
    def deadline(self) -> float | None:
        """When ``tick`` is due."""
        times = (self._deadline, self._renewal.due)
        return min((time for time in times if time is not None), default=None)

    @property
    def awaits_answer(self) -> bool:
        """Whether the deadline is for an answer of the server, and not for a try of ours."""
        return self.phase in AWAITING_ANSWER

    def subscribe(self, bindings: Sequence[Binding], how: How, online: bool, now: float) -> Iterator[Want]:
        """Be joined from now on, with these bindings."""
        if self.phase in (Phase.IDLE, Phase.LEAVING):
            self.bindings, self.how, self._stored = tuple(bindings), how, how.stored
            self.place.reset(how.resume)
            self._content.reset()
        if self.phase is Phase.LEAVING:
            self._again = True
        elif self.phase is Phase.IDLE:
            self._begin(now)
            if online:
                yield from self.online(now)

    def leave(self, online: bool, now: float) -> Iterator[Want]:
        """Be joined no more."""
        self._again = False
        if self.phase in ON_SERVER and online:
            self._move(Phase.LEAVING, now + self._timing.join_timeout)
            yield self._send_leave()
        elif self.phase is not Phase.IDLE and not (self.phase is Phase.LEAVING and online):
            yield from self._ended(now)

    def online(self, now: float) -> Iterator[Want]:
        """The socket is open."""
        if self.phase is Phase.WAITING and self._deadline is not None and self._deadline <= now:
            self.join_ref = self._next_ref()
            self._reason = None
            if self._stored:
                self._move(Phase.LOADING, now + self._timing.join_timeout)
                yield Load(self.topic, self.join_ref)
            else:
                yield self._authorize(self.join_ref, now)

    def loaded(self, join_ref: str, position: str | None, now: float) -> Iterator[Want]:
        """The stored position is here. None: there is none, and the channel begins at the present."""
        if self.phase is Phase.LOADING and join_ref == self.join_ref:
            self._stored = False
            self.place.reset(position)
            yield self._authorize(join_ref, now)

    def unloaded(self, join_ref: str, error: RowcastError, now: float) -> Iterator[Want]:
        """The stored position cannot be had."""
        if self.phase is Phase.LOADING and join_ref == self.join_ref:
            yield from self._failed(SubscribeStatus.CHANNEL_ERROR, error, now)

    def _authorize(self, join_ref: str, now: float) -> Want:
        self._move(Phase.AUTHORIZING, now + self._timing.join_timeout)
        return Authorize(self.topic, join_ref)

    def offline(self, error: RowcastError, now: float) -> Iterator[Want]:
        """There is no socket, or one could not be opened."""
        if self.phase is Phase.LEAVING:
            yield from self._ended(now)
        elif self.phase is not Phase.IDLE:
            if self.phase is not Phase.WAITING:
                self._move(Phase.WAITING, now)
            self.join_ref, self._failing = None, True
            yield from self._saying.offline(error)
            yield Notify(self.topic, SubscribeStatus.CHANNEL_ERROR, error)

    def tick(self, now: float) -> Iterator[Want]:
        """The deadline may have come. Only called while the socket is open."""
        if self._renewal.due is not None and now >= self._renewal.due:
            yield from self.refresh()
        if self._deadline is None or now < self._deadline:
            return
        if self.phase is Phase.WAITING:
            yield from self.online(now)
        elif self.phase is Phase.LEAVING:
            yield from self._ended(now)
        elif self._streams and self.phase is Phase.CONFIRMING:
            # It is confirmed once the server's database is there. What others say is heard all the same.
            self._deadline, self._failing = now + self._timing.join_timeout, True
            error = TimedOut(_UNCONFIRMED, code="JoinTimedOut", hint=_STAYS)
            yield Report(error)
            yield Notify(self.topic, SubscribeStatus.TIMED_OUT, error)
        elif self._refusals and self.phase is Phase.CONFIRMING:
            # Supabase's server refuses all bindings of a join at once, and says no more.
            yield from self._failed(SubscribeStatus.CHANNEL_ERROR, self._refusals[-1], now)
        else:
            who = "the store gave no position" if self.phase is Phase.LOADING else _UNCONFIRMED
            waited = f"{who} within {self._timing.join_timeout:g} s"
            error = TimedOut(waited, code="JoinTimedOut", hint="it is tried again; the server may be busy")
            yield from self._failed(SubscribeStatus.TIMED_OUT, error, now)

    def excuse(self, now: float) -> None:
        """We were not able to listen: give the answer its time again."""
        if self.awaits_answer:
            self._deadline = now + self._timing.join_timeout

    def authorized(
        self, join_ref: str, token: str | None, now: float, *, warning: float | None = None
    ) -> Iterator[Want]:
        """The token for the join is here. None: the server falls back to the socket's key.

        ``warning`` is how many seconds before the token ends the server is asked to say so.
        """
        if self.phase is not Phase.AUTHORIZING or join_ref != self.join_ref:
            return
        resume = self.place.join(snapshots(self.bindings), len(self.bindings) + self.how.messages)
        payload: dict[str, Any] = {"config": config(self.bindings, self.how, warning, resume)}
        if token is not None:
            payload["access_token"] = token
        self._move(Phase.JOINING, now + self._timing.join_timeout)
        self._renewal.sent(token, now)
        yield Send(encode(join_ref, join_ref, self.topic, "phx_join", payload))

    def unauthorized(self, join_ref: str, error: RowcastError, now: float) -> Iterator[Want]:
        """There is no token for the join."""
        if self.phase is Phase.AUTHORIZING and join_ref == self.join_ref:
            yield from self._failed(SubscribeStatus.CHANNEL_ERROR, error, now)

    def refresh(self) -> Iterator[Want]:
        """Have another token, if the server knows of the channel."""
        if self.phase in ON_SERVER and self.join_ref is not None:
            self._renewal.asked()
            yield Refresh(self.topic, self.join_ref)

    def refreshed(self, join_ref: str, token: str | None, now: float) -> Iterator[Want]:
        """The other token is here. The server takes it in place, and answers only if it refuses it."""
        if self._stands(join_ref) and token is not None and self._renewal.came(token, now):
            payload = {"access_token": token}
            yield Send(encode(join_ref, self._next_ref(), self.topic, "access_token", payload))

    def unrefreshed(self, join_ref: str, error: RowcastError, now: float) -> Iterator[Want]:
        """There is no other token. The channel stays as it is while the old one is good."""
        if self._stands(join_ref):
            self._renewal.failed(now)
            yield Report(error)

    @property
    def speaks(self) -> bool:
        """Whether the server has taken the join, and so what the channel says."""
        return self.phase in HEARING

    def broadcast(self, said: Said, number: int | None) -> Iterator[Send]:
        """Send this, on a channel that ``speaks``. With a ``number`` its answer is awaited."""
        if self.speaks and self.join_ref is not None:
            yield from self._saying.broadcast(self.join_ref, said, number)

    def stored(self, id_: str) -> None:
        """A broadcast of this id is stored for the channel: without ``echo`` it does not hear it."""
        self._content.stored(id_)

    def show(self, payload: bytes | None, number: int) -> Iterator[Want]:
        """Show this of oneself from now on, or nothing, on a channel that is subscribed to."""
        return self._saying.show(payload, number, self.join_ref if self.speaks else None)

    def forget(self, number: int) -> None:
        """Nobody waits for the answer to this broadcast or call any more."""
        self._saying.forget(number)

    def _stands(self, join_ref: str) -> bool:
        return self.phase in ON_SERVER and join_ref == self.join_ref

    def received(self, frame: Frame, now: float) -> Iterator[Want]:
        """A frame on this topic. Raises ProtocolError for one that cannot be read."""
        if frame.join_ref is not None and frame.join_ref != self.join_ref:
            return
        if frame.event in Content.EVENTS:
            if self.phase in HEARING:
                yield from self._content.received(frame)
        elif frame.event == "phx_reply":
            yield from self._replied(frame, now)
        elif frame.event == "system":
            yield from self._system(frame, now)
        elif frame.event in ("phx_close", "phx_error"):
            yield from self._ended_by_server(frame.event, now)

    def heard(self, broadcast: Hear) -> Iterator[Want]:
        """A broadcast on this topic that came as a binary frame."""
        return self._content.heard(broadcast) if self.phase in HEARING else iter(())

    def advance(self, position: str) -> Iterator[Want]:
        """The server stands there, and has sent the channel everything before."""
        if self.phase is Phase.SUBSCRIBED and self.place.advance(position):
            yield Advance(self.topic, position)

    def _replied(self, frame: Frame, now: float) -> Iterator[Want]:
        if self.phase is Phase.LEAVING and frame.ref == self._leave_ref:
            yield from self._ended(now)
            return
        reply = decode_reply(frame.payload)
        yield from self._saying.answered(frame.ref, reply)
        if self.phase is Phase.JOINING and frame.ref == self.join_ref:
            if reply.status == "ok":
                yield from self._accepted(reply.response, now)
            else:
                self.join_ref = None
                yield from self._failed(
                    SubscribeStatus.CHANNEL_ERROR, refusal(reply.response, self.how.private), now
                )

    def _accepted(self, response: Any, now: float) -> Iterator[Want]:
        assert self.join_ref is not None
        response = response if isinstance(response, dict) else {}
        self._streams = self.how.messages and response.get("messages") is True
        if self.how.store and not self._streams:
            yield Report(JoinError("the server stores no broadcasts", code=UNSTORED, hint=_NOT_STORED))
        indices = match(self.bindings, response.get("postgres_changes")) if self.bindings else {}
        if indices is None:
            error = ProtocolError("the server's subscriptions are not those that were asked for")
            yield from self._failed(SubscribeStatus.CHANNEL_ERROR, error, now)
            return
        self._content.accepted(indices, self.bindings, self.how, self.join_ref, messages=self._streams)
        self._refusals = []
        self._move(Phase.CONFIRMING, now + self._timing.join_timeout)
        yield from self._saying.joined(self.join_ref)
        if not self.bindings and not self._streams:
            yield from self._subscribed(None, now)

    def _system(self, frame: Frame, now: float) -> Iterator[Want]:
        payload = decode_object(frame.payload)
        yield System(self.topic, payload)
        left = payload.get("expires_in")
        if self.phase in ON_SERVER and isinstance(left, int | float) and 0 <= left <= _LONGEST_WARNING:
            self._renewal.warned(left, now)
        message, ok = str(payload.get("message", "")), payload.get("status") == "ok"
        if payload.get("extension") != "postgres_changes":
            # An error here is the reason of the phx_close that follows it.
            self._reason = self._reason if ok else message
        elif isinstance(gap := payload.get("gap"), dict):
            if self.phase in HEARING:
                missed = self.place.missed(gap, payload.get("position"), message)
                yield Miss(self.topic, missed, self.place.reached)
        elif ok and (self.phase is Phase.CONFIRMING or (self.phase is Phase.SUBSCRIBED and self._failing)):
            position = payload.get("position")
            yield from self._subscribed(position if isinstance(position, str) else None, now)
        elif not ok and (self.phase is Phase.CONFIRMING or self._unread(message)):
            yield from self._refused(message, now)
        elif not ok and self.phase is Phase.SUBSCRIBED:
            yield from self._degraded(JoinError(message, code="SubscriptionLost", hint=_STAYS))

    def _refused(self, message: str, now: float) -> Iterator[Want]:
        last = len(self._refusals) + 1 == len(self.bindings) and not self._streams
        error = JoinError(message, code="SubscriptionRefused", hint="it is tried again" if last else _OTHERS)
        self._refusals.append(error)
        if last:
            yield from self._failed(SubscribeStatus.CHANNEL_ERROR, error, now)
        else:
            yield from self._degraded(error)

    def _unread(self, message: str) -> bool:
        # A snapshot fails after the channel was confirmed, and takes its entry with it all the same.
        return self.phase is Phase.SUBSCRIBED and message.startswith(_NO_SNAPSHOT)

    def _degraded(self, error: JoinError) -> Iterator[Want]:
        """Something of the channel does not work; the channel stays."""
        self._failing = True
        yield Report(error)
        yield Notify(self.topic, SubscribeStatus.CHANNEL_ERROR, error)

    def _ended_by_server(self, event: str, now: float) -> Iterator[Want]:
        if self.phase is Phase.LEAVING:
            yield from self._ended(now)
        elif self.phase in ON_SERVER:
            what = "ended the channel" if event == "phx_close" else "reports a fault in the channel"
            reason = self._reason or f"the server {what}"
            error = JoinError(reason, code="ChannelEnded", hint="it is tried again")
            self.join_ref = None
            yield from self._failed(SubscribeStatus.CHANNEL_ERROR, error, now)

    def _subscribed(self, position: str | None, now: float) -> Iterator[Want]:
        if self.phase is not Phase.SUBSCRIBED:
            self._backoff.worked(now)
        self._move(Phase.SUBSCRIBED, None)
        self._failing = False
        gap = self.place.subscribed(position)
        yield Notify(self.topic, SubscribeStatus.SUBSCRIBED, position=self.place.reached)
        if gap is not None:
            yield Miss(self.topic, gap, self.place.reached)

    def _failed(self, status: SubscribeStatus, error: RowcastError, now: float) -> Iterator[Want]:
        # What the server may still hold of this join is given back before the next one.
        if self.phase in ON_SERVER and self.join_ref is not None:
            yield self._send_leave()
        self.join_ref, self._failing = None, True
        self._move(Phase.WAITING, self._backoff.failed(now))
        yield from self._saying.ended(error)
        yield Report(error)
        yield Notify(self.topic, status, error)

    def _ended(self, now: float) -> Iterator[Want]:
        self.join_ref, self._failing = None, False
        self._move(Phase.IDLE, None)
        yield from self._saying.left(ClientClosed("the channel was left"))
        yield Notify(self.topic, SubscribeStatus.CLOSED)
        if self._again:
            self._begin(now)

    def _begin(self, now: float) -> None:
        self._again = self._failing = False
        self._backoff.reset()
        self._move(Phase.WAITING, now)

    def _send_leave(self) -> Want:
        self._leave_ref = self._next_ref()
        return Send(encode(self.join_ref, self._leave_ref, self.topic, "phx_leave", {}))

    def _move(self, phase: Phase, deadline: float | None) -> None:
        self.phase, self._deadline = phase, deadline
        if phase not in ON_SERVER:
            self._renewal.sent(None, 0.0)
