"""Keys and key sets: what is taken, what is left out, and that no key is shown."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.utils import base64url_decode

from rowcast.auth.keys import KeyFault, parse_keys, secret_key
from support.keys import ALGORITHMS, key_set, make_signer, signer

GOOD_FOR = {
    "RS256": {"RS256", "RS384", "RS512"},
    "ES256": {"ES256"},
    "ES384": {"ES384"},
    "ES512": {"ES512"},
    "EdDSA": {"EdDSA", "Ed25519"},
    "Ed448": {"EdDSA", "Ed448"},
    "HS256": {"HS256", "HS384", "HS512"},
}


@pytest.mark.parametrize("kind", GOOD_FOR)
def test_a_key_is_good_for_the_algorithms_of_its_type_and_curve_alone(kind: str) -> None:
    keys = parse_keys(key_set(signer(kind)))
    assert keys.faults == ()
    assert {name for name in ALGORITHMS if keys.find("k1", name)} == GOOD_FOR[kind]
    assert keys.find("k2", kind) is None


@pytest.mark.parametrize(
    ("kind", "to_jwk"),
    [("RS256", RSAAlgorithm.to_jwk), ("ES256", ECAlgorithm.to_jwk), ("EdDSA", OKPAlgorithm.to_jwk)],
)
def test_a_private_key_in_a_set_is_used_as_its_public_one(kind: str, to_jwk: Any) -> None:
    private = {**to_jwk(signer(kind).private, as_dict=True), "kid": "k1", "key_ops": ["sign", "verify"]}
    assert "d" in private
    key = parse_keys(json.dumps({"keys": [private]})).find("k1", kind)
    signed, _, signature = signer(kind).token().rpartition(".")
    assert key is not None
    assert key.verifies(kind, signed.encode(), base64url_decode(signature))
    assert not key.verifies(kind, b"x" + signed.encode(), base64url_decode(signature))


@pytest.mark.parametrize(
    ("given", "good_for"),
    [("RS256", {"RS256"}), ("RS512", {"RS512"}), ("PS256", set[str]()), ("ES256", set[str]())],
)
def test_a_key_may_be_kept_to_one_algorithm(given: str, good_for: set[str]) -> None:
    keys = parse_keys(json.dumps({"keys": [{**signer("RS256").jwk, "alg": given}]}))
    assert {name for name in ALGORITHMS if keys.find("k1", name)} == good_for


def test_both_names_of_an_edwards_curves_algorithm_mean_the_same() -> None:
    keys = parse_keys(json.dumps({"keys": [{**signer("Ed25519").jwk, "alg": "EdDSA"}]}))
    assert keys.find("k1", "Ed25519") is keys.find("k1", "EdDSA") is not None


def test_keys_of_one_name_are_told_apart_by_what_they_are_good_for() -> None:
    keys = parse_keys(key_set(signer("RS256"), signer("ES256"), make_signer("ES256")))
    assert keys.find("k1", "RS256") is not keys.find("k1", "ES256")
    assert keys.find("k1", "ES256") is not None


def _small_rsa() -> dict[str, Any]:
    return RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)


RSA, EC = signer("RS256").jwk, signer("ES256").jwk


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (5, "is no JWK"),
        (None, "is no JWK"),
        ({}, "is no JWK"),
        ({**RSA, "kid": 7}, "is no JWK"),
        ({name: value for name, value in RSA.items() if name != "kid"}, "has no kid"),
        ({**RSA, "use": "enc"}, "is not for verifying"),
        ({**RSA, "key_ops": ["encrypt"]}, "is not for verifying"),
        ({**RSA, "kty": "PQC"}, "is of a type"),
        ({**EC, "crv": "secp256k1"}, "is of a type"),
        ({**EC, "crv": "P-384"}, "has wrong or missing parameters"),
        ({**EC, "x": "!"}, "has wrong or missing parameters"),
        ({**EC, "x": EC["y"]}, "has wrong or missing parameters"),
        ({"kty": "EC", "crv": "P-256", "kid": "k"}, "has wrong or missing parameters"),
        ({"kty": "OKP", "crv": "X25519", "kid": "k", "x": "AA"}, "is of a type"),
        ({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "AA"}, "has wrong or missing parameters"),
        ({"kty": "oct", "kid": "k"}, "has wrong or missing parameters"),
        ({"kty": "oct", "kid": "k", "k": "c2hvcnQ"}, "is too short"),
        ({**_small_rsa(), "kid": "k"}, "is too short"),
    ],
)
def test_a_key_that_cannot_be_used_is_left_out_and_the_others_are_not(entry: Any, fault: str) -> None:
    keys = parse_keys(json.dumps({"keys": [entry, signer("Ed448").jwk]}))
    assert len(keys.faults) == 1
    assert keys.faults[0].startswith(f"key 1 {fault}")
    assert keys.find("k1", "Ed448") is not None
    assert {key for key, _ in keys.keys} == {"k1"}


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "{}", '{"keys":{}}', '{"keys":null}', "[" * 100_000, b"\xff", "<html>"]
)
def test_what_is_no_key_set_is_refused(text: str | bytes) -> None:
    with pytest.raises(KeyFault, match="is no key set"):
        parse_keys(text)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(
    st.sampled_from(["keys", "kty", "kid", "crv", "x", "y", "n", "e", "k", "alg", "use"]), of)))  # fmt: skip
def test_no_json_does_more_than_to_be_refused(value: Any) -> None:
    for text in (json.dumps(value), json.dumps({"keys": value}), json.dumps({"keys": [value]})):
        try:
            keys = parse_keys(text)
        except KeyFault:
            continue
        assert not keys.keys


@given(
    st.sampled_from(["RSA", "EC", "OKP", "oct"]),
    st.sampled_from([None, "P-256", "P-521", "Ed25519", "Ed448"]),
    st.dictionaries(st.sampled_from(["x", "y", "n", "e", "k"]), st.text("AQab_-=.é", max_size=90)),
)
def test_no_parameters_do_more_than_to_be_left_out(
    kind: str, curve: str | None, more: dict[str, str]
) -> None:
    entry = {"kty": kind, "crv": curve, "kid": "k", **more}
    keys = parse_keys(json.dumps({"keys": [entry]}))
    assert bool(keys.keys) != bool(keys.faults)


def test_a_public_key_is_no_secret() -> None:
    """Whoever knows it, which is everybody, could sign."""
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text in (pem, key_set(signer("RS256"))):
        with pytest.raises(KeyFault, match="use ROWCAST_JWKS") as fault:
            secret_key(text)
        assert text not in str(fault.value)


def test_a_short_secret_is_refused_and_no_key_is_shown() -> None:
    with pytest.raises(KeyFault, match="at least 32 bytes") as fault:
        secret_key("short-secret")
    assert "short-secret" not in str(fault.value)
    assert "long-secret" not in repr(secret_key("long-secret" * 3))
