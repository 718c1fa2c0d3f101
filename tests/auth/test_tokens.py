"""Tokens: which are accepted, and the texts that refuse the others."""

import contextlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.utils import base64url_encode

from rowcast.auth.keys import parse_keys
from rowcast.auth.tokens import MAX_TOKEN, Verifier, sign
from rowcast.model.claims import TokenError
from support.keys import ALGORITHMS, Signer, key_set, make_signer, signer
from support.tokens import SECRET

NOW = 1_000_000.0
GOOD = {"role": "anon", "exp": NOW + 1}
MALFORMED = ("MalformedJWT", "The token provided is not a valid JWT")
SIGNATURE = ("JwtSignatureError", "Failed to validate JWT signature")
SIGNER = ("JwtSignerError", "Failed to generate JWT signer, check your JWT secret or JWKS configuration")
verify = Verifier(SECRET)


def signer_of(kid: str) -> tuple[str, str]:
    return SIGNER[0], SIGNER[1].replace("signer,", f"signer for key ID (kid) {kid},")


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


def refused(verifier: Verifier, token: str) -> tuple[str, str]:
    """The code and the text that a token is refused with."""
    with pytest.raises(TokenError) as refusal:
        verifier(token, NOW)
    assert refusal.value.handshake == refusal.value.text
    return refusal.value.code, refusal.value.text


def with_keys(*signers: Signer, secret: str | None = SECRET) -> Verifier:
    return Verifier(*([secret] if secret else []), find=parse_keys(key_set(*signers)).find)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("header", [{}, {"kid": "k1"}, {"kid": "\ud800"}, {"typ": "x"}])
def test_a_secret_is_good_for_all_three_sizes_with_and_without_a_kid(
    algorithm: str, header: dict[str, str]
) -> None:
    token = Signer(algorithm, (SECRET * 2).encode(), {"kid": "k"}).sign(GOOD, **(header or {"typ": "JWT"}))
    for verifier in (Verifier(SECRET * 2), with_keys(signer("RS256"), secret=SECRET * 2)):
        assert verifier(token, NOW).role == "anon"


def test_two_secrets_are_good_while_one_takes_the_others_place() -> None:
    verifier = Verifier(SECRET, SECRET[::-1])
    for secret in (SECRET, SECRET[::-1]):
        assert verifier(sign(GOOD, secret), NOW).role == "anon"
    assert refused(verifier, sign(GOOD, SECRET + "x")) == SIGNATURE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_of_the_set_verifies_what_it_signed_and_nothing_else(algorithm: str) -> None:
    one = signer(algorithm)
    verifier = with_keys(make_signer("RS256", "other"), one, secret=None)
    assert verifier(one.sign(GOOD), NOW).role == "anon"
    assert refused(verifier, make_signer(algorithm).sign(GOOD)) == SIGNATURE
    head, body, signature = one.sign(GOOD).split(".")
    forged = one.sign({**GOOD, "role": "service_role"}).split(".")[1]
    assert refused(verifier, f"{head}.{forged}.{signature}") == SIGNATURE
    assert refused(verifier, f"{head}.{body}.") == SIGNATURE
    assert refused(verifier, f"{head}.{body}.{'A' * 8000}") == SIGNATURE


def test_a_key_of_the_set_goes_before_the_secret_where_both_could_be_meant() -> None:
    one = signer("HS256")
    verifier = with_keys(one)
    assert verifier(one.sign(GOOD), NOW).role == "anon"
    by_secret = Signer("HS256", SECRET.encode(), {"kid": "k1"})
    assert refused(verifier, by_secret.sign(GOOD)) == SIGNATURE
    assert verifier(by_secret.sign(GOOD, kid="k2"), NOW).role == "anon"
    assert verifier(by_secret.sign(GOOD, typ="JWT"), NOW).role == "anon"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_without_a_kid_a_key_of_the_set_is_not_found(algorithm: str) -> None:
    token = signer(algorithm).sign(GOOD, typ="JWT")
    assert refused(with_keys(signer(algorithm)), token) == SIGNER


def test_a_kid_that_is_not_known_is_named_where_there_is_a_key_set() -> None:
    """Case 4."""
    token = signer("RS256", "abc").sign(GOOD)
    assert refused(with_keys(signer("RS256")), token) == signer_of('"abc"')
    assert refused(Verifier(SECRET), token) == SIGNER
    by_secret = Signer("HS256", SECRET.encode(), {"kid": "abc"}).sign(GOOD)
    assert refused(with_keys(signer("RS256"), secret=None), by_secret) == signer_of('"abc"')
    assert refused(with_keys(signer("RS256"), secret=None), sign(GOOD, SECRET)) == SIGNER


@pytest.mark.parametrize(
    ("kid", "shown"), [('a"b\n', '"a\\"b\\n"'), ("é", '"é"'), ("\ud800", "<<237, 160, 128>>"), ("", '""')]
)
def test_whatever_a_kid_holds_can_be_sent_back(kid: str, shown: str) -> None:
    code, text = refused(with_keys(signer("RS256")), signer("ES256").sign(GOOD, kid=kid))
    assert (code, text) == signer_of(shown)
    text.encode()


# Attacks


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("hashed", ["HS256", "HS384", "HS512"])
def test_a_public_key_does_not_verify_as_a_secret(algorithm: str, hashed: str) -> None:
    one = signer(algorithm)
    public = one.private.public_key()
    forms = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(one.jwk).encode(),
        json.dumps(one.jwk["n" if algorithm == "RS256" else "x"]).encode(),
    ]
    for form in forms:
        token = _hashed(hashed, form)
        assert refused(with_keys(one), token) == SIGNATURE
        assert refused(with_keys(one, secret=None), token) == signer_of('"k1"')


def _hashed(algorithm: str, secret: bytes, kid: str = "k1") -> str:
    """A token made without a library, which would refuse to take a public key for a secret."""
    header = base64url_encode(json.dumps({"alg": algorithm, "kid": kid}).encode())
    signed = header + b"." + base64url_encode(json.dumps(GOOD).encode())
    made = hmac.new(secret, signed, f"sha{algorithm[2:]}").digest()
    return (signed + b"." + base64url_encode(made)).decode()


@pytest.mark.parametrize(
    "name", ["none", "None", "NONE", "", "HS1", "PS256", "ES256K", "ES521", "dir", None, 5, []]
)
@pytest.mark.parametrize("signature", [b"", b"x" * 32])
def test_an_algorithm_that_is_not_known_is_refused(name: Any, signature: bytes) -> None:
    header, claims = (json.dumps(part).encode() for part in ({"alg": name, "kid": "k1"}, GOOD))
    token = b".".join(map(base64url_encode, (header, claims, signature))).decode()
    assert refused(with_keys(signer("RS256"), signer("HS256")), token) == SIGNER


@pytest.mark.parametrize(
    ("known", "claimed"),
    [("ES384", "ES256"), ("ES256", "ES512"), ("Ed448", "Ed25519"), ("EdDSA", "Ed448"), ("ES256", "RS256"),
     ("RS256", "EdDSA")],
)  # fmt: skip
def test_a_key_of_another_type_or_curve_is_not_used_for_its_name_alone(known: str, claimed: str) -> None:
    token = signer(claimed).sign(GOOD)
    assert refused(with_keys(signer(known)), token) == signer_of('"k1"')


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
def test_a_key_that_a_token_brings_along_is_not_looked_at(name: str) -> None:
    foreign = make_signer("ES256")
    token = foreign.sign(GOOD, kid="k1", **{name: foreign.jwk})
    assert refused(with_keys(signer("ES256")), token) == SIGNATURE


@pytest.mark.parametrize("header", [{"kid": 7}, {"kid": None}, {"crit": ["exp"]}, {"b64": False}])
def test_a_header_that_asks_for_what_is_not_understood_is_refused(header: dict[str, Any]) -> None:
    parts = (json.dumps({"alg": "HS256", **header}).encode(), json.dumps(GOOD).encode(), b"x")
    token = b".".join(map(base64url_encode, parts)).decode()
    assert refused(verify, token) == MALFORMED


@pytest.mark.parametrize(
    "claims",
    [b"", b"[]", b"null", b'"x"', b"{", b'{"role":"anon","exp":NaN}', b'{"role":"\\ud800"}', b"\xff",
     b"[" * 9000, b'{"exp":' + b"1" * 9000 + b"}"],
)  # fmt: skip
def test_claims_that_are_no_json_object_are_refused_before_any_key_is_looked_for(claims: bytes) -> None:
    token = b".".join(map(base64url_encode, (b'{"alg":"none"}', claims, b""))).decode()
    assert refused(verify, token) in (MALFORMED, SIGNER)
    if claims[:7] != b'{"exp":':
        assert refused(verify, token) == MALFORMED


def test_a_huge_token_is_not_looked_at() -> None:
    token = sign({**GOOD, "padding": "x" * MAX_TOKEN}, SECRET)
    assert refused(verify, token) == MALFORMED
    assert refused(verify, sign(GOOD, SECRET) + " " * MAX_TOKEN) == MALFORMED


# What may be set


def test_a_leeway_lets_a_token_be_good_for_longer() -> None:
    verifier = Verifier(SECRET, leeway=30.0)
    assert verifier(sign({**GOOD, "exp": NOW - 29}, SECRET), NOW).expires_at == NOW + 1
    with pytest.raises(TokenError) as refusal:
        verifier(sign({**GOOD, "exp": NOW - 30}, SECRET), NOW)
    assert refusal.value.text == "Token has expired 30 seconds ago"


REQUIRED = {"iss": "https://auth.example", "n": 1, "of": {"a": [True], "b": None}}


def test_claims_that_are_required_must_be_there_and_the_same() -> None:
    """Case 11."""
    verifier, by_secret = Verifier(SECRET, required=REQUIRED), Signer("HS256", SECRET.encode(), {"kid": "k"})
    good = {**GOOD, "iss": "https://auth.example", "n": 1, "of": {"b": None, "a": [True]}}
    assert verifier(by_secret.sign({**good, "more": 1}), NOW).role == "anon"
    wrong: list[tuple[str, Any]] = [("iss", "https://auth.example/"), ("iss", ["https://auth.example"])]
    wrong += [("iss", None), ("n", True), ("n", "1"), ("of", {"a": [1], "b": None}), ("of", {"a": [True]})]
    for name, value in wrong:
        text = f"Claim `{name}` of the JWT is not the one that is required"
        assert refused(verifier, by_secret.sign({**good, name: value})) == ("InvalidJWTToken", text)
    del good["iss"]
    assert "`iss`" in refused(verifier, by_secret.sign(good))[1]


# Secrets, and what is random


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


def test_an_opaque_key_stands_for_its_role_and_never_ends() -> None:
    keyed = Verifier(SECRET, api_keys={"sb_publishable_a": "anon", "sb_secret_b": "service_role"})
    assert keyed("sb_publishable_a", NOW).role == "anon"
    claims = keyed("sb_secret_b", NOW * 1e6)
    assert (claims.role, claims.raw) == ("service_role", {"role": "service_role"})
    assert claims.expires_at > NOW * 1e9
    assert keyed(sign(GOOD, SECRET), NOW).role == "anon"


@pytest.mark.parametrize("key", ["sb_secret_", "sb_secret_bb", "SB_SECRET_B", "sb_\udcff", "sb_secret_b "])
def test_an_opaque_key_that_is_not_known_is_no_token(key: str) -> None:
    with pytest.raises(TokenError) as refusal:
        Verifier(SECRET, api_keys={"sb_secret_b": "service_role"})(key, NOW)
    assert (refusal.value.code, refusal.value.text) == MALFORMED
