"""Text frames of both versions: what is encoded is decoded, and no input does harm."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.protocol.codec import decode_binary, decode_text, encode
from rowcast.protocol.frames import binary_frame, close_frame, payload_of, text_frame
from rowcast.protocol.messages import MalformedMessage, ServerMessage, Version

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
REFS = st.none() | st.text(max_size=8)
VERSIONS = st.sampled_from(Version)


@given(
    version=VERSIONS, topic=st.text(max_size=20), event=st.text(max_size=20), ref=REFS, join_ref=REFS,
    payload=st.dictionaries(st.text(max_size=8), JSON, max_size=3),
)  # fmt: skip
def test_a_message_of_the_server_holds_its_parts_in_the_originals_order(
    version: Version, topic: str, event: str, ref: str | None, join_ref: str | None, payload: dict[str, Any]
) -> None:
    value = json.loads(encode(ServerMessage(topic, event, payload, ref, join_ref), version))
    if version is Version.V1:
        assert list(value) == ["ref", "event", "payload", "topic"]
        assert (value["ref"], value["event"], value["topic"]) == (ref, event, topic)
    else:
        assert value[:4] == [join_ref, ref, topic, event]


@given(
    version=VERSIONS,
    topic=st.text(max_size=20),
    event=st.text(max_size=20),
    ref=REFS,
    join_ref=REFS,
    payload=JSON,
)
def test_a_message_of_a_client_is_read_as_it_was_written(
    version: Version, topic: str, event: str, ref: str | None, join_ref: str | None, payload: Any
) -> None:
    parts: Any = [join_ref, ref, topic, event, payload]
    if version is Version.V1:
        parts = dict(zip(["join_ref", "ref", "topic", "event", "payload"], parts, strict=True))
    try:
        text = msgspec.json.encode(parts)
    except (UnicodeEncodeError, OverflowError):
        return
    message = decode_text(text, version)
    assert (message.join_ref, message.ref, message.topic, message.event) == (join_ref, ref, topic, event)


@given(version=VERSIONS, value=st.one_of(st.text(), JSON.map(json.dumps), st.just("[" * 100_000)))
def test_no_text_does_more_than_to_be_malformed(version: Version, value: str) -> None:
    try:
        decode_text(value, version)
    except MalformedMessage:
        return


@given(version=VERSIONS, data=st.binary(max_size=60))
def test_no_binary_frame_does_more_than_to_be_malformed(version: Version, data: bytes) -> None:
    try:
        decode_binary(data, version)
    except MalformedMessage:
        return


def test_a_users_broadcast_is_read_from_its_binary_frame() -> None:
    frame = bytes([3, 1, 1, 15, 4, 0, 1]) + b'37realtime:room-9ping{"n":1}'
    message = decode_binary(frame, Version.V2)
    assert (message.join_ref, message.ref, message.topic) == ("3", "7", "realtime:room-9")
    assert message.event == "broadcast"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("[]", Version.V1), ('{"event":"heartbeat"}', Version.V1), ("{}", Version.V2),
        ('[null,"1","a","b"]', Version.V2), ('[null,true,"a","b",{}]', Version.V2),
        ('[1.5,"1","a","b",{}]', Version.V2), ('[null,"1",null,"b",{}]', Version.V2),
        ('[null,"1","\\ud800","b",{}]', Version.V2), ('[null,"1","\ud800","b",{}]', Version.V2),
        (f'[null,"{"9" * 256}","a","b",{{}}]', Version.V2),
        (f'["{"é" * 128}","1","a","b",{{}}]', Version.V2), (f'[null,{"9" * 256},"a","b",{{}}]', Version.V2),
        (f'[null,"1","a","b",{"9" * 5_000}]', Version.V2), ("[" * 5_000 + "]" * 5_000, Version.V2),
    ],
)  # fmt: skip
def test_a_text_frame_of_another_shape_is_malformed(text: str, version: Version) -> None:
    with pytest.raises(MalformedMessage):
        decode_text(text, version)


@pytest.mark.parametrize(
    "frame",
    [b"", b"\3", b"\0\1\2\xff", b"\3\x09\0\0\0\0\1", b"\3\1\0\0\0\0\1\xff"],
)
def test_a_binary_frame_of_another_shape_is_malformed(frame: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_binary(frame, Version.V2)
    with pytest.raises(MalformedMessage):
        decode_binary(b"\3\0\0\0\0\0\1", Version.V1)


def test_a_reason_too_long_for_a_close_frame_is_cut_between_characters() -> None:
    frame = close_frame(4000, "é" * 100)
    assert frame[:2] == bytes([0x88, 2 + 122])
    assert frame[4:].decode() == "é" * 61


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_a_frame_gives_its_payload_back(size: int) -> None:
    assert payload_of(text_frame(b"x" * size)) == (True, b"x" * size)
    assert payload_of(binary_frame(b"x" * size)) == (False, b"x" * size)


@pytest.mark.parametrize(
    ("vsn", "version"),
    [(None, Version.V1), ("1.0.0", Version.V1), ("2.0.0", Version.V2), ("2.0.7", Version.V2), ("3.0.0", None),
     ("2.1.0", None), ("two", None), ("", None), ("2.0", None)],
)  # fmt: skip
def test_versions_are_negotiated(vsn: str | None, version: Version | None) -> None:
    assert Version.negotiate(vsn) is version
