"""What the fuzzer found, by its smallest input."""

import msgspec
import pytest
from fuzzing.positions import fuzz_positions
from fuzzing.rows import fuzz_rows
from fuzzing.sockets import REQUEST, fuzz_sockets

from rowcast.model.claims import Claims
from rowcast.model.rates import RateWindow
from rowcast.protocol.codec import decode_text, encode
from rowcast.protocol.messages import Version
from rowcast.session.admission import Limits
from rowcast.session.connection import Connection
from rowcast.session.wants import Send


@pytest.mark.parametrize("text", [b"true", b"false"])
def test_a_float_that_became_a_boolean_since_its_type_was_described_is_sent_as_json(text: bytes) -> None:
    fuzz_rows(b'[["c",{"row":[["f","float8"]]}]]\n{"c":{"f":' + text + b"}}")


@pytest.mark.parametrize("value", [rb'"\ud800"', rb'{"\udc00":[1]}'])
@pytest.mark.parametrize("shape", [b'"json"', b"null", b'{"array":"json"}'])
def test_half_a_character_in_json_does_no_harm(shape: bytes, value: bytes) -> None:
    fuzz_rows(b'[["id","int4"],["j",' + shape + b']]\n{"id":1,"j":' + value + b"}")


@pytest.mark.parametrize(
    "end", [b"\x01\x02\xdc", b"\x01\x02\xe0"], ids=["one that had ended", "one that is there already"]
)
def test_a_position_whose_end_opens_what_its_start_saw_end_is_refused(end: bytes) -> None:
    # xmax 10 with xid 3 open, then xmax 20 with 3 still open, and one more below 10.
    fuzz_positions(b"\x01\x02\x03\x04\x05\x06\x0a\x01\x02\xa0\x0a\x80" + end + b".\x09\x04\x02")


def test_a_text_that_is_no_utf_8_and_a_close_frame_in_one_read_are_no_error() -> None:
    fuzz_sockets(b"\0" + b"\x81\x81\0\0\0\0\xff" + b"\x88\x80\0\0\0\0")


def test_a_client_that_sends_no_utf_8_and_a_close_frame_and_does_not_read_is_not_waited_for() -> None:
    # In pieces of 31 bytes, and the last piece of five; from the next step on it does not read.
    stream = REQUEST + b"\x81\x81\0\0\0\0\xff" + b"\x88\x80\0\0\0\0"
    fuzz_sockets(b"\x08" + b"\x1e" * 6 + b"\x04\x9e" + stream)


@pytest.mark.parametrize(
    "frame",
    [b"\x0a\0", b"\x81\x02[]", b"\x89\x80\0\0\0\0"],
    ids=["no frame", "an unmasked one", "a ping, whose pong comes before the answer"],
)
def test_a_frame_before_the_handshake_is_answered_does_no_harm(frame: bytes) -> None:
    request = REQUEST.replace(b"apikey=anon", b"apikey=wrong")  # which is answered late
    # In pieces of 31 bytes, since what is in one read with the end of the request is not heard.
    steps = b"\x1e" * (len(request) // 31) + bytes([len(request) % 31 - 1])
    fuzz_sockets(bytes([len(steps)]) + steps + request + frame)


def test_a_ping_and_no_frame_in_one_read_after_the_servers_close_frame_are_not_answered() -> None:
    # The lane closes with the first byte of the ping, and the rest comes once that is written.
    fuzz_sockets(b"\x02\x60\x3f" + b"\x89\x80\0\0\0\0" + b"\x0a\0")


def test_a_join_of_very_many_empty_entries_is_not_answered_at_many_times_its_size() -> None:
    # The time that hashing them takes is the greater harm: a frame of 1 MB stops the server for a second.
    entries: list[dict[str, str]] = [{}] * 10_000
    frame = msgspec.json.encode(
        ["1", "1", "realtime:a", "phx_join", {"config": {"postgres_changes": entries}}]
    )
    conversation = Connection(
        Version.V2, "anon", lambda *_: Claims("anon", 1e9, {}), Limits(), 0.0, RateWindow(100)
    )
    wants = conversation.receive(decode_text(frame, Version.V2), 0.0)
    sent = sum(len(encode(want.message, Version.V2)) for want in wants if isinstance(want, Send))
    assert sent < 4 * len(frame)
