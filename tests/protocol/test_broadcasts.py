"""Broadcasts on each wire: what came in is what goes out."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.protocol.broadcasts import (
    Broadcast,
    UserBroadcast,
    encode_broadcast,
    event_broadcast,
    is_json,
    text_broadcast,
)
from rowcast.protocol.codec import decode_binary
from rowcast.protocol.frames import payload_of
from rowcast.protocol.messages import Version
from support.broadcasts import pushed, user_broadcast

TOPIC = "realtime:room-9"
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def said(broadcast: Broadcast, version: Version, topic: str = TOPIC) -> Any:
    """The payload of what is sent: of a text message as JSON, of a binary one as its parts."""
    frame = encode_broadcast(topic, broadcast, version)
    assert frame is not None
    text, data = payload_of(frame)
    if not text:
        return user_broadcast(data)
    message = json.loads(data)
    if version is Version.V1:
        assert list(message) == ["ref", "event", "payload", "topic"]
        assert (message["ref"], message["event"], message["topic"]) == (None, "broadcast", topic)
        return message["payload"]
    assert message[:4] == [None, None, topic, "broadcast"]
    return message[4]


@given(payload=JSON, version=st.sampled_from(Version))
def test_the_payload_of_a_text_frame_is_sent_as_it_came(payload: Any, version: Version) -> None:
    assert said(text_broadcast(payload), version) == payload


def test_nobody_but_the_stream_says_a_position() -> None:
    forged = {"event": "e", "meta": {"id": "i", "position": "p"}, "payload": {"meta": {"position": "p"}}}
    assert said(text_broadcast(forged), Version.V2) == forged | {"meta": {"id": "i"}}


@given(
    ref=NAMES,
    name=NAMES,
    event=NAMES,
    meta=st.sampled_from([b"", b'{"k":"v"}']),
    payload=JSON | st.binary(),
)
def test_a_binary_frame_is_read_and_can_be_sent_on_without_what_it_says_beside(
    ref: str, name: str, event: str, meta: bytes, payload: Any
) -> None:
    raw = isinstance(payload, bytes)
    data = payload if raw else json.dumps(payload, ensure_ascii=False).encode()
    topic = f"realtime:{name}"
    message = decode_binary(pushed("3", ref, topic, event, data, meta=meta, raw=raw), Version.V2)
    assert (message.join_ref, message.ref or "", message.topic) == ("3", ref, topic)
    assert (message.event, message.payload) == ("broadcast", UserBroadcast(event, data, raw, meta))
    assert said(replace(message.payload, meta=b""), Version.V2, topic) == (topic, event, b"", raw, data)
    if raw:
        assert encode_broadcast(topic, message.payload, Version.V1) is None
    else:
        wanted = {"event": event, "payload": payload, "type": "broadcast"}
        assert said(replace(message.payload, meta=b""), Version.V1, topic) == wanted


def test_the_example_of_the_protocol_is_met_to_the_byte() -> None:
    push = bytes([3, 1, 1, 15, 4, 0, 1]) + b'37realtime:room-9ping{"n":1}'
    frame = encode_broadcast(TOPIC, decode_binary(push, Version.V2).payload, Version.V2)
    assert frame is not None
    assert payload_of(frame) == (False, bytes([4, 15, 4, 0, 1]) + b'realtime:room-9ping{"n":1}')


def test_what_is_beside_a_payload_goes_with_it() -> None:
    broadcast = UserBroadcast("e", b"{}", meta=b'{"id":"x"}')
    assert said(broadcast, Version.V2) == (TOPIC, "e", b'{"id":"x"}', False, b"{}")
    wanted = {"event": "e", "meta": {"id": "x"}, "payload": {}, "type": "broadcast"}
    for sent in (said(broadcast, Version.V1), said(event_broadcast("e", {}, {"id": "x"}), Version.V2)):
        assert list(sent) == list(wanted)
        assert sent == wanted


@pytest.mark.parametrize(("topic", "event"), [("realtime:" + "é" * 124, "e"), (TOPIC, "é" * 128)])
def test_what_does_not_fit_a_binary_frame_is_sent_as_text_or_not_at_all(topic: str, event: str) -> None:
    wanted = {"event": event, "payload": {"n": 1}, "type": "broadcast"}
    assert said(UserBroadcast(event, b'{"n":1}'), Version.V2, topic) == wanted
    assert encode_broadcast(topic, UserBroadcast(event, b"\xff", raw=True), Version.V2) is None


def test_keys_are_sorted_at_every_level() -> None:
    assert text_broadcast({"b": {"d": 1, "c": 2}, "a": [{"f": 1, "e": 2}]}).payload == (
        b'{"a":[{"e":2,"f":1}],"b":{"c":2,"d":1}}'
    )


@pytest.mark.parametrize("data", [b"", b"{", b"nul", b'"\xff"', b'"a\x01"', b"[" * 100_000, b"{} {}"])
def test_bytes_that_are_no_json_are_known(data: bytes) -> None:
    assert not is_json(data)
