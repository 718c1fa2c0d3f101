"""Messages as a part of the stream, in the core: their frames, where they lead, and what comes again."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.message import Message
from rowcast.protocol.broadcasts import UserBroadcast, stream_broadcast
from rowcast.protocol.codec import decode_binary
from rowcast.protocol.messages import Version
from rowcast_client._core import broadcasts, frames
from rowcast_client._core.asking import How, Replay
from rowcast_client._core.broadcasts import Said
from rowcast_client._core.connection import Connection
from rowcast_client._core.ids import Ids
from rowcast_client._core.phases import Phase
from rowcast_client._core.wants import Advance, Hear, Notify, Report, Want
from rowcast_client.errors import ConnectionLost, ProtocolError
from support.cores import A, accept, connected, frame, joined, rejoined, reply, sent

BINDING = {"event": "*", "schema": "public", "table": "t"}
HEARS = How(private=True, messages=True)


def system(ref: str, position: str | None = None, **more: Any) -> str:
    said = {"status": "ok", "extension": "postgres_changes", "message": "Subscribed"}
    return frame(ref, None, "system", said | ({} if position is None else {"position": position}) | more)


def streaming(how: How = HEARS, position: str = "p0") -> tuple[Connection, str]:
    """A core whose channel hears messages as a part of the stream, from a position on; its join_ref."""
    core = connected()
    (want,) = core.subscribe(A, (), 0, how)
    ref, _, wants = accept(core, want, 1, messages=True)
    assert (wants, core.joins[A].phase) == ([], Phase.CONFIRMING)
    notify = core.received(1, system(ref, position), 0)[-1]
    assert isinstance(notify, Notify)
    assert (notify.status, notify.position) == ("SUBSCRIBED", position)
    return core, ref


def message(core: Connection, id_: str, position: str, socket: int = 1, **meta: Any) -> list[Want]:
    said = {"event": "e", "meta": {"id": id_, "position": position, **meta}, "payload": 1}
    return core.received(socket, frame(None, None, "broadcast", said), 1)


@given(st.binary(), st.booleans(), st.booleans())
def test_the_client_reads_the_stream_that_the_server_writes(data: bytes, raw: bool, again: bool) -> None:
    written = Message("i", "a", True, "e", data if raw else b'{"n":1}', raw)
    text = stream_broadcast(written, "p", again)
    heard = broadcasts.from_text(frames.Frame(None, None, A, "broadcast", msgspec.Raw(text.payload)))
    assert heard == Hear(A, "e", written.payload, raw=raw, id="i", position="p", again=again)


@pytest.mark.parametrize("payload", [5, "a", "é"])
def test_what_says_that_it_is_base64_and_is_not_is_reported(payload: Any) -> None:
    core, _ = streaming()
    said = {"event": "e", "meta": {"position": "p", "encoding": "base64"}, "payload": payload}
    (report,) = core.received(1, frame(None, None, "broadcast", said), 1)
    assert isinstance(report, Report)
    assert isinstance(report.error, ProtocolError)


def test_what_is_to_be_stored_has_an_id_in_either_frame() -> None:
    core, _ = streaming(How(private=True, store=True, messages=True))
    (text,) = sent(core.broadcast(A, Said("e", b"{}", id="i"), 1))
    assert text[4] == {"type": "broadcast", "event": "e", "payload": {}, "id": "i"}
    binary = broadcasts.push("1", "2", A, Said("e", b"\xff", raw=True, id="i"))
    assert isinstance(binary, bytes)
    assert decode_binary(binary, Version.V2).payload == UserBroadcast("e", b"\xff", True, b'{"id":"i"}')


def test_a_join_asks_for_the_stream_and_goes_on_where_it_was_without_a_replay() -> None:
    how = How(private=True, messages=True, store=True, replay=Replay(5))
    core = connected()
    (want,) = core.subscribe(A, (), 0, how)
    ref, config, _ = accept(core, want, 1, messages=True)
    assert config == {
        "postgres_changes": [],
        "private": True,
        "broadcast": {"ack": True, "store": True, "replay": {"since": 5}},
        "rowcast": {"gap": True, "messages": True},
    }
    core.received(1, system(ref, "p0"), 0)
    (heard,) = message(core, "a", "p1")
    assert heard == Hear(A, "e", b"1", id="a", position="p1")
    core.lost(1, ConnectionLost("gone"), 1)
    core.tick(9)
    (want,) = core.opened(2, 9)
    _, config, _ = accept(core, want, 2, 9, messages=True)
    assert config["resume"] == {"position": "p1"}
    assert config["broadcast"] == {"ack": True, "store": True}


def test_a_server_that_knows_nothing_of_it_is_as_ever() -> None:
    core, _, _ = joined(How(private=True, messages=True))
    assert core.joins[A].phase is Phase.SUBSCRIBED
    assert message(core, "a", "p1") == [Hear(A, "e", b"1", id="a")]
    core.lost(1, ConnectionLost("gone"), 1)
    core.tick(9)
    (want,) = core.opened(2, 9)
    _, config, _ = accept(core, want, 2, 9)
    assert "resume" not in config
    core = connected()
    (want,) = core.subscribe(A, (), 0, How(store=True, messages=True))
    _, _, wants = accept(core, want, 1)
    (report,) = [want for want in wants if isinstance(want, Report)]
    assert report.error.code == "UnableToStoreMessages"


def test_what_comes_again_is_left_out_until_its_transaction_is_over() -> None:
    core, _ = streaming()
    assert [len(message(core, id_, "p1", again=True)) for id_ in ("a", "b")] == [1, 1]
    core.lost(1, ConnectionLost("gone"), 1)
    ref, _ = rejoined(core, 2, 9, messages=True)
    core.received(2, system(ref, "p1"), 9)
    # The server may call the place before them by another text.
    again = [message(core, id_, "p1b", socket=2, again=True) for id_ in ("a", "b", "c")]
    assert [[type(want) for want in wants] for wants in again] == [[Advance], [Advance], [Hear]]
    assert message(core, "d", "p2", socket=2) == [Hear(A, "e", b"1", id="d", position="p2")]
    assert len(message(core, "a", "p3", socket=2)) == 1


def test_a_channel_does_not_hear_what_it_stored_itself_and_its_place_moves_all_the_same() -> None:
    core, _ = streaming(How(store=True, messages=True))
    core.stored(A, "mine")
    assert message(core, "mine", "p1") == [Advance(A, "p1")]
    assert core.joins[A].place.position == "p1"
    core, _ = streaming(How(store=True, messages=True, echo=True))
    core.stored(A, "mine")
    assert len(message(core, "mine", "p1")) == 1


def test_messages_go_on_where_every_binding_was_refused() -> None:
    core = connected()
    (want,) = core.subscribe(A, (BINDING,), 0, HEARS)
    (join,) = sent(core.authorized(A, want.join_ref, None, 0))  # type: ignore[union-attr]
    response = {"postgres_changes": [{**BINDING, "id": 1}], "messages": True}
    core.received(1, reply(join[0], join[0], "ok", response), 0)
    refused = core.received(1, system(join[0], status="error", message="no such table"), 0)
    assert [type(want) for want in refused][1:] == [Report, Notify]
    assert core.joins[A].phase is Phase.CONFIRMING
    core.received(1, system(join[0], "p0"), 0)
    assert core.joins[A].phase is Phase.SUBSCRIBED


def test_a_channel_that_is_not_confirmed_for_long_stays_and_hears_and_speaks() -> None:
    core = connected()
    (want,) = core.subscribe(A, (), 0, HEARS)
    ref, _, _ = accept(core, want, 1, messages=True)
    for now in (10, 20):
        report, notify = core.tick(now)
        assert isinstance(notify, Notify)
        assert (type(report), notify.status) == (Report, "TIMED_OUT")
    assert core.received(1, frame(None, None, "broadcast", {"event": "e"}), 21) == [Hear(A, "e", b"null")]
    assert len(core.broadcast(A, Said("e", b"{}"), 1)) == len(core.show(A, b"{}", 2)) == 1
    notify = core.received(1, system(ref, "p0"), 22)[-1]
    assert isinstance(notify, Notify)
    assert notify.status == "SUBSCRIBED"


def test_of_many_ids_the_newest_are_kept() -> None:
    ids = Ids(2)
    for id_ in ("a", "b", "a", "c"):
        ids.add(id_)
    assert [id_ in ids for id_ in ("a", "b", "c")] == [True, False, True]
    ids.clear()
    assert "a" not in ids
