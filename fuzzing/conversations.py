"""Whole conversations: frames and time through the codec and the session, with the rules that always hold.

The first line is the version, ``1`` or ``2``. Of each further line the first byte says what happens:

    >  the rest is a text frame           +  so many seconds pass; ``-`` sets the clock back
    #  the rest is a binary frame         k  time passes until the deadline
    a  the oldest attachment is made      r  it is refused
    t  a subscription has news            l  history was lost
"""

import pickle
from collections import defaultdict, deque
from typing import Final

from fuzzing.frames import check_encoded, check_message
from rowcast.auth.tokens import Verifier
from rowcast.model.allowed import Allowed, ChannelUnavailable
from rowcast.model.claims import Claims, TokenError
from rowcast.model.rates import RateWindow
from rowcast.model.seats import Seats
from rowcast.protocol.codec import decode_binary, decode_text, encode
from rowcast.protocol.messages import ClientMessage, MalformedMessage, Ref, ServerMessage, Version
from rowcast.session.admission import Limits
from rowcast.session.channel import PREFIX
from rowcast.session.connection import Connection
from rowcast.session.wants import (
    Attach,
    Authorize,
    Close,
    Detach,
    Enter,
    Publish,
    Send,
    Track,
    Untrack,
    Want,
)

_START: Final = 1_000_000.0
_LIMITS: Final = Limits(channels=3, bindings=3, entries_size=2000, topic_size=64)
_JOINS_PER_SECOND: Final = 2.0
_MAX_LINES: Final = 300
_LONGEST_STEP: Final = 5000.0
#: Of one channel: its token, twice in claims of ours, its topic and references, and the objects around them.
_CHANNEL_SIZE: Final = 3 * 16 * 1024 + 4096
#: A filter of a few bytes is a tree of objects.
_GROWTH: Final = 64
_verifier: Final = Verifier("a-secret-of-at-least-32-characters!!")


def fuzz_conversations(data: bytes) -> None:
    """Have one conversation."""
    first, *lines = data.split(b"\n")[:_MAX_LINES]
    conversation = _Conversation(Version.V1 if first[:1] == b"1" else Version.V2)
    for line in lines:
        conversation.step(line[:1], line[1:])
        if conversation.closed:
            break
    conversation.end()


def _verify(token: str, now: float) -> Claims:
    """Tokens are ``role:seconds``, the seconds from the start; what has no colon is judged for real."""
    role, colon, seconds = token.partition(":")
    if token == "anon":
        return Claims("anon", _START + 100_000.0, {})
    if not (colon and seconds.isascii() and seconds.isdigit() and len(seconds) < 7):
        return _verifier(token, now)
    expires = _START + int(seconds)
    if expires <= now:
        raise TokenError.expired(now - expires)
    return Claims(role, expires, {"role": role})


def _answer(question: Authorize) -> Allowed | ChannelUnavailable:
    """What policies might say, by the length of the name."""
    match len(question.name) % 4:
        case 0:
            return ChannelUnavailable("UnableToConnectToProject", "no database")
        case length:
            return Allowed(broadcast=length > 1, presence=length > 2)


class _Conversation:
    """A session, and what a client of it would have to be content with."""

    def __init__(self, version: Version) -> None:
        self._version, self._now = version, _START
        self._seats = Seats(1)
        self._session = Connection(
            version, "anon", _verify, _LIMITS, _START, RateWindow(_JOINS_PER_SECOND), self._seats
        )
        #: The joins of each topic that were answered ok, and whose channels have not ended.
        self._joined: defaultdict[str, list[Ref]] = defaultdict(list)
        self._attempts: dict[int, int] = {}
        self._known: set[int] = set()
        self._entered: set[int] = set()
        self._due: deque[Attach] = deque()
        self._late: list[tuple[float, Send | Close]] = []
        self._over = False
        self.closed = False

    def step(self, kind: bytes, rest: bytes) -> None:
        match kind:
            case b">" | b"#":
                self._say(rest, binary=kind == b"#")
            case b"+" | b"-":
                self._wait(_seconds(rest), back=kind == b"-")
            case b"k":
                self._wait(max(0.0, self._session.deadline() - self._now))
            case b"a" | b"r" if self._due:
                due = self._due.popleft()
                refused = ("Unable to subscribe",) if kind == b"r" else ()
                ok = kind == b"a"
                self._take(self._session.attached(due.channel, due.attempt, refused, ok, "p" if ok else None))
            case b"t" | b"l" if self._known:
                key = sorted(self._known)[len(rest) % len(self._known)]
                status = "ok" if rest[:1] == b"o" else "error"
                if kind == b"t":
                    position = "p" if status == "ok" else None
                    self._take(self._session.told(key, status, "news", position))
                else:
                    self._take(self._session.lost(key, self._now))

    def end(self) -> None:
        for want in self._session.end():
            assert isinstance(want, Detach)
            self._take([want])
        assert not self._attempts, "a subscription outlives its connection"
        assert not self._entered, "a member outlives its connection"
        assert not self._seats.taken, "a seat outlives its connection"

    def _say(self, frame: bytes, *, binary: bool) -> None:
        try:
            message = decode_binary(frame, self._version) if binary else decode_text(frame, self._version)
        except MalformedMessage:
            self._session.alive(self._now)
            return
        check_message(message)
        joins = message.event == "phx_join" and message.topic.startswith(PREFIX)
        heartbeat = message.topic == "phoenix" and message.event == "heartbeat"
        wants = self._session.receive(message, self._now, "p" if heartbeat else None)
        if wants and isinstance(question := wants[-1], Authorize):
            answer = _answer(question)
            wants = [*wants[:-1], *self._session.authorized(answer, self._now)]
        if self._over:
            assert wants == []
            return
        self._check_answers(message, wants, joins or heartbeat or message.event == "phx_leave")
        sent = sum(len(encode(want.message, self._version)) for want in wants if isinstance(want, Send))
        assert sent <= 8 * len(frame) + 4096, "the answer is much larger than what it answers"
        if joins and self._version is Version.V1:
            # Its old channel ends without a word.
            self._joined.pop(message.topic, None)
        self._take(wants, answering=True)
        self._check_memory()

    def _check_answers(self, message: ClientMessage, wants: list[Want], due: bool) -> None:
        answers = [want.message for want in wants if isinstance(want, Send) and _is_reply(want.message)]
        assert len(answers) == 1 if due else len(answers) <= 1
        for answer in answers:
            assert (answer.topic, answer.ref, type(answer.ref)) == (
                message.topic,
                message.ref,
                type(message.ref),
            )
            assert answer.payload.keys() == {"status", "response"}
            assert answer.payload["status"] in ("ok", "error")
            assert isinstance(answer.payload["response"], dict)
        if message.event == "phx_join" and answers:
            first = next(want for want in wants if isinstance(want, Send))
            assert _is_reply(first.message), "something is sent before the reply of a join"

    def _take(self, wants: list[Want], *, answering: bool = False) -> None:
        for want in wants:
            match want:
                case Send(message, delay):
                    assert answering or not _is_reply(message)
                    if delay:
                        self._late.append((self._now + delay, want))
                    else:
                        self._deliver(message)
                case Attach(channel, topic):
                    assert self._joined[topic], "attached before its join is answered"
                    assert want.bindings
                    assert want.attempt > self._attempts.get(channel, 0)
                    assert channel in self._attempts or channel not in self._known
                    self._attempts[channel] = want.attempt
                    self._known.add(channel)
                    self._due.append(want)
                case Enter(channel, topic):
                    assert self._joined[topic], "entered before its join is answered"
                    self._entered.add(channel)
                case Publish(channel) | Track(channel) | Untrack(channel):
                    assert channel in self._entered
                case Detach(channel):
                    self._attempts.pop(channel, None)
                    self._entered.discard(channel)
                case Close(_, _, delay):
                    self._over = True
                    if delay:
                        self._late.append((self._now + delay, want))
                    else:
                        self.closed = True

    def _deliver(self, message: ServerMessage) -> None:
        for version in Version:
            check_encoded(message, encode(message, version), version)
        joined = self._joined[message.topic]
        match message.event:
            case "phx_reply":
                if "postgres_changes" in message.payload["response"]:
                    joined.append(message.join_ref)
            case "system":
                assert message.ref is None
                assert message.join_ref in joined, "for no channel of the client's"
            case "phx_close" | "phx_error":
                assert message.ref == message.join_ref
                joined.remove(message.join_ref)
            case _:
                raise AssertionError(message.event)

    def _wait(self, seconds: float, *, back: bool = False) -> None:
        self._now += -seconds if back else seconds
        due = sorted((late for late in self._late if late[0] <= self._now), key=lambda late: late[0])
        self._late = [late for late in self._late if late[0] > self._now]
        for _, want in due:
            if isinstance(want, Close):
                self.closed = True
                return
            self._deliver(want.message)
        if self._session.deadline() <= self._now:
            self._take(self._session.tick(self._now))
            assert self.closed or self._session.deadline() > self._now, "a deadline that never passes"

    def _check_memory(self) -> None:
        channels = self._session._channels
        assert self._seats.taken == bool(channels)
        assert len(channels) <= _LIMITS.channels
        assert sum(channel.size for channel in channels.values()) <= _LIMITS.entries_size
        held = len(pickle.dumps(channels))
        assert held <= len(channels) * _CHANNEL_SIZE + _GROWTH * _LIMITS.entries_size


def _is_reply(message: ServerMessage) -> bool:
    return message.event == "phx_reply"


def _seconds(text: bytes) -> float:
    try:
        seconds = float(text[:12])
    except ValueError:
        return 1.0
    return min(abs(seconds), _LONGEST_STEP) if seconds == seconds else 1.0
