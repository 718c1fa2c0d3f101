"""Broadcasts and calls in the core: frames both ways, and what becomes of who awaits an answer."""

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.protocol.broadcasts import UserBroadcast, encode_broadcast
from rowcast.protocol.codec import decode_binary
from rowcast.protocol.messages import Version
from rowcast_client import Client, UsageError
from rowcast_client._core import broadcasts, frames
from rowcast_client._core.asking import How, Replay
from rowcast_client._core.broadcasts import Said
from rowcast_client._core.connection import Connection
from rowcast_client._core.place import Place
from rowcast_client._core.wants import Hear, Report, Settle, Want
from rowcast_client.broadcast import read_broadcast
from rowcast_client.errors import ClientClosed, ConnectionLost, ProtocolError, SendError
from rowcast_client.payloads import encoded, event_name
from support.cores import A, accept, connected, frame, joined, rejoined, reply

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
ACK = How(ack=True)
SHORT = st.text(max_size=20)


def said(core: Connection, number: int | None = 1, payload: bytes = b"{}") -> Any:
    """Push a broadcast whose answer is awaited under this number; its frame."""
    (send,) = core.broadcast(A, Said("e", payload), number)
    return json.loads(send.text)


@given(SHORT, JSON)
def test_json_goes_and_comes_as_text(event: str, payload: Any) -> None:
    data, raw = encoded(payload)
    text = broadcasts.push("1", "2", A, Said(event, data, raw))
    read = frames.decode(text)
    assert (read.join_ref, read.ref, read.topic, read.event) == ("1", "2", A, "broadcast")
    heard = read_broadcast(broadcasts.from_text(read))
    assert (heard.event, heard.payload, heard.id, heard.replayed) == (event, payload, None, False)


@given(SHORT, st.binary())
def test_the_server_reads_the_bytes_that_the_client_writes(event: str, payload: bytes) -> None:
    frame = broadcasts.push("1", "2", A, Said(event, payload, True))
    assert isinstance(frame, bytes)
    read = decode_binary(frame, Version.V2)
    assert (read.join_ref, read.ref, read.topic) == ("1", "2", A)
    assert read.payload == UserBroadcast(event, payload, raw=True)


@given(SHORT, st.binary(), JSON, st.booleans())
def test_the_client_reads_the_binary_frames_that_the_server_writes(
    event: str, data: bytes, value: Any, raw: bool
) -> None:
    payload = data if raw else json.dumps(value).encode()
    meta = b'{"id":"i","replayed":true}'
    written = encode_broadcast(A, UserBroadcast(event, payload, raw, meta), Version.V2)
    assert written is not None
    body = written[2 if len(written) < 128 else 4 :]
    heard = broadcasts.from_binary(body if body[0] == 4 else written[4:])
    assert (heard.topic, heard.event, heard.id, heard.replayed) == (A, event, "i", True)
    assert read_broadcast(heard).payload == (data if raw else value)


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda data: b"\x04" + data))
def test_any_binary_frame_is_read_or_a_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read_broadcast(broadcasts.from_binary(data))


@given(JSON)
def test_whatever_a_stranger_sends_is_a_broadcast(payload: Any) -> None:
    heard = read_broadcast(broadcasts.from_text(frames.decode(frame(None, None, "broadcast", payload))))
    named = payload if isinstance(payload, dict) else {}
    assert heard.event == (named.get("event") if isinstance(named.get("event"), str) else "")
    assert heard.payload == named.get("payload")


def test_half_of_a_surrogate_pair_in_a_binary_frame_is_replaced() -> None:
    parts = A.encode() + b"e"
    heard = broadcasts.from_binary(bytes((4, len(A), 1, 0, 1)) + parts + b'"\\ud83d!"')
    assert read_broadcast(heard).payload == "\ufffd!"


def test_a_broken_binary_frame_is_reported_and_ends_nothing() -> None:
    core, _, _ = joined(ACK)
    (report,) = core.received(1, b"\x04\xff", 0)
    assert isinstance(report, Report)
    assert core.online


class Odd:
    pass


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        ({1, 2}, "type set"),
        ({"a": Odd()}, "type Odd"),
        ({"a": b"x"}, "type bytes"),
        ({"a": float("nan")}, "number that JSON does not know"),
        ("\ud800", "surrogate"),
        (LOOP, "refers to itself"),
        ({(1, 2): 3}, "not tuple"),
    ],
)
def test_what_is_no_json_is_refused_by_its_fault(payload: Any, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        encoded(payload)


@pytest.mark.parametrize("event", ["", "  ", None, 5, "\udc00"])
def test_an_event_is_a_text(event: Any) -> None:
    with pytest.raises(UsageError, match="event"):
        event_name(event)


def test_a_join_says_what_the_channel_asked_for() -> None:
    how = How(private=True, ack=True, echo=True, presence=True, presence_key="k", replay=Replay(5, 3))
    _, _, config = joined(how)
    assert config == {
        "postgres_changes": [],
        "private": True,
        "broadcast": {"ack": True, "self": True, "replay": {"since": 5, "limit": 3}},
        "presence": {"enabled": True, "key": "k"},
    }


def test_an_answer_settles_the_broadcast_that_it_is_for() -> None:
    core, ref, _ = joined(ACK)
    one, two = said(core, 1), said(core, 2)
    assert one[:1] + one[2:] == [ref, A, "broadcast", {"type": "broadcast", "event": "e", "payload": {}}]
    too_large = reply(ref, two[1], "error", {"reason": "payload_size_exceeded"})
    (refused,) = core.received(1, too_large, 0)
    assert isinstance(refused, Settle)
    assert isinstance(refused.error, SendError)
    assert (refused.number, refused.error.code) == (2, "payload_size_exceeded")
    assert core.received(1, reply(ref, one[1]), 0) == [Settle(A, 1, None)]
    assert core.received(1, reply(ref, one[1]), 0) == []


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ({"reason": "Unauthorized: You do not have permissions"}, "Unauthorized"),
        ("payload_size_exceeded", "payload_size_exceeded"),
        ({"reason": "the payload is nested too deeply"}, "SendRefused"),
        ({}, "SendRefused"),
    ],
)
def test_a_refusal_has_the_servers_code_if_it_gives_one(response: Any, code: str) -> None:
    core, ref, _ = joined(ACK)
    (refused,) = core.received(1, reply(ref, said(core)[1], "error", response), 0)
    assert isinstance(refused, Settle)
    assert refused.error is not None
    assert refused.error.code == code


def test_without_an_answer_it_is_told_that_it_may_have_been_sent() -> None:
    def settled(wants: list[Want]) -> Any:
        (settle,) = [want for want in wants if isinstance(want, Settle)]
        assert "not known whether" in str(settle.error)
        return settle.error

    core, ref, _ = joined(ACK)
    said(core)
    assert isinstance(settled(core.lost(1, ConnectionLost("gone", close_code=1012), 0)), ConnectionLost)
    core, ref, _ = joined(ACK)
    said(core)
    core.received(1, frame(ref, None, "system", {"status": "error", "message": "Too many messages"}), 0)
    ended = settled(core.received(1, frame(ref, ref, "phx_close", {}), 0))
    assert isinstance(ended, SendError)
    assert "Too many messages" in ended.message
    core, ref, _ = joined(ACK)
    said(core)
    core.leave(A, 0)
    assert isinstance(settled(core.close(0)), ClientClosed)


def test_an_answer_still_counts_while_leaving_and_not_once_it_is_given_up() -> None:
    core, ref, _ = joined(ACK)
    one, two = said(core, 1), said(core, 2)
    core.leave(A, 0)
    core.abandon(A, 2)
    assert core.received(1, reply(ref, two[1]), 0) == []
    assert core.received(1, reply(ref, one[1]), 0) == [Settle(A, 1, None)]


def test_nothing_is_pushed_before_the_join_is_answered() -> None:
    core = connected()
    core.subscribe(A, (), 0)
    assert core.broadcast(A, Said("e", b"{}"), 1) == []
    assert core.broadcast("realtime:b", Said("e", b"{}"), 1) == []


def test_a_replay_that_comes_again_after_a_reconnect_is_heard_once() -> None:
    core, _, _ = joined(How(private=True, replay=Replay(0)))

    def hears(socket: int, id_: str, replayed: bool) -> bool:
        payload = {"event": "e", "payload": 1, "meta": {"id": id_, "replayed": replayed}}
        return bool(core.received(socket, frame(None, None, "broadcast", payload), 1))

    assert [hears(1, "a", True), hears(1, "b", False), hears(1, "b", False)] == [True, True, True]
    core.lost(1, ConnectionLost("gone"), 1)
    rejoined(core, 2, 9)
    assert [hears(2, "a", True), hears(2, "b", True), hears(2, "c", True)] == [False, False, True]


def test_a_broadcast_before_the_reply_is_none_of_ours() -> None:
    core = connected()
    (want,) = core.subscribe(A, (), 0)
    payload = {"event": "e", "payload": 1}
    assert core.received(1, frame(None, None, "broadcast", payload), 0) == []
    accept(core, want, 1)
    assert core.received(1, frame(None, None, "broadcast", payload), 0) == [Hear(A, "e", b"1")]


@pytest.mark.parametrize(
    ("first", "then", "name"),
    [
        ({}, {"private": True}, "private"),
        ({"ack": True}, {}, "ack"),
        ({"echo": True}, {"echo": False}, "echo"),
        ({"presence_key": "a"}, {"presence_key": "b"}, "presence_key"),
        ({"private": True, "replay": {"since": 1}}, {"private": True, "replay": {"since": 2}}, "replay"),
    ],
)
def test_a_channel_has_one_set_of_options(first: Any, then: Any, name: str) -> None:
    client = Client("http://localhost", "key")
    channel = client.channel("a", **first)
    assert client.channel("realtime:a", **first) is channel
    with pytest.raises(UsageError, match=f"has {name}="):
        client.channel("a", **then)


@pytest.mark.parametrize(
    "options",
    [
        {"presence_key": ""},
        {"presence_key": 5},
        {"replay": {"since": 1}},
        {"private": True, "replay": {}},
        {"private": True, "replay": {"since": 1.5}},
        {"private": True, "replay": {"since": True}},
        {"private": True, "replay": {"since": 1, "limit": 0}},
        {"private": True, "replay": {"since": 1, "until": 2}},
        {"private": True, "replay": {"since": datetime(2026, 1, 1)}},
    ],
)
def test_options_that_can_mean_nothing_are_refused(options: Any) -> None:
    with pytest.raises(UsageError):
        Client("http://localhost", "key").channel("a", **options)


def test_a_replay_may_begin_at_a_moment() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    channel = Client("http://localhost", "key").channel("a", private=True, replay={"since": moment})
    assert channel._options.replay == Replay(1767225600000)


def test_messages_that_come_again_without_the_rest_of_their_transaction_are_heard_once() -> None:
    """A policy may hide at the resume what came with them before."""
    place = Place()
    place.join([], 1)
    place.subscribed("p")
    assert [place.message(id_, "p", again=True) for id_ in "ab"] == [True, True]
    assert place.join([], 1) == "p"
    come = (("a", "q"), ("b", "r"), ("c", "s"))
    assert [place.message(id_, position, again=False) for id_, position in come] == [False, False, True]
    assert place.position == "s"
