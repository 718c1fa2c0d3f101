"""What the fan-out sends, and how large it may get."""

import json
import sys
from collections.abc import Sequence

import pytest

from rowcast.hub.feed import Subscriber
from rowcast.hub.lanes import Lane
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.binding import parse_binding
from rowcast.model.change import Change, Column, Op, Relation
from rowcast.protocol.frames import payload_of
from rowcast.protocol.messages import Version
from support.streams import Kept

pytestmark = pytest.mark.anyio

LIMIT = 4_096
NOTES = Relation(1, 1, "public", "notes", (Column("id", "int4"), Column("body", "text")), frozenset({"id"}))


class Frames(Kept):
    """Keeps whole payloads."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[bytes] = []

    def write(self, frames: Sequence[bytes]) -> None:
        self.payloads += [payload_of(frame)[1] for frame in frames]


def insert(size: int) -> Change:
    record = json.dumps({"id": 1, "body": "x" * size}).encode()
    return Change(NOTES, Op.INSERT, record, None, 1, "position", "2026-01-01T00:00:00.000Z")


def sent(change: Change, topic: str, version: Version) -> bytes:
    """The one message that a subscriber of everything is sent."""
    subscriptions, sink = Subscriptions(limit=LIMIT), Frames()
    lane = Lane(sink, sys.maxsize)
    subscriber = Subscriber(topic, version, lane, lambda: None)
    subscriptions.attach(subscriber, [parse_binding({"event": "*", "schema": "public"})], "anon")
    subscriptions.publish(change, lambda role, relation: True)
    lane.flush()
    (payload,) = sink.payloads
    return payload


@pytest.mark.parametrize("version", list(Version))
@pytest.mark.parametrize("topic", ["realtime:a", "realtime:" + "long" * 200])
async def test_the_limit_bounds_the_whole_message_and_not_only_its_data(version: Version, topic: str) -> None:
    whole = len(sent(insert(0), topic, version))
    fits = sent(insert(LIMIT - whole), topic, version)
    over = sent(insert(LIMIT - whole + 1), topic, version)
    assert len(fits) == LIMIT
    assert b'"errors":null' in fits
    assert len(over) <= LIMIT
    assert b'"errors":["Error 413: Payload Too Large"]' in over
    assert b'"record":{"id":1}' in over
