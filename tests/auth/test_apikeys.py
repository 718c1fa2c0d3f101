"""Opaque API keys, as the settings name them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.auth.apikeys import parse_api_keys
from rowcast.auth.keys import KeyFault

PUBLISHABLE, SECRET = "sb_publishable_0123456789", "sb_secret_0123456789ABCDEF=="
KEYS = st.text("abcXYZ019_-=", min_size=21).map(lambda rest: f"sb_{rest}")
ROLES = st.text("abc_", min_size=1)


def test_keys_stand_for_roles() -> None:
    text = f" {PUBLISHABLE}=anon , {SECRET}=service_role,"
    assert parse_api_keys(text) == {PUBLISHABLE: "anon", SECRET: "service_role"}
    assert parse_api_keys("") == {}


@given(keys=st.dictionaries(KEYS, ROLES))
def test_what_is_written_is_read(keys: dict[str, str]) -> None:
    assert parse_api_keys(",".join(f"{key}={role}" for key, role in keys.items())) == keys


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"{PUBLISHABLE}", "has no role in entry 1"),
        (f"{PUBLISHABLE}=anon,{SECRET[:-2]}", "has no role in entry 2"),
        (f"{PUBLISHABLE}=", "has no role in entry 1"),
        ("sb_short=anon", "must begin with sb_ and have at least 24 characters"),
        (f"{PUBLISHABLE[3:]}=anon", "must begin with sb_"),
        (f"{PUBLISHABLE}=anon,{PUBLISHABLE}=service_role", "gives the key of entry 2 another role"),
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(text: str, fault: str) -> None:
    with pytest.raises(KeyFault, match=fault) as refusal:
        parse_api_keys(text)
    assert "0123456789" not in str(refusal.value)
    assert "short" not in str(refusal.value)
