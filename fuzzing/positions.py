"""Positions from texts that clients make up: refused, or one place in the stream.

What begins with ``=`` is a position's text; of anything else the parts between dots are packed as its bytes.
"""

import base64

from rowcast.model.position import Position, PositionError, Snapshot


def fuzz_positions(data: bytes) -> None:
    """Read one position, and write it again."""
    text = data[1:].decode("latin-1") if data[:1] == b"=" else ".".join(map(_packed, data.split(b".")))
    try:
        position = Position.decode(text)
    except PositionError:
        return
    again = Position.decode(position.encode())
    assert again == position
    assert again.encode() == position.encode()
    _check_snapshot(position.start)
    if position.end is not None and position.order is not None:
        _check_snapshot(position.end)
        assert position.end.xmax >= position.start.xmax
        assert position.end.covers(position.start)
        # What had ended at the start is past, and what has not ended at the end is not.
        assert all(position.passed(xid, position.order) == position.end.sees(xid) for xid in _near(position))


def _check_snapshot(snapshot: Snapshot) -> None:
    assert Snapshot.parse(str(snapshot)) == snapshot
    assert list(snapshot.xip) == sorted(set(snapshot.xip))
    assert snapshot.xmin <= snapshot.xmax
    assert snapshot.covers(snapshot)
    assert not any(map(snapshot.sees, snapshot.xip))


def _near(position: Position) -> set[int]:
    """Transactions around the edges of the snapshots."""
    edges = {position.start.xmax, *position.start.xip[:50]}
    if position.end is not None:
        edges |= {position.end.xmax, *position.end.xip[:50]}
    return {xid + step for xid in edges for step in (-1, 0, 1) if xid + step >= 0}


def _packed(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()
