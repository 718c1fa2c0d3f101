"""Holds what channels were sent against the truth: nothing lost, repeated, out of order, split or made up.

Nothing here de-duplicates. This module performs no I/O.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.stalls import Arrival
from chaos.streams import Entry, Heard, Stream, Stretch, copy_of, decode
from chaos.truth import Event, Truth
from rowcast.model.position import EPOCH_BYTES, Position, Snapshot

_EXAMPLES = 12
#: What a fault may be. "stalled" is a channel that never caught up; "altered" a change with wrong values;
#: "start" a change after the position that a subscription was told, and before the first that came.
FAULTS = (
    *(
        "lost",
        "start",
        "repeated",
        "out of order",
        "split",
        "made up",
        "altered",
        "snapshot",
        "copy",
        "group",
    ),
    *("commit time", "epoch", "heartbeat", "gap", "stalled", "client"),
)


@dataclass
class Verdict:
    """Faults by kind, and the first examples of each."""

    faults: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FAULTS, 0))
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    expected: int = 0
    delivered: int = 0
    gaps: int = 0
    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not any(self.faults.values())

    def add(self, fault: str, where: str, what: object) -> None:
        self.faults[fault] += 1
        if len(self.examples[fault]) < _EXAMPLES:
            self.examples[fault].append(f"{where}: {what}")


def check(truth: Truth, streams: Iterable[Stream], gaps_allowed: Iterable[str] = ()) -> Verdict:
    """The verdict on all streams. ``gaps_allowed`` are the reasons for which a gap may come."""
    verdict, allowed = Verdict(), frozenset(gaps_allowed)
    for fault in truth.faults():
        verdict.add("client", "audit", fault)
    for stream in streams:
        for fault in stream.faults:
            verdict.add("client", stream.name, fault)
        if not stream.caught_up:
            verdict.add("stalled", stream.name, f"stands at {_stands_at(stream)}")
        for stretch in stream.stretches:
            _Checked(truth, stream, stretch, verdict, last=stretch is stream.stretches[-1]).check()
            if stretch.gap is not None:
                verdict.gaps += 1
                if stretch.gap not in allowed:
                    verdict.add("gap", stream.name, stretch.gap)
    return verdict


class _Checked:
    """One stretch of one channel."""

    def __init__(self, truth: Truth, stream: Stream, stretch: Stretch, verdict: Verdict, last: bool) -> None:
        self._truth, self._profile, self._stretch = truth, stream.profile, stretch
        self._verdict, self._last, self._name = verdict, last and stream.caught_up, stream.name
        self._since = stream.heard_since
        self._gone = False
        self._found: dict[tuple[int, int], Event] = {}
        beats = ((message, decode(text)) for message, text in stretch.beats)
        self._beats = [(message, position) for message, position in beats if position is not None]

    def _fault(self, kind: str, what: object) -> None:
        self._verdict.add(kind, self._name, what)

    def check(self) -> None:
        start = decode(self._stretch.start)
        if start is None:
            if self._stretch.heard:
                self._fault("client", "changes came before a position was told")
            return
        epochs = {text[: EPOCH_BYTES * 4 // 3] for text in self._stretch.positions}
        if len(epochs) > 1:
            self._fault("epoch", f"{len(epochs)} of them between two gaps")
        # What an old primary committed and the new one never had: delivered, and told by a gap.
        self._gone = self._stretch.gap == "history"
        for number, entry in enumerate(self._profile.entries):
            self._check_snapshot(start.start, number, entry)
            self._check_entry(start, number, entry)
        # Of a history that is gone nobody can tell which transaction a change was of.
        if not self._gone:
            self._check_transactions()

    def _check_snapshot(self, at: Snapshot, number: int, entry: Entry) -> None:
        if entry.snapshot is None or self._gone:
            return
        expected = self._truth.rows(entry.look(self._profile.subject), at)
        rows = self._stretch.rows[number]
        given = {str(row["uid"]): row for row in rows}
        if len(given) != len(rows):
            self._fault("snapshot", f"{entry.table}: {len(rows) - len(given)} rows twice")
        for uid in expected.keys() ^ given.keys():
            self._fault("snapshot", f"{entry.table}: {uid} {'missing' if uid in expected else 'too many'}")
        for uid in expected.keys() & given.keys():
            if not _same(expected[uid], given[uid], entry):
                self._fault("snapshot", f"{entry.table}: {uid} {given[uid]} is not {expected[uid]}")

    def _check_entry(self, start: Position, number: int, entry: Entry) -> None:
        possible = [
            event
            for event in self._truth.events(entry.look(self._profile.subject), entry.kinds)
            if not start.start.sees(event.xid)
        ]
        by_row: dict[str | None, list[Event]] = defaultdict(list)
        for event in possible:
            by_row[event.uid].append(event)
        heard: dict[str | None, list[tuple[int, Heard]]] = defaultdict(list)
        for index, change in enumerate(self._stretch.heard):
            if number in change.entries:
                heard[change.uid].append((index, change))
        self._verdict.delivered += sum(map(len, heard.values()))
        for uid in by_row.keys() | heard.keys():
            self._check_row(start, number, entry, by_row[uid], heard[uid])
        if self._last and entry.copies:
            self._check_copy(number, entry)

    def _check_row(
        self,
        start: Position,
        number: int,
        entry: Entry,
        expected: Sequence[Event],
        heard: Sequence[tuple[int, Heard]],
    ) -> None:
        matched: dict[int, int] = {}
        last = -1
        for index, change in heard:
            place = _place(expected, matched, change, last)
            if place is None:
                if not self._gone:
                    self._fault("made up", _told(change))
                continue
            event = expected[place]
            if place in matched:
                self._fault("repeated", f"{_told(change)}, in messages {matched[place]} and {change.message}")
                continue
            if place < last:
                self._fault("out of order", f"{_told(change)} after number {last} of its row")
            if change.record and not self._gone and not _same(event.row, change.record, entry):
                self._fault("altered", f"{_told(change)}: {change.record} is not {event.row}")
            last = max(last, place)
            matched[place] = change.message
            self._found[index, number] = event
        due = [place for place, event in enumerate(expected) if self._is_due(start, event)]
        self._verdict.expected += len(due)
        for place in due:
            if place not in matched:
                event = expected[place]
                kind = "start" if self._begins_after(event) else "lost"
                self._fault(kind, f"{event.kind} of {entry.table} {event.uid} n={event.n} xid={event.xid}")
        if not self._gone:
            self._check_beats(expected, matched)

    def _begins_after(self, event: Event) -> bool:
        """Whether the first change that came says that it lies before: the start was told too early."""
        first = decode(self._stretch.heard[0].position) if self._stretch.heard else None
        fresh = not self._profile.snapshots and self._stretch.resumed_at != 0
        return fresh and first is not None and (first.end or first.start).sees(event.xid)

    def _is_due(self, start: Position, event: Event) -> bool:
        # In the batch that a position stands in, the audit cannot tell what lies before it.
        if start.end is not None and start.end.sees(event.xid):
            return False
        if self._last:
            return True
        end = decode(self._stretch.ended_at)
        return end is not None and not self._gone and end.start.sees(event.xid)

    def _check_beats(self, expected: Sequence[Event], matched: Mapping[int, int]) -> None:
        # Positions only go on, so the last heartbeat before a message is the one that claims most.
        for place, message in matched.items():
            before = bisect.bisect_left(self._beats, message, key=lambda beat: beat[0]) - 1
            event = expected[place]
            if before >= 0 and self._beats[before][1].start.sees(event.xid):
                self._fault("heartbeat", f"{event.kind} {event.uid} n={event.n} came after its position")

    def _check_copy(self, number: int, entry: Entry) -> None:
        expected = self._truth.rows(entry.look(self._profile.subject))
        copy = {str(row["uid"]): row for row in copy_of(self._stretch, number, entry).values()}
        for uid in expected.keys() | copy.keys():
            if uid not in copy or uid not in expected or not _same(expected[uid], copy[uid], entry):
                self._fault("copy", f"{entry.table} {uid}: {copy.get(uid)} is not {expected.get(uid)}")

    def _check_transactions(self) -> None:
        """Whole, each with one commit time, and with a message of its own where groups were asked for."""
        ended: set[int] = set()
        times: dict[int, str] = {}
        before: tuple[int, Heard] | None = None
        for index, change in enumerate(self._stretch.heard):
            event = next(
                (found for n in change.entries if (found := self._found.get((index, n))) is not None), None
            )
            if event is None:
                continue
            xid = event.xid
            since = bisect.bisect_right(self._since, change.at)
            if since:
                self._verdict.arrivals.append(Arrival(xid, change.at, self._since[since - 1]))
            if change.commit is not None and times.setdefault(xid, change.commit) != change.commit:
                self._fault("commit time", f"transaction {xid}: {times[xid]} and {change.commit}")
            if before is not None and before[0] != xid:
                ended.add(before[0])
                if self._profile.group and before[1].message == change.message:
                    self._fault("group", f"transactions {before[0]} and {xid} in one message")
            elif self._profile.group and before is not None and _ended_before(before[1], change):
                self._fault("group", f"transaction {xid} goes on after its last message")
            if xid in ended:
                self._fault("split", f"transaction {xid}: {_told(change)}")
            before = (xid, change)


def _stands_at(stream: Stream) -> str:
    told = stream.open.positions
    position = decode(told[-1]) if told else None
    return "nothing" if position is None else str(position.end or position.start)


def _place(expected: Sequence[Event], matched: Mapping[int, int], change: Heard, last: int) -> int | None:
    """Which of the row's events a change is: by its counter, else the next of its kind."""
    alike = [place for place, event in enumerate(expected) if event.kind == change.kind]
    if change.n is not None and change.kind != "TRUNCATE":
        return next((place for place in alike if expected[place].n == change.n), None)
    unmatched = [place for place in alike if place not in matched]
    later = [place for place in unmatched if place > last]
    position = decode(change.position)
    fitting = [place for place in later if _in_batch(position, expected[place].xid)]
    # An earlier one is out of order, and one that was told already is a repetition.
    return next(iter(fitting or later or unmatched or alike[-1:]), None)


def _in_batch(position: Position | None, xid: int) -> bool:
    """Whether a change with this position can be of that transaction."""
    if position is None or position.end is None:
        return position is not None and position.start.sees(xid)
    return position.end.sees(xid) and not position.start.sees(xid)


def _ended_before(older: Heard, newer: Heard) -> bool:
    return older.whole and older.message != newer.message


def _same(row: Mapping[str, Any], given: Mapping[str, Any], entry: Entry) -> bool:
    return all(row[name] == given.get(name, _MISSING) for name in entry.columns)


_MISSING = object()


def _told(change: Heard) -> str:
    return f"{change.kind} of {change.table} {change.uid} n={change.n} seq={change.seq}"
