"""Positions: what is written is read back, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.position import Order, Position, PositionError, Snapshot, encode_batch, encode_event

EPOCH = b"epoch!"


@st.composite
def snapshots(draw: st.DrawFn, above: int = 3) -> Snapshot:
    xmax = draw(st.integers(above, above + 10**6))
    gaps = draw(st.lists(st.integers(1, draw(st.sampled_from([2, 50, 10**5]))), max_size=30))
    xip, at = [], xmax
    for gap in gaps:
        at -= gap
        if at >= 3:
            xip.append(at)
    return Snapshot(xmax, tuple(sorted(xip)))


@st.composite
def batches(draw: st.DrawFn) -> tuple[Snapshot, Snapshot]:
    """A snapshot and a later one: what had ended stays ended."""
    start = draw(snapshots())
    xmax = start.xmax + draw(st.integers(0, 300))
    kept = [xid for xid in start.xip if draw(st.booleans())]
    new = draw(st.sets(st.integers(start.xmax, xmax - 1), max_size=10)) if xmax > start.xmax else set()
    return start, Snapshot(xmax, (*kept, *sorted(new)))


@st.composite
def orders(draw: st.DrawFn) -> Order:
    ord_ = draw(st.integers(0, 2**62))
    seq = ord_ + draw(st.integers(0, 1000))
    return Order(seq + draw(st.integers(0, 1000)), ord_, seq)


@given(batch=batches(), order=orders(), within=st.booleans())
def test_a_position_is_read_back_as_it_was_written(
    batch: tuple[Snapshot, Snapshot], order: Order, within: bool
) -> None:
    start, end = batch
    position = Position(EPOCH, start, end, order) if within else Position(EPOCH, start)
    text = position.encode()
    assert Position.decode(text) == position
    assert text.replace("-", "").replace("_", "").replace(".", "").isalnum()


@given(
    text=st.one_of(st.text(max_size=60), st.from_regex(r"\A[A-Za-z0-9_-]{0,60}(\.[A-Za-z0-9_-]{0,20})?\Z"))
)
def test_any_other_text_is_refused_or_stands_for_exactly_one_position(text: str) -> None:
    try:
        position = Position.decode(text)
    except PositionError:
        return
    assert Position.decode(position.encode()) == position


@given(batch=batches())
def test_a_later_snapshot_covers_an_earlier_one(batch: tuple[Snapshot, Snapshot]) -> None:
    start, end = batch
    assert end.covers(start)
    assert start.covers(start)
    assert Snapshot.parse(str(start)) == start


@given(batch=batches(), order=orders(), xid=st.integers(0, 10**6))
def test_what_a_position_has_passed_is_what_its_snapshots_say(
    batch: tuple[Snapshot, Snapshot], order: Order, xid: int
) -> None:
    start, end = batch
    position = Position(EPOCH, start, end, order)
    later = Order(order.maxseq + 1, order.ord, order.seq)
    assert position.passed(xid, order) == end.sees(xid)
    assert position.passed(xid, later) == start.sees(xid)


def test_a_hundred_open_transactions_keep_a_position_short() -> None:
    text = Position(EPOCH, Snapshot(20_200, tuple(range(20_000, 20_200, 2)))).encode()
    assert len(text) < 60


BATCH = encode_batch(EPOCH, Snapshot(7, ()), Snapshot(9, ()))


@pytest.mark.parametrize(
    "text",
    [
        "", "AA", "not base64!", "é",
        encode_event(BATCH, Order(2**63, 1, 1)), encode_event(BATCH, Order(2**70, 1, 1)),
        # A statement before the first one.
        f"{BATCH}.AwMC",
        # As long as a frame may be.
        "A" * 3_000_000,
    ],
    ids=["empty", "short", "base64", "ascii", "int8", "varint", "negative", "long"],
)  # fmt: skip
def test_a_text_that_is_none_says_so(text: str) -> None:
    with pytest.raises(PositionError):
        Position.decode(text)
