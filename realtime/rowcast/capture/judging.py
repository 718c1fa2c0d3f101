"""Changes of tables with row level security: which of those who asked for one may see its row.

The policies are asked on a connection of their own, since what they call is anybody's code.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import asyncpg

from rowcast.hub.feed import Subscriber
from rowcast.hub.matching import AnswersByRole
from rowcast.hub.sending import NO_SEES, MayRead, Sees
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.change import Change, Op, Relation
from rowcast.model.claims import Subject
from rowcast.model.reading import Reading, Seen

_SEEN: Final = {row + old: Seen(row == "1", old == "1", "?" in row + old) for row in "01?" for old in "01?"}


class Verdicts(Protocol):
    """Which images somebody may see: a letter for each that was given, ``1`` for one that is seen, ``?`` for
    one of which nothing was said in time."""

    @property
    def lines(self) -> Mapping[Subject, str]: ...


class Visibility(Protocol):
    """Judges images by policies: what ``auth.visibility`` does."""

    def forget(self) -> None: ...

    def apart(self) -> "Visibility":
        """The same, asked on a connection of its own."""
        ...

    async def judge(
        self,
        connection: asyncpg.Connection,
        relation: Relation,
        images: Sequence[str],
        subjects: Iterable[Subject],
    ) -> Verdicts: ...


class Judging:
    """Judges batches. ``connect`` makes the connection, when the first row is to be judged."""

    def __init__(self, visibility: Visibility, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._visibility, self._connect = visibility, connect
        self._connection: asyncpg.Connection | None = None

    async def sees(
        self, batch: Sequence[Change], wanted: Sequence[Iterable[Subject]]
    ) -> tuple[list[Sees], bool]:
        """What those who are ``wanted`` for each change may see of it, and whether anything is unsure.

        Raises one of LOST with the connection: call again to go on with another.
        """
        found: list[Sees] = [NO_SEES for _ in batch]
        unsure = False
        by_relation: dict[Relation, tuple[list[int], dict[Subject, None]]] = {}
        for row, subjects in enumerate(wanted):
            if subjects:
                rows, several = by_relation.setdefault(batch[row].relation, ([], {}))
                rows.append(row)
                several |= dict.fromkeys(subjects)
        for relation, (rows, several) in by_relation.items():
            places, lines = await self._judge(relation, [batch[row] for row in rows], list(several))
            unsure = unsure or any("?" in line for line in lines.values())
            for row, (at, old) in zip(rows, places, strict=True):
                found[row] = {
                    subject: _SEEN[lines[subject][at] + lines[subject][old]] for subject in wanted[row]
                }
        return found, unsure

    async def _judge(
        self, relation: Relation, changes: Sequence[Change], subjects: Sequence[Subject]
    ) -> tuple[list[tuple[int, int]], Mapping[Subject, str]]:
        """Of each change, which image is that of its row and which that of the old one; and the verdicts."""
        images: list[str] = []
        places: list[tuple[int, int]] = []
        for change in changes:
            row, old = change.record, change.old_record
            if change.op is Op.DELETE or row is None:
                row = old
            assert row is not None
            images.append(row.decode())
            at = len(images) - 1
            if change.op is Op.UPDATE and old is not None:
                images.append(old.decode())
            places.append((at, len(images) - 1))
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
        verdicts = await self._visibility.judge(self._connection, relation, images, subjects)
        return places, verdicts.lines

    def end(self) -> None:
        """Give the connection up, if there is one."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def candidates(
    subscriptions: Subscriptions,
    may_read: MayRead,
    change: Change,
    answers: tuple[AnswersByRole, AnswersByRole],
) -> set[Subject]:
    """For whom a change has to be judged. ``answers`` are those for it, and those for its old row."""
    return {subscriber.subject for subscriber in subscriptions.judged(change, may_read, *answers)}


def doubtful(
    subscriptions: Subscriptions,
    may_read: MayRead,
    change: Change,
    answers: tuple[AnswersByRole, AnswersByRole],
    sees: Sees,
) -> set[Subscriber]:
    """Of whom nobody could say in time whether they may see a change."""
    judged = subscriptions.judged(change, may_read, *answers)
    return {one for one in judged if (seen := sees.get(one.subject)) is not None and seen.unsure}


def kept(may_read: MayRead) -> MayRead:
    """Rights that stay what they are when they are first asked for: those that rows were judged by."""
    known: dict[tuple[str, int], Reading | None] = {}

    def may_read_as_known(role: str, relation: Relation) -> Reading | None:
        key = (role, relation.id)
        if key not in known:
            known[key] = may_read(role, relation)
        return known[key]

    return may_read_as_known
