"""What presence looks like on the wire."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.roster import Diff, Presence
from rowcast.protocol.frames import payload_of
from rowcast.protocol.messages import Version
from rowcast.protocol.presence import diff_frame, encode_state, state_frame, tracked

ANN = Presence("ka", "r1", b'{"n":1,"name":"ann"}')
LATER = Presence("ka", "r2", b"{}", prev="r1")


def text(frame: bytes) -> str:
    return payload_of(frame)[1].decode()


def test_a_state_names_the_join_under_2_0_0_only() -> None:
    state = '{"ka":{"metas":[{"phx_ref":"r1","n":1,"name":"ann"}]}}'
    assert text(state_frame("realtime:x", encode_state([ANN]), Version.V2, "3")) == (
        f'["3",null,"realtime:x","presence_state",{state}]'
    )
    assert text(state_frame("realtime:x", encode_state([ANN]), Version.V1, "3")) == (
        f'{{"ref":null,"event":"presence_state","payload":{state},"topic":"realtime:x"}}'
    )
    assert text(state_frame("realtime:x", encode_state([]), Version.V2, None)) == (
        '[null,null,"realtime:x","presence_state",{}]'
    )


def test_a_diff_has_both_parts_and_no_reference() -> None:
    diff = (
        '{"joins":{"ka":{"metas":[{"phx_ref":"r2","phx_ref_prev":"r1"}]}},'
        '"leaves":{"ka":{"metas":[{"phx_ref":"r1","n":1,"name":"ann"}]}}}'
    )
    frame = diff_frame("realtime:x", Diff((LATER,), (ANN,)), Version.V2)
    assert text(frame) == f'[null,null,"realtime:x","presence_diff",{diff}]'
    assert json.loads(text(diff_frame("realtime:x", Diff(), Version.V1)))["payload"] == {
        "joins": {},
        "leaves": {},
    }


def test_several_presences_of_one_key_stand_together() -> None:
    others = [ANN, Presence("b", "r9", b"{}"), LATER]
    (_, _, _, _, state) = json.loads(text(state_frame("realtime:x", encode_state(others), Version.V2, None)))
    assert {key: [meta["phx_ref"] for meta in one["metas"]] for key, one in state.items()} == {
        "ka": ["r1", "r2"],
        "b": ["r9"],
    }


@pytest.mark.parametrize("name", ["phx_ref", "phx_ref_prev", "presence_ref"])
def test_nobody_chooses_the_reference_that_clients_tell_presences_apart_by(name: str) -> None:
    assert tracked({name: "r1", "a": 1}) == b'{"a":1}'


def test_equal_payloads_are_equal_in_whatever_order_their_names_came() -> None:
    assert tracked({"b": {"d": 1, "c": 2}, "a": 1}) == tracked({"a": 1, "b": {"c": 2, "d": 1}})


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.text(), _json, max_size=4))
def test_any_key_and_payload_arrive_as_they_were_given(key: str, payload: dict[str, Any]) -> None:
    frame = diff_frame("realtime:x", Diff((Presence(key, "r", tracked(payload)),)), Version.V2)
    (_, _, _, _, diff) = json.loads(text(frame))
    ours = {name: value for name, value in payload.items() if name not in ("phx_ref_prev", "presence_ref")}
    assert diff["joins"] == {key: {"metas": [{**ours, "phx_ref": "r"}]}}
