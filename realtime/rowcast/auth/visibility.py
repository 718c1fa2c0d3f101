"""Which row images a role with its claims may see: asked of Postgres, by the table's own policies.

What is judged is the image, by what the row said then. Where an image does not say enough, its row is looked
for in the table instead, as the role may select it. Everything fails closed: a policy that raises an error or
takes too long hides rows from that role with those claims, and is counted.
"""

import functools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import asyncpg
import structlog

from rowcast.auth.judges import Barred, Judges, Unmade
from rowcast.auth.rules import Rule, Rules, Sees
from rowcast.db.connection import LOST, Session
from rowcast.model.change import Relation
from rowcast.model.claims import Subject

#: Where functions that a policy calls find what they name: the path of a session of PostgREST's.
SEARCH_PATH: Final = '"$user", public, extensions'
#: Pairs of an image and claims in one question.
_MAX_PAIRS: Final = 20_000
_MAX_SLOW: Final = 10_000
#: When the table is hidden from the role: after two questions in a row that Postgres did not give up in time,
#: or eight that came to nothing though it was not at work on them, as on a network that is slow.
_STRIKES: Final = 8
_STUBBORN, _UNANSWERED = 4, 1

#: A policy that fails shows nothing, as it would to a SELECT.
_MARKS: Final = str.maketrans("eu", "00")
_UNSURE: Final = ord("?")

log = structlog.get_logger("rowcast.visibility")


@dataclass(slots=True)
class Doubts:
    """Pairs of an image and a subject that were hidden for want of an answer, by the reason.

    ``failed``: a policy raised an error. ``slow``: it took too long. ``unjudged``: neither the image nor a
    row of the table could be judged. ``barred``: this server may not assume the role. ``live`` hides nothing:
    it counts what was answered by the row as it is in the table now.
    """

    failed: int = 0
    slow: int = 0
    unjudged: int = 0
    barred: int = 0
    live: int = 0


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What was answered. ``lines`` has a letter for each image, by subject: ``1`` where it sees the row,
    ``?`` where Postgres did not say in time."""

    lines: dict[Subject, str]
    doubts: Doubts

    def sees(self, subject: Subject, image: int) -> bool:
        """Whether a subject sees the row of an image, by its place among those that were given."""
        return self.lines[subject][image] == "1"


@dataclass(frozen=True, slots=True)
class _Piece:
    """One question: subjects of one role, and images by their places."""

    rule: Rule
    live: bool
    subjects: tuple[Subject, ...]
    rows: tuple[int, ...]

    @property
    def pairs(self) -> int:
        return len(self.subjects) * len(self.rows)

    def halves(self) -> "tuple[_Piece, ...]":
        """In two, by subjects or else by rows; nothing for a single pair."""
        if (middle := len(self.subjects) // 2) > 0:
            first, second = self.subjects[:middle], self.subjects[middle:]
            return replace(self, subjects=first), replace(self, subjects=second)
        if (middle := len(self.rows) // 2) > 0:
            return replace(self, rows=self.rows[:middle]), replace(self, rows=self.rows[middle:])
        return ()


@dataclass(slots=True)
class _Work:
    """One call: what was given, what is answered so far, and what is left to ask."""

    relation: Relation
    images: Sequence[str]
    origin: int
    marks: dict[Subject, bytearray]
    doubts: Doubts = field(default_factory=Doubts)
    queue: deque[_Piece] = field(default_factory=deque)

    def put(self, rule: Rule, subjects: Sequence[Subject], rows: Iterable[int], *, live: bool) -> None:
        """Plan to ask, in pieces of a bounded size."""
        places = tuple(rows)
        step = max(1, _MAX_PAIRS // max(1, len(places)))
        for begin in range(0, len(subjects) if places else 0, step):
            self.queue.append(_Piece(rule, live, tuple(subjects[begin : begin + step]), places))

    def doubt(self, subjects: Iterable[Subject], rows: Iterable[int]) -> None:
        """Nothing was said in time of these pairs."""
        places = tuple(rows)
        for subject in subjects:
            self.doubts.slow += len(places)
            marks = self.marks[subject]
            for row in places:
                marks[row] = _UNSURE

    def look_up(self, rule: Rule, subjects: Sequence[Subject], rows: Collection[int]) -> None:
        """Plan to look for rows in the table, as their images cannot be judged."""
        if rule.finds(self.relation):
            self.put(rule, subjects, rows, live=True)
        else:
            self.doubts.unjudged += len(subjects) * len(rows)


class Visibility:
    """Judges rows of one database. ``roles`` are those that may be assumed; any other sees nothing.

    Each question to Postgres may take ``seconds``, and the questions of one call ``limit`` seconds together:
    what is not answered by then is hidden. Where a single pair takes too long, that table's rows are hidden
    from that subject for ``rest`` seconds. ``search_path`` is what functions of policies see.
    """

    def __init__(
        self,
        roles: Iterable[str],
        *,
        seconds: float = 0.25,
        limit: float = 2.0,
        rest: float = 10.0,
        search_path: str = SEARCH_PATH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        roles = frozenset(roles)
        self._apart = functools.partial(
            Visibility,
            roles,
            seconds=seconds,
            limit=limit,
            rest=rest,
            search_path=search_path,
            clock=clock,
        )
        self._others: list[Visibility] = []
        self._rules = Rules(roles, limit)
        self._judges = Judges(seconds, search_path)
        self._seconds, self._limit, self._rest, self._clock = seconds, limit, rest, clock
        self._slow: OrderedDict[tuple[int, Subject], float] = OrderedDict()
        self._strikes: dict[tuple[int, str], int] = {}
        #: Rules that cannot be applied to images, though it looked as if they could.
        self._only_live: set[tuple[int, str]] = set()

    def apart(self) -> "Visibility":
        """Another that judges alike, and can be asked at the same time, on another connection. It forgets
        whenever this one does."""
        other = self._apart()
        self._others.append(other)
        return other

    def forget(self) -> None:
        """The catalog changed: ask for the policies anew before the next change."""
        for other in self._others:
            other.forget()
        self._rules.forget()
        self._slow.clear()
        self._strikes.clear()
        self._only_live.clear()

    async def judge(
        self, connection: Session, relation: Relation, images: Sequence[str], subjects: Iterable[Subject]
    ) -> Verdicts:
        """Who sees which rows. ``images`` are rows as JSON text, as captured under one version of a table.

        ``connection`` must be in no transaction, used for nothing else, and without cached statements. It
        is asked nothing more once Postgres was at work for ``limit``.
        Raises one of LOST when the connection is lost or had to be given up: call again with another.
        """
        for rule, at_work in await self._judges.use(connection):
            self._strike(rule, at_work=at_work)
        work = _Work(
            relation,
            images,
            relation.oid,
            {subject: bytearray(b"0" * len(images)) for subject in subjects},
        )
        try:
            rules = await self._rules.load(connection, relation.oid, {subject.role for subject in work.marks})
        except asyncpg.QueryCanceledError:
            rules = {}
            work.doubt(work.marks, range(len(images)))
        if any(rule.reads_tableoid for rule in rules.values()):
            work.origin = await self._rules.origin(connection, relation)
        end = self._judges.spent + self._limit
        for _, rule in sorted(rules.items()):
            self._plan(work, rule, [subject for subject in work.marks if subject.role == rule.role])
        while work.queue:
            piece = work.queue.popleft()
            if self._judges.spent < end:
                await self._answer(work, piece)
            else:
                work.doubt(piece.subjects, piece.rows)
        return Verdicts({subject: line.decode() for subject, line in work.marks.items()}, work.doubts)

    def _strike(self, rule: Rule, *, at_work: bool) -> None:
        key = rule.oid, rule.role
        self._strikes[key] = self._strikes.get(key, 0) + (_STUBBORN if at_work else _UNANSWERED)
        event = "policy_not_cancelled" if at_work else "policy_unanswered"
        log.error(event, schema=rule.schema, table=rule.table, role=rule.role)

    def _plan(self, work: _Work, rule: Rule, subjects: Sequence[Subject]) -> None:
        match rule.sees:
            case Sees.NOTHING:
                return
            case Sees.EVERYTHING:
                for subject in subjects:
                    work.marks[subject][:] = b"1" * len(work.images)
                return
            case Sees.BARRED:
                work.doubts.barred += len(subjects) * len(work.images)
                return
        asked = []
        rows = range(len(work.images))
        stuck = self._strikes.get((rule.oid, rule.role), 0) >= _STRIKES
        for subject in subjects:
            if stuck or self._clock() < self._slow.get((rule.oid, subject), 0.0):
                work.doubt((subject,), rows)
            elif not _is_text(subject.claims):
                work.doubts.failed += len(work.images)
            else:
                asked.append(subject)
        if (rule.oid, rule.role) in self._only_live or not rule.fits(work.relation):
            work.look_up(rule, asked, rows)
        else:
            work.put(rule, asked, rows, live=False)

    async def _answer(self, work: _Work, piece: _Piece) -> None:
        rule = piece.rule
        key = rule.oid, rule.role
        try:
            fit, *lines = await self._judges.ask(
                rule,
                [work.images[row] for row in piece.rows],
                [subject.claims for subject in piece.subjects],
                origin=work.origin,
                live=piece.live,
            )
        except LOST:
            raise
        except Barred:
            work.doubts.barred += piece.pairs
        except Unmade:
            work.doubts.unjudged += piece.pairs
        except asyncpg.PostgresError as error:
            self._failed(work, piece, slow=isinstance(error, asyncpg.QueryCanceledError))
        else:
            self._strikes.pop(key, None)
            self._take(work, piece, fit, lines)

    def _failed(self, work: _Work, piece: _Piece, *, slow: bool) -> None:
        """A question was not answered at all: find the pair that is at fault, after all others were asked."""
        if halves := piece.halves():
            work.queue.extend(halves)
        elif not slow:
            work.doubts.failed += 1
        else:
            work.doubt(piece.subjects, piece.rows)
            rule, (subject,) = piece.rule, piece.subjects
            log.warning(
                "policy_slow", schema=rule.schema, table=rule.table, role=rule.role, seconds=self._seconds
            )
            self._slow[rule.oid, subject] = self._clock() + self._rest
            if len(self._slow) > _MAX_SLOW:
                self._slow.popitem(last=False)

    def _take(self, work: _Work, piece: _Piece, fit: str, lines: Sequence[str]) -> None:
        """Note what was answered, and plan for rows whose images do not say enough."""
        unread = [row for row, mark in zip(piece.rows, fit, strict=True) if mark == "u"]
        rows = [row for row, mark in zip(piece.rows, fit, strict=True) if mark == "1"]
        left: dict[tuple[int, ...], list[Subject]] = {}
        whole = len(rows) == len(work.images)
        for subject, line in zip(piece.subjects, lines, strict=True):
            marks = work.marks[subject]
            if whole and not piece.live:
                marks[:] = line.translate(_MARKS).encode()
            else:
                for row, mark in zip(rows, line, strict=True):
                    if mark == "1":
                        marks[row] = ord("1")
            work.doubts.failed += line.count("e")
            if unread or "u" in line:
                again = (*unread, *(row for row, mark in zip(rows, line, strict=True) if mark == "u"))
                left.setdefault(again, []).append(subject)
        if piece.live:
            work.doubts.live += sum(line.count("0") + line.count("1") for line in lines)
            work.doubts.failed += sum(line.count("u") for line in lines)
            return
        if rows and lines and all(line == "u" * len(rows) for line in lines):
            self._only_live.add((piece.rule.oid, piece.rule.role))
        for again, subjects in left.items():
            work.look_up(piece.rule, subjects, again)


def _is_text(claims: str) -> bool:
    """Whether Postgres can be sent it."""
    try:
        return b"\0" not in claims.encode()
    except UnicodeEncodeError:
        return False
