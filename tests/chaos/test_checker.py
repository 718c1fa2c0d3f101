"""The checker finds what is wrong with a stream: each fault is put into a right one, and named."""

import dataclasses
from collections.abc import Callable

import pytest

from chaos.checker import Verdict, check
from chaos.schema import COLUMNS, Subject
from chaos.streams import Entry, Heard, Profile, Stream, Stretch
from chaos.truth import Entry as Line
from chaos.truth import Truth
from rowcast.model.position import Position, Snapshot

ANON = Subject("anon")
BIG = "amount > 30"
COPY = Entry("plain", filter="amount=gt.30", condition=BIG, snapshot=10, leave=True, truncate=True)


class Story:
    """What three rows of ``plain`` went through, and what who looks through ``amount > 30`` hears of it."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.tell = [
            self.line(10, "I", "a", 0, 50),  # in the snapshot
            self.line(11, "I", "b", 0, 40),
            self.line(11, "U", "a", 1, 60),
            self.line(12, "U", "b", 1, 10),  # leaves
            self.line(13, "U", "b", 2, 35),  # comes back
            self.line(13, "U", "a", 2, 70),
            self.line(14, "D", "a", 2, 70),
            self.line(15, "X", "b", 2, 35),
            self.line(15, "T", None, 0, 0),
            self.line(16, "I", "c", 0, 90),
        ]
        shown = {line.log for line in self.lines if line.row.get("amount", 0) > 30}
        self.truth = Truth(self.lines, {COPY.look(ANON): shown})

    def line(self, xid: int, op: str, uid: str | None, n: int, amount: int) -> Line:
        row = {**dict.fromkeys(COLUMNS, "x"), "uid": uid, "id": uid, "n": n, "amount": amount}
        line = Line(len(self.lines), xid, op, "plain", uid, n, row if uid else {})
        self.lines.append(line)
        return line

    def right(self) -> Stream:
        """What must be heard, from a snapshot that sees transaction 10."""
        stream = Stream("one", Profile(ANON, (COPY,), group=True), caught_up=True)
        told = {"I": "INSERT", "U": "UPDATE", "D": "DELETE", "T": "TRUNCATE"}
        stretch = stream.open
        stretch.start = position(10)
        stretch.rows[0].append(self.lines[0].row)
        for line in self.lines[1:]:
            if line.op == "X":
                continue
            kind = "LEAVE" if (line.uid, line.n) == ("b", 1) else told[line.op]
            old = self.lines[line.log - 1].row if kind == "UPDATE" else line.row
            old = {**line.row, "n": line.n - 1} if kind in ("UPDATE", "LEAVE") else line.row
            stretch.heard.append(
                Heard(
                    kind=kind,
                    table="plain",
                    entries=(0,),
                    record=line.row if kind in ("INSERT", "UPDATE") else {},
                    old=old if kind in ("UPDATE", "DELETE", "LEAVE") else {},
                    seq=line.log,
                    commit=f"at {line.xid}",
                    message=line.xid,
                    position=position(line.xid),
                )
            )
        stretch.beats = [(13, position(13))]
        return stream


def position(xid: int, epoch: bytes = b"epoch1") -> str:
    return Position(epoch, Snapshot(xid + 1, ())).encode()


def verdict(spoil: Callable[[Stretch], object] = lambda _: None, **stream: object) -> Verdict:
    story = Story()
    heard = dataclasses.replace(story.right(), **stream)  # type: ignore[arg-type]
    spoil(heard.open)
    return check(story.truth, [heard])


def faults(found: Verdict) -> set[str]:
    return {kind for kind, count in found.faults.items() if count}


def change(stretch: Stretch, index: int, **fields: object) -> None:
    stretch.heard[index] = dataclasses.replace(stretch.heard[index], **fields)  # type: ignore[arg-type]


def move(stretch: Stretch, index: int, to: int) -> None:
    stretch.heard.insert(to, stretch.heard.pop(index))


def test_a_right_stream_has_no_fault() -> None:
    found = verdict()
    assert faults(found) == set()
    assert (found.expected, found.delivered) == (8, 8)


@pytest.mark.parametrize("index", range(8))
def test_each_change_that_is_missing_is_lost(index: int) -> None:
    assert "lost" in faults(verdict(lambda stretch: stretch.heard.pop(index)))


@pytest.mark.parametrize("index", range(8))
def test_each_change_that_comes_twice_is_repeated(index: int) -> None:
    assert "repeated" in faults(verdict(lambda stretch: stretch.heard.append(stretch.heard[index])))


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("out of order", lambda stretch: move(stretch, 1, 5)),
        ("split", lambda stretch: move(stretch, 1, 2)),
        ("made up", lambda stretch: change(stretch, 0, record={**stretch.heard[0].record, "n": 7})),
        ("altered", lambda stretch: change(stretch, 0, record={**stretch.heard[0].record, "note": "y"})),
        ("altered", lambda stretch: change(stretch, 0, record={"uid": "b", "n": 0})),
        ("commit time", lambda stretch: change(stretch, 1, commit="another")),
        ("group", lambda stretch: change(stretch, 1, message=99)),
        ("group", lambda stretch: change(stretch, 2, message=11)),
        ("snapshot", lambda stretch: stretch.rows[0].clear()),
        ("snapshot", lambda stretch: stretch.rows[0].append(stretch.rows[0][0])),
        ("snapshot", lambda stretch: stretch.rows[0].append({**stretch.rows[0][0], "uid": "z"})),
        ("copy", lambda stretch: stretch.heard.pop(-1)),
        ("copy", lambda stretch: move(stretch, 6, 7)),
        ("epoch", lambda stretch: stretch.beats.append((99, position(20, b"epoch2")))),
        ("heartbeat", lambda stretch: stretch.beats.insert(0, (11, position(12)))),
    ],
)
def test_what_is_wrong_is_named(kind: str, spoil: Callable[[Stretch], object]) -> None:
    assert kind in faults(verdict(spoil))


def test_parts_of_a_group_may_follow_each_other() -> None:
    def parted(stretch: Stretch) -> None:
        change(stretch, 0, message=10, whole=False)

    assert faults(verdict(parted)) == set()


def test_a_subscription_that_begins_after_its_position_is_named() -> None:
    story = Story()
    entry = dataclasses.replace(COPY, snapshot=None)
    stream = dataclasses.replace(story.right(), profile=Profile(ANON, (entry,), group=True))
    del stream.open.heard[:2]
    assert faults(check(story.truth, [stream])) == {"start"}


def test_a_channel_that_stands_still_is_a_fault() -> None:
    assert "stalled" in faults(verdict(caught_up=False))


def test_what_a_client_found_counts() -> None:
    assert faults(verdict(faults=["a reply to nothing"])) == {"client"}


def cut(reason: str, allowed: tuple[str, ...], heard: int, ended_at: int) -> set[str]:
    """What is found of a stream with a gap after so many changes; it goes on behind transaction 15."""
    story = Story()
    stream = story.right()
    whole = stream.open
    rest = Stretch(position(15), {0: []}, whole.heard[7:])
    first = Stretch(whole.start, whole.rows, whole.heard[:heard], ended_at=position(ended_at), gap=reason)
    stream.stretches = [first, rest]
    return faults(check(story.truth, [stream], allowed))


def test_a_gap_is_a_fault_where_none_may_come() -> None:
    assert cut("retention", (), 5, 13) == {"gap"}
    assert cut("retention", ("retention",), 5, 13) == set()


def test_what_lies_before_a_gap_must_have_come() -> None:
    assert cut("retention", ("retention",), 4, 13) == {"lost"}
    assert cut("retention", ("retention",), 5, 14) == {"lost"}


def test_what_an_old_primary_alone_had_may_have_come() -> None:
    assert cut("history", ("history",), 4, 13) == set()
