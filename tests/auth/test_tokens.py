"""Tokens: which are accepted, and the texts that refuse the others."""

import contextlib
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.auth.tokens import Verifier, sign
from rowcast.model.claims import TokenError
from support.tokens import SECRET

NOW = 1_000_000.0
GOOD = {"role": "anon", "exp": NOW + 1}
verify = Verifier(SECRET)


def test_a_signed_token_gives_its_claims_back() -> None:
    claims = verify(sign({**GOOD, "sub": "u1", "exp": NOW + 0.5}, SECRET), NOW)
    assert (claims.role, claims.expires_at, claims.raw["sub"]) == ("anon", NOW + 0.5, "u1")


def test_a_token_may_be_url_encoded_and_broken_over_lines() -> None:
    token = sign(GOOD, SECRET)
    assert verify(f" {token[:20]}\n{token[20:].replace('.', '%2E')} ", NOW).role == "anon"


@pytest.mark.parametrize(
    ("claims", "code", "text"),
    [
        ({"role": "anon"}, "InvalidJWTToken", "Fields `role` and `exp` are required in JWT"),
        ({"exp": NOW + 1}, "InvalidJWTToken", "Fields `role` and `exp` are required in JWT"),
        ({**GOOD, "role": 7}, "InvalidJWTToken", "Fields `role` and `exp` are required in JWT"),
        ({**GOOD, "exp": "soon"}, "InvalidJWTToken", "Token expiration time is invalid"),
        ({**GOOD, "exp": True}, "InvalidJWTToken", "Token expiration time is invalid"),
        ({**GOOD, "exp": NOW}, "InvalidJWTToken", "Token has expired 0 seconds ago"),
        ({**GOOD, "exp": NOW - 84}, "InvalidJWTToken", "Token has expired 84 seconds ago"),
    ],
)
def test_claims_that_will_not_do_are_refused(claims: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(TokenError) as refusal:
        verify(jwt.encode(claims, SECRET, algorithm="HS256"), NOW)
    assert (refusal.value.code, refusal.value.text) == (code, text)


def test_the_handshake_does_not_say_since_when_a_token_is_expired() -> None:
    with pytest.raises(TokenError) as refusal:
        verify(sign({**GOOD, "exp": NOW - 84}, SECRET), NOW)
    assert refusal.value.handshake == "Token has expired"


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_the_key_decides_the_algorithm(algorithm: str) -> None:
    key = "" if algorithm == "none" else SECRET * 2
    with pytest.raises(TokenError) as refusal:
        verify(jwt.encode(GOOD, key, algorithm=algorithm), NOW)
    assert refusal.value.code == "JwtSignerError"


def test_a_signature_of_another_secret_is_refused() -> None:
    with pytest.raises(TokenError) as refusal:
        verify(sign(GOOD, SECRET[::-1]), NOW)
    assert refusal.value.code == "JwtSignatureError"


@given(st.one_of(st.text(), st.text(alphabet="aeyJ.=-_%0", max_size=200)))
def test_no_text_does_more_than_to_be_refused(token: str) -> None:
    with pytest.raises(TokenError):
        verify(token, NOW)


@given(st.integers(min_value=0), st.characters())
def test_a_token_that_was_altered_is_never_another_token(at: int, character: str) -> None:
    token = sign(GOOD, SECRET)
    at %= len(token)
    with contextlib.suppress(TokenError):
        assert verify(token[:at] + character + token[at + 1 :], NOW).raw == GOOD
