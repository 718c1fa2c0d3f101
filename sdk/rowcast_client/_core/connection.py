"""Connection: the whole conversation with the server, without a socket.

It is told what happened (``opened``, ``received``, ``lost``, ``tick``, …) and when, and answers with wants.
Each socket has a number, and what is told about any but the present one is ignored, so that a late echo of a
dead socket can do no harm. A socket is dead when it closes, whatever its code, or when neither the reply to a
heartbeat nor anything else came in for ``heartbeat_timeout``. It is opened again for ever, unless the first
handshake was refused for a credential that cannot change (``fresh_credentials`` is false).
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

from ..errors import AuthError, ConnectError, ConnectionLost, ProtocolError, RowcastError
from ..retry import RetryPolicy
from ..states import ClientState
from . import broadcasts, frames
from .asking import Binding, How
from .backoff import Backoff
from .join import Join
from .phases import Phase, Timing
from .wants import Close, Hear, Open, Report, Send, Stop, Want

# A tick that comes this late means that the process, not the server, was away.
_HELD_UP = 1.0
_PLAIN = How()


class Connection:
    """All channels of one client over one socket at a time. Not safe to use from two threads."""

    def __init__(self, timing: Timing, retry: RetryPolicy, *, fresh_credentials: bool = False) -> None:
        self.state = ClientState.IDLE
        self.joins: dict[str, Join] = {}
        self._timing, self._retry, self._backoff = timing, retry, Backoff(retry)
        self._fresh_credentials = fresh_credentials
        self._refs = itertools.count(1)
        self._sockets = itertools.count(1)
        self._socket = 0
        self._ever_open = False
        self._retry_at: float | None = None
        self._beat_at: float | None = None
        self._beat_ref: str | None = None
        self._beat_sent = self._heard_at = 0.0
        self._listening = True

    @property
    def online(self) -> bool:
        """Whether frames can be sent."""
        return self.state is ClientState.CONNECTED

    @property
    def deadline(self) -> float | None:
        """When ``tick`` is due next."""
        times = [self._retry_at]
        if self.online:
            times += [self._beat_at, self._dead_at]
            times += [join.deadline for join in self._ticking()]
        return min((time for time in times if time is not None), default=None)

    @property
    def _dead_at(self) -> float | None:
        if self._beat_ref is None or not self._listening:
            return None
        return max(self._beat_sent, self._heard_at) + self._timing.heartbeat_timeout

    def connect(self, now: float) -> list[Want]:
        """Be connected from now on."""
        if self.state not in (ClientState.IDLE, ClientState.CLOSED):
            return []
        self.state, self._ever_open = ClientState.CONNECTING, False
        self._backoff.reset()
        return [self._open()]

    def opened(self, socket: int, now: float) -> list[Want]:
        """The socket is open."""
        if socket != self._socket:
            return []
        self.state, self._ever_open, self._listening = ClientState.CONNECTED, True, True
        self._backoff.worked(now)
        self._heard_at, self._beat_at, self._beat_ref = now, now + self._timing.heartbeat_interval, None
        return self._each(join.online(now) for join in self.joins.values())

    def failed(self, socket: int, error: RowcastError, now: float) -> list[Want]:
        """The socket could not be opened."""
        if socket != self._socket:
            return []
        refused = isinstance(error, AuthError) or (isinstance(error, ConnectError) and not error.temporary)
        if refused and not self._ever_open and not self._fresh_credentials:
            return self._stop(error, now)
        return self._again(error, now)

    def lost(self, socket: int, error: ConnectionLost, now: float) -> list[Want]:
        """The socket is gone."""
        return self._again(error, now) if socket == self._socket else []

    def received(self, socket: int, text: str | bytes, now: float) -> list[Want]:
        """A frame came in."""
        if socket != self._socket:
            return []
        self._heard_at = now
        try:
            if isinstance(text, bytes):
                return self._broadcast(broadcasts.from_binary(text))
            frame = frames.decode(text)
            if frame.topic == frames.HEARTBEAT_TOPIC:
                return self._answered(frame)
            join = self.joins.get(frame.topic)
            if join is None:
                return []
            wants = list(join.received(frame, now))
            if join.phase is Phase.WAITING:
                wants += join.online(now)
            return wants
        except ProtocolError as fault:
            return [Report(fault)]

    def listening(self, yes: bool, now: float) -> None:
        """Whether frames are being read. While not, silence of the server says nothing."""
        if yes and not self._listening:
            self._excuse(now)
        self._listening = yes

    def subscribe(
        self,
        topic: str,
        bindings: Sequence[Binding],
        now: float,
        how: How = _PLAIN,
    ) -> list[Want]:
        """Keep this topic joined with these bindings, beginning now or with the next socket."""
        join = self.joins.get(topic)
        if join is None:
            join = self.joins[topic] = Join(topic, self._timing, self._retry, self._next_ref)
        return list(join.subscribe(bindings, how, self.online, now))

    def leave(self, topic: str, now: float) -> list[Want]:
        """Keep this topic joined no more."""
        return list(self.joins[topic].leave(self.online, now)) if topic in self.joins else []

    def forget(self, topic: str) -> None:
        """Drop what is kept about a topic that is not joined."""
        if topic in self.joins and self.joins[topic].phase is Phase.IDLE:
            del self.joins[topic]

    def loaded(self, topic: str, join_ref: str, position: str | None, now: float) -> list[Want]:
        """The answer to ``Load``."""
        return list(self.joins[topic].loaded(join_ref, position, now)) if topic in self.joins else []

    def unloaded(self, topic: str, join_ref: str, error: RowcastError, now: float) -> list[Want]:
        """The other answer to ``Load``."""
        return list(self.joins[topic].unloaded(join_ref, error, now)) if topic in self.joins else []

    def authorized(
        self, topic: str, join_ref: str, token: str | None, now: float, *, warning: float | None = None
    ) -> list[Want]:
        """The answer to ``Authorize``. ``warning``: how many seconds before its end to be told of it."""
        join = self.joins.get(topic)
        return [] if join is None else list(join.authorized(join_ref, token, now, warning=warning))

    def unauthorized(self, topic: str, join_ref: str, error: RowcastError, now: float) -> list[Want]:
        """The other answer to ``Authorize``."""
        return list(self.joins[topic].unauthorized(join_ref, error, now)) if topic in self.joins else []

    def refresh(self) -> list[Want]:
        """There is another token: have it for every channel that the server knows of."""
        return self._each(join.refresh() for join in self.joins.values())

    def refreshed(self, topic: str, join_ref: str, token: str | None, now: float) -> list[Want]:
        """The answer to ``Refresh``."""
        return list(self.joins[topic].refreshed(join_ref, token, now)) if topic in self.joins else []

    def unrefreshed(self, topic: str, join_ref: str, error: RowcastError, now: float) -> list[Want]:
        """The other answer to ``Refresh``."""
        return list(self.joins[topic].unrefreshed(join_ref, error, now)) if topic in self.joins else []

    def broadcast(self, topic: str, said: broadcasts.Said, number: int | None) -> list[Send]:
        """Send this on a channel that ``speaks``. With a ``number`` the answer is awaited: see ``Settle``."""
        return list(self.joins[topic].broadcast(said, number)) if topic in self.joins else []

    def stored(self, topic: str, id_: str) -> None:
        """A broadcast of this id is stored, by the channel or for it."""
        if topic in self.joins:
            self.joins[topic].stored(id_)

    def show(self, topic: str, payload: bytes | None, number: int) -> list[Want]:
        """Track this from now on, or nothing, on a channel that is subscribed to. ``Settle`` follows."""
        return list(self.joins[topic].show(payload, number)) if topic in self.joins else []

    def abandon(self, topic: str, number: int) -> None:
        """Nobody waits for that answer any more."""
        if topic in self.joins:
            self.joins[topic].forget(number)

    def tick(self, now: float) -> list[Want]:
        """Time has passed."""
        due = self.deadline
        if due is None or now < due:
            return []
        if now - due > _HELD_UP:
            self._excuse(now)
        if self._retry_at is not None and now >= self._retry_at:
            return [self._open()]
        if not self.online:
            return []
        wants = self._heartbeat(now)
        if self.online:
            wants += self._each(join.tick(now) for join in self._ticking())
        return wants

    def close(self, now: float) -> list[Want]:
        """Be connected no more."""
        if self.state in (ClientState.IDLE, ClientState.CLOSED):
            return self._end_joins(now)
        ended: list[Want] = [Close(self._socket, gently=self.online)]
        self._forget_socket()
        self.state = ClientState.CLOSED
        return [*ended, *self._end_joins(now)]

    def _ticking(self) -> list[Join]:
        return [join for join in self.joins.values() if self._listening or not join.awaits_answer]

    def _heartbeat(self, now: float) -> list[Want]:
        if self._dead_at is not None and now >= self._dead_at:
            error = ConnectionLost("the server did not answer a heartbeat", code="HeartbeatTimedOut")
            return [Close(self._socket, gently=False), *self._again(error, now)]
        if self._beat_at is None or now < self._beat_at:
            return []
        self._beat_at, ref = now + self._timing.heartbeat_interval, self._next_ref()
        if self._beat_ref is None:  # else the oldest that is unanswered stays the one that counts
            self._beat_ref, self._beat_sent = ref, now
        return [Send(frames.encode(None, ref, frames.HEARTBEAT_TOPIC, "heartbeat", {}))]

    def _broadcast(self, heard: Hear) -> list[Want]:
        join = self.joins.get(heard.topic)
        return [] if join is None else list(join.heard(heard))

    def _answered(self, frame: frames.Frame) -> list[Want]:
        self._beat_ref = None if frame.ref == self._beat_ref else self._beat_ref
        position = frames.heartbeat_position(frame.payload)
        return [] if position is None else self._each(join.advance(position) for join in self.joins.values())

    def _again(self, error: RowcastError, now: float) -> list[Want]:
        self._forget_socket()
        self.state = ClientState.RECONNECTING
        self._retry_at = self._backoff.failed(now)
        return [Report(error), *self._each(join.offline(error, now) for join in self.joins.values())]

    def _stop(self, error: RowcastError, now: float) -> list[Want]:
        self._forget_socket()
        self.state = ClientState.CLOSED
        told = self._each(join.offline(error, now) for join in self.joins.values())
        return [Report(error), *told, Stop(error)]

    def _end_joins(self, now: float) -> list[Want]:
        return self._each(join.leave(False, now) for join in self.joins.values())

    def _open(self) -> Want:
        self._retry_at, self._socket = None, next(self._sockets)
        return Open(self._socket)

    def _forget_socket(self) -> None:
        self._socket = 0
        self._retry_at = self._beat_at = self._beat_ref = None

    def _excuse(self, now: float) -> None:
        self._heard_at = now
        for join in self.joins.values():
            join.excuse(now)

    def _next_ref(self) -> str:
        return str(next(self._refs))

    @staticmethod
    def _each(wants: Iterable[Iterator[Want]]) -> list[Want]:
        return [want for some in wants for want in some]
