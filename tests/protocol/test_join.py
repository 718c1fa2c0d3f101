"""The payload of a join: what each field may be, and that no payload does harm."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.protocol.join import (
    BroadcastOptions,
    JoinError,
    PresenceOptions,
    Replay,
    parse_join,
    usable_token,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["config", "private", "broadcast", "presence", "postgres_changes", "access_token", "replay",
             "since", "limit", "key", "self", "table", "rowcast", "token_warning", "resume", "position"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@given(payload=JSON, name=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_no_payload_does_more_than_to_be_refused(payload: Any, name: str) -> None:
    try:
        parse_join(payload, name)
    except JoinError:
        config = payload.get("config") if isinstance(payload, dict) else 1
        assert not isinstance(config, dict | None) or (config and _resumes(config))


def _resumes(config: dict[str, Any]) -> bool:
    entries = config.get("postgres_changes")
    among = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return any("resume" in place for place in (config, *among))


@given(config=st.dictionaries(st.sampled_from(["private", "broadcast", "presence", "rowcast"]), JSON))
def test_no_content_of_a_config_refuses_a_join(config: dict[str, Any]) -> None:
    assert parse_join({"config": config}, "a").entries == ()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (60, 60.0), (0.5, 0.5), (3600, 3600.0), (3601, 3600.0), (10**400, 3600.0), (0, None), (-1, None),
        (True, None), ("60", None), (None, None), ([60], None), (float("nan"), None),
    ],
)  # fmt: skip
def test_a_warning_is_asked_for_in_seconds_up_to_an_hour(value: Any, seconds: float | None) -> None:
    config = {"rowcast": {"token_warning": value}}
    assert parse_join({"config": config}, "room").token_warning == seconds


def test_who_asks_for_nothing_of_this_servers_gets_no_warning() -> None:
    configs: list[Any] = [{}, {"token_warning": 60}, {"rowcast": None}, {"rowcast": 60}, {"rowcast": {}}]
    for config in configs:
        assert parse_join({"config": config}, "room").token_warning is None
    assert parse_join({}, "room").token_warning is None


@pytest.mark.parametrize(
    "payload",
    [
        {"config": {}},
        {"config": None},
        {"config": {"unknown": [1]}, "version": "realtime-js/2.119.1"},
        {"config": {"broadcast": None, "presence": None, "postgres_changes": None, "private": None}},
        {"config": {"broadcast": {"ack": "potato", "self": 3, "replication_ready": []}}},
        {"config": {"presence": {"enabled": "yes", "key": ""}, "private": "perhaps"}},
        {"config": {"broadcast": [], "presence": "x", "postgres_changes": {"event": "*"}, "private": 1}},
    ],
)
def test_what_is_absent_null_or_wrong_is_the_default(payload: dict[str, Any]) -> None:
    """Conformance cases 17 and 18."""
    read = parse_join(payload, "room")
    assert (read.private, read.token, read.entries, read.legacy) == (False, None, (), False)
    assert (read.broadcast, read.presence) == (BroadcastOptions(), PresenceOptions())


@pytest.mark.parametrize(
    ("value", "flag"),
    [(True, True), ("true", True), ("True", True), ("TRUE", True), (False, False), ("false", False),
     ("False", False), ("potato", False), (1, False), (None, False)],
)  # fmt: skip
def test_flags_are_booleans_or_their_names(value: Any, flag: bool) -> None:
    """Conformance case 18."""
    config = {
        "private": value,
        "broadcast": {"self": value, "ack": value, "replication_ready": value},
        "presence": {"enabled": value},
    }
    read = parse_join({"config": config}, "room")
    assert read.private is flag
    assert read.broadcast == BroadcastOptions(echo=flag, ack=flag, replication_ready=flag)
    assert read.presence == PresenceOptions(enabled=flag)


@pytest.mark.parametrize(
    ("value", "key"),
    [("user-42", "user-42"), (42, "42"), (1.5, "1.5"), (2**70, str(2**70)), (True, "true"), ("", None),
     (None, None), ([1], None), ({}, None)],
)  # fmt: skip
def test_the_key_of_a_presence_is_any_scalar(value: Any, key: str | None) -> None:
    """Conformance case 19."""
    assert parse_join({"config": {"presence": {"key": value}}}, "room").presence.key == key


@pytest.mark.parametrize(
    ("value", "replay"),
    [
        (None, None), ({}, Replay(None, 25)), ("now", Replay(None, 25)), ({"since": "x"}, Replay(None, 25)),
        ({"since": 5, "limit": "x"}, Replay(None, 25)), ({"since": True}, Replay(None, 25)),
        ({"since": 5}, Replay(5, 25)), ({"since": 5, "limit": None}, Replay(5, 25)),
        ({"since": 5, "limit": 10}, Replay(5, 10)), ({"since": 5, "limit": 0}, Replay(5, 1)),
        ({"since": 0, "limit": 1000}, Replay(0, 25)),
    ],
)  # fmt: skip
def test_a_replay_is_read_with_its_limit_clamped_or_known_to_be_wrong(
    value: Any, replay: Replay | None
) -> None:
    assert parse_join({"config": {"broadcast": {"replay": value}}}, "room").broadcast.replay == replay


@pytest.mark.parametrize(
    "payload", [None, 1, "x", [1, 2], {"config": "x"}, {"config": []}, {"config": False}]
)
def test_a_payload_or_config_that_is_no_object_is_refused(payload: Any) -> None:
    with pytest.raises(JoinError, match=r"^UnknownErrorOnChannel: expected"):
        parse_join(payload, "room")


def test_entries_that_are_no_objects_are_dropped_and_the_others_kept_in_order() -> None:
    """Conformance case 86."""
    entries: list[Any] = [None, {"table": "a"}, 5, {"table": "b", "x": [1]}, "c", []]
    assert parse_join({"config": {"postgres_changes": entries}}, "room").entries == (
        {"table": "a"},
        {"table": "b", "x": [1]},
    )
    assert parse_join({"config": {"postgres_changes": [None]}}, "room").entries == ()


def test_an_entry_that_nests_deeper_than_any_should_is_refused() -> None:
    def config(levels: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return {"config": {"postgres_changes": [{"table": "a", "select": value}]}}

    assert len(parse_join(config(31), "room").entries) == 1
    with pytest.raises(JoinError, match="at most 32 levels deep"):
        parse_join(config(32), "room")


def test_the_size_of_entries_is_that_of_their_json() -> None:
    entries = [{"table": "é" * 50}, {"table": "b"}]
    read = parse_join({"config": {"postgres_changes": entries}}, "room")
    assert read.size == len(msgspec.json.encode(entries))


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("room-a", {"schema": "room-a"}),
        ("*", {"schema": "*"}),
        ("public:todos", {"schema": "public", "table": "todos"}),
        ("public:todos:id=eq.1", {"schema": "public", "table": "todos", "filter": "id=eq.1"}),
        ("public:todos:at=gt.10:30", {"schema": "public", "table": "todos", "filter": "at=gt.10:30"}),
        ("public:", {"schema": "public", "table": ""}),
    ],
)
def test_without_a_config_the_topic_is_what_is_subscribed_to(name: str, entry: dict[str, str]) -> None:
    read = parse_join({"user_token": "t"}, name)
    assert (read.legacy, read.entries, read.token, read.private) == (True, (entry,), "t", False)


@pytest.mark.parametrize(
    ("payload", "token"),
    [
        ({}, None), ({"access_token": "a"}, "a"), ({"user_token": "u"}, "u"), ({"access_token": ""}, ""),
        ({"access_token": "a", "user_token": "u"}, "u"), ({"access_token": "a", "user_token": None}, "a"),
        ({"access_token": "a", "user_token": 5}, "a"), ({"access_token": None}, None),
        ({"access_token": 5}, None), ({"access_token": "sb_publishable_x"}, None),
        ({"user_token": "sb_secret_x", "access_token": "a"}, None),
    ],
)  # fmt: skip
def test_the_token_of_a_join_is_the_users_before_the_access_token(
    payload: dict[str, Any], token: str | None
) -> None:
    """Conformance case 21."""
    assert parse_join({"config": {}, **payload}, "room").token == token


def test_an_opaque_key_is_no_token_and_an_empty_text_is_one() -> None:
    assert [usable_token(value) for value in ("sb_x", None, 5, "", "abc")] == [None, None, None, "", "abc"]


def test_what_is_wanted_beyond_supabases_is_off_unless_a_join_says_so() -> None:
    asked = parse_join(
        {"config": {"rowcast": {"gap": True, "leave": "true", "truncate": True, "group": "transaction"}}}, "a"
    )
    assert (asked.gap, asked.leave, asked.truncate, asked.group) == (True, True, True, True)
    configs: list[Any] = [
        {},
        {"gap": True, "leave": True, "group": "transaction"},
        {"rowcast": None},
        {"rowcast": {"gap": 1, "leave": "yes", "truncate": None, "group": True}},
    ]
    for config in configs:
        read = parse_join({"config": config}, "a")
        assert (read.gap, read.leave, read.truncate, read.group) == (False, False, False, False)


@pytest.mark.parametrize(
    "config",
    [
        {"resume": {"position": "p"}},
        {"resume": {"position": "p", "more": 1}, "postgres_changes": [{"table": "a", "resume": None}]},
        {"postgres_changes": [{"table": "a"}, {"table": "b", "resume": {"position": "p"}}]},
        {
            "resume": {"position": "p"},
            "postgres_changes": [{"table": "a", "resume": {"position": "p"}} for _ in range(2)],
        },
    ],
)
def test_a_channel_resumes_from_one_position_wherever_that_stands(config: dict[str, Any]) -> None:
    assert parse_join({"config": config}, "a").resume == "p"


def test_a_channel_that_names_no_position_does_not_resume() -> None:
    for config in ({}, {"resume": None}, {"postgres_changes": [{"table": "a", "resume": None}]}):
        assert parse_join({"config": config}, "a").resume is None
    assert parse_join({"resume": {"position": "p"}}, "a").resume is None


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"resume": "p"}, "expected `resume` to be an object"),
        ({"resume": {}}, "expected `resume` to be an object"),
        ({"resume": {"position": 5}}, "expected `resume` to be an object"),
        ({"postgres_changes": [{"table": "a", "resume": True}]}, "expected `resume` to be an object"),
        (
            {
                "resume": {"position": "p"},
                "postgres_changes": [{"table": "a", "resume": {"position": "q"}}],
            },
            "expected one position",
        ),
    ],
)
def test_a_join_that_resumes_from_no_position_or_from_two_is_refused(
    config: dict[str, Any], text: str
) -> None:
    with pytest.raises(JoinError, match=f"^InvalidResume: {text}"):
        parse_join({"config": config}, "a")
