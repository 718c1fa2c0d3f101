"""One joined channel of a connection.

    event            what is sent                                             then
    join             reply ok; later a `system` message for its bindings      joined
    join refused     reply error                                              (no channel)
    join that waits  once all its bindings are subscribed, the same           joined
    one refused, or  reply error                                              gone
    none in time
    a join too many  reply error                                              the connection is closed
    for the server
    leave            reply ok, phx_close                                      gone
    join again       reply of the new join, phx_close of the old (not 1.0.0)  the new one
    token ends soon  `system` ok, to who asked to be warned, once for each    joined
    token refreshed  `system` messages for its bindings, made anew            joined
    token expired,   `system` error, phx_close                                gone
    or a bad one,
    or one that may
    not read
    database away,   `system` error or ok, to who asked to be told             joined
    or back
    broadcast        see ``session.broadcasts``                                joined
    presence         see ``session.presences``                                 joined
    one too many     `system` error, phx_close                                gone
    database's       `system` ok, to who asked to be told; or after long       joined
    messages certain `system` error, phx_close                                or gone
    history lost     phx_error                                                gone; the client joins again

The reply of a join is the first message of its channel: everything else is made from here, after it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rowcast.model.allowed import Allowed
from rowcast.model.binding import Binding
from rowcast.model.calls import Calls
from rowcast.model.claims import Claims
from rowcast.protocol.join import JoinPayload
from rowcast.protocol.messages import ClientMessage, Ref, ServerMessage, reply
from rowcast.session.wants import Attach, Await, Enter, Send, Want

PREFIX = "realtime:"
AWAY = "The database is not reachable: changes wait"
BACK = "The database is back"
#: The extension of what is said of row changes.
CHANGES = "postgres_changes"
#: Why changes are missing, by the reason of a gap.
GAPS = {
    "retention": "they were trimmed before they were sent",
    "history": "they belong to another history of the database",
    "future": "the position is ahead of the database",
    "unreadable": "the position is none of this server's",
    "behind": "what judges them fell too far behind",
}


def join_ref(message: ClientMessage) -> Ref:
    """The reference that a join gives its channel."""
    return message.join_ref if message.join_ref is not None else message.ref


@dataclass(slots=True)
class Channel:
    """State of a joined channel. ``key`` is unique in its connection; ``join_ref`` is that of its join.

    ``size`` is that of its entries, in bytes; ``legacy`` a channel that joined the old way; ``readable`` what
    a private one may receive, None for a public one, and ``writable`` what it may send, None until that was
    asked; ``presence`` is whether it asked for that, or tracks, ``presence_key`` what it gave to be present
    under, ``calls`` how often it called and ``shown`` how many bytes it tracks; ``echo`` is whether it hears
    itself, ``ack`` whether its broadcasts are answered, and ``store`` whether they are stored.
    ``token_warning`` is how many seconds before its token ends it wants to be told, None where it does not;
    ``warned`` whether it was. ``gap``, ``group`` and ``messages`` are what its Attach says; ``health`` is
    whether it wants to be told when the database is away. ``resume`` is the position that it resumes from,
    until it is subscribed. ``answer`` is the reply to a join, while it waits for the bindings to be
    subscribed, ``after_answer`` what follows it, and ``wait_until`` how long it may wait.
    """

    key: int
    topic: str
    join_ref: Ref
    claims: Claims
    token: str
    bindings: Sequence[Binding]
    size: int = 0
    legacy: bool = False
    readable: Allowed | None = None
    presence: bool = False
    presence_key: str | None = None
    calls: Calls = field(default_factory=Calls)
    shown: int = 0
    writable: Allowed | None = None
    echo: bool = False
    ack: bool = False
    store: bool = False
    attempt: int = 0
    attached: bool = False
    token_warning: float | None = None
    warned: bool = False
    gap: bool = False
    group: bool = False
    messages: bool = False
    health: bool = False
    resume: str | None = None
    answer: ServerMessage | None = None
    after_answer: list[ServerMessage] = field(default_factory=list)
    wait_until: float = math.inf
    replication_ready: bool = False
    replayed: Sequence[Want] = ()
    known: frozenset[str] = frozenset()

    @classmethod
    def joined(
        cls,
        key: int,
        message: ClientMessage,
        claims: Claims,
        token: str,
        bindings: Sequence[Binding],
        payload: JoinPayload,
        readable: Allowed | None,
    ) -> "Channel":
        """A channel of its join."""
        return cls(
            key,
            message.topic,
            join_ref(message),
            claims,
            token,
            bindings,
            payload.size,
            payload.legacy,
            readable,
            payload.presence.enabled,
            payload.presence.key,
            echo=payload.broadcast.echo,
            ack=payload.broadcast.ack,
            store=payload.broadcast.store,
            token_warning=payload.token_warning,
            health=payload.health,
            resume=payload.resume,
            gap=payload.gap,
            group=payload.group,
            messages=payload.messages,
            replication_ready=payload.broadcast.replication_ready,
        )

    @property
    def name(self) -> str:
        """The topic without its prefix, as `system` messages show it."""
        return self.topic.removeprefix(PREFIX)

    @property
    def warn_at(self) -> float:
        """When it is to be told that its token ends, in Unix seconds: infinity where it is not."""
        if self.warned or self.token_warning is None:
            return math.inf
        return self.claims.expires_at - self.token_warning

    @property
    def due(self) -> float:
        """When something is to be done about it, in Unix seconds."""
        return min(self.claims.expires_at, self.warn_at, self.wait_until)

    def take(self, token: str, claims: Claims) -> None:
        """It has a new token, of which it was told nothing, and which may write what it may."""
        self.token, self.claims, self.warned, self.writable = token, claims, False, None

    def enter(self) -> Enter:
        """Hear its topic, for the first time or by other rights."""
        hears = self.readable is None or self.readable.broadcast
        sees = self.readable is None or self.readable.presence
        return Enter(
            self.key,
            self.topic,
            self.readable is not None,
            self.echo,
            hears,
            sees,
            self.presence,
            self.presence_key,
            self.join_ref,
            self.known,
        )

    def arrive(self) -> list[Want]:
        """The same when its join was answered."""
        return [self.enter(), *([Await(self.key)] if self.replication_ready else ())]

    def answered(self) -> list[Want]:
        """Its join, which waited, is answered, and it hears its topic."""
        assert self.answer is not None
        wants = [*self.first(self.answer), *map(Send, self.after_answer), *self.arrive()]
        self.answer, self.wait_until = None, math.inf
        return wants

    def first(self, answer: ServerMessage) -> list[Want]:
        """The answer to its join, and what it is sent of earlier messages."""
        replayed, self.replayed = self.replayed, ()
        return [Send(answer), *replayed]

    def warn(self, now: float) -> ServerMessage:
        """That its token ends soon. The text is for people; ``expires_in`` is in seconds."""
        self.warned = True
        left = self.claims.expires_at - now
        return self.system("ok", f"Token expires in {int(left)} seconds", "system", expires_in=round(left, 3))

    def attach(self) -> list[Want]:
        """Subscribe it, for the first time or anew, if it is to hear anything of the stream."""
        if not self.bindings and not self.messages:
            return []
        self.attempt += 1
        attach = Attach(
            self.key,
            self.topic,
            self.bindings,
            self.claims,
            self.attempt,
            self.legacy,
            self.resume,
            self.gap,
            self.group,
            self.messages,
            self.readable is not None,
            self.readable is None or self.readable.broadcast,
        )
        return [attach]

    def healthy(self, *, well: bool) -> ServerMessage:
        """That the database went away, or is back."""
        return self.system("ok" if well else "error", BACK if well else AWAY, "system")

    def reply(self, ref: Ref, status: str, response: Mapping[str, object]) -> ServerMessage:
        """The answer to what its client says."""
        return reply(self.topic, ref, self.join_ref, status, dict(response))

    def push(self, event: str, payload: dict[str, object]) -> ServerMessage:
        """A message of the channel itself."""
        return ServerMessage(self.topic, event, payload, None, self.join_ref)

    def system(self, status: str, message: str, extension: str, **more: object) -> ServerMessage:
        """A ``system`` message."""
        payload = {"message": message, "status": status, "extension": extension, "channel": self.name}
        return self.push("system", {**payload, **more})

    def missing(self, reason: str, since: str | None, position: str | None) -> ServerMessage:
        """That changes are missing. ``reason`` is one of GAPS, ``since`` the position that could not be
        resumed from, ``position`` where the stream goes on."""
        gap = {"reason": reason, "from": since}
        text = f"Changes are missing: {GAPS[reason]}"
        return self.system("error", text, CHANGES, gap=gap, position=position)

    def end(self, event: str) -> ServerMessage:
        """``phx_close`` or ``phx_error``: both references are the join's."""
        return ServerMessage(self.topic, event, {}, self.join_ref, self.join_ref)
