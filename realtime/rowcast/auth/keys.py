"""Keys that signatures are verified with, and sets of them (JWKS, RFC 7517).

A key decides which algorithms it is good for, never the token. This module performs no I/O, and what it
raises shows nothing of a key.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
import msgspec
from jwt.algorithms import Algorithm, HMACAlgorithm, get_default_algorithms

#: The algorithms of secrets. Whoever can verify with such a key can sign with it.
SYMMETRIC: Final = ("HS256", "HS384", "HS512")
_RSA: Final = ("RS256", "RS384", "RS512")
#: By type of key and its curve.
_FAMILIES: Final[Mapping[tuple[str, str | None], tuple[str, ...]]] = {
    ("oct", None): SYMMETRIC,
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
    ("OKP", "Ed448"): ("EdDSA", "Ed448"),
}
_KNOWN: Final = get_default_algorithms()
_ALGORITHMS: Final[Mapping[str, Algorithm]] = {
    name: _KNOWN["EdDSA" if name.startswith("Ed") else name] for names in _FAMILIES.values() for name in names
}
#: Every algorithm that some key may be good for.
ALGORITHMS: Final[Collection[str]] = _ALGORITHMS.keys()
#: In bytes and in bits: shorter keys can be guessed, or broken.
MIN_SECRET: Final = 32
_MIN_RSA: Final = 2048


class KeyFault(ValueError):
    """What was given is no key or key set that can be used. Its text follows the name of what was given."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and the algorithms that it is good for."""

    algorithms: Collection[str]
    _material: Any = field(repr=False)

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether this key made the signature, by an algorithm that it is good for."""
        return algorithm in self.algorithms and bool(
            _ALGORITHMS[algorithm].verify(signed, self._material, signature)
        )


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys by ``kid`` and each algorithm they are good for; ``faults`` says why others were left out."""

    keys: Mapping[tuple[str, str], Key]
    faults: tuple[str, ...] = ()

    def find(self, kid: str, algorithm: str) -> Key | None:
        """The key of that name, if it is good for the algorithm."""
        return self.keys.get((kid, algorithm))


def secret_key(secret: str) -> Key:
    """The key of a shared secret. Raises KeyFault."""
    material = secret.encode()
    if len(material) < MIN_SECRET:
        raise KeyFault(f"must have at least {MIN_SECRET} bytes: make one with `openssl rand -hex 32`")
    try:
        # Who mistakes a public key for a secret would let everybody sign.
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(material)
    except jwt.InvalidKeyError:
        raise KeyFault("is a public key, a certificate or a key set: use ROWCAST_JWKS for these") from None
    return Key(SYMMETRIC, material)


class _Jwk(msgspec.Struct, frozen=True):
    """What matters of a key in a set. What would make it a private key is never read."""

    kty: str
    kid: str | None = None
    use: str | None = None
    alg: str | None = None
    key_ops: list[str] | None = None
    crv: str | None = None
    k: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None


class _Entries(msgspec.Struct, frozen=True):
    keys: list[msgspec.Raw]


def parse_keys(text: str | bytes) -> KeySet:
    """A key set, from ``{"keys": […]}``. Keys of no use to us are left out. Raises KeyFault."""
    try:
        entries = msgspec.json.decode(text, type=_Entries).keys
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise KeyFault('is no key set: it must be JSON such as {"keys": [{"kty": "EC", …}]}') from None
    keys: dict[tuple[str, str], Key] = {}
    faults = []
    for number, entry in enumerate(entries, start=1):
        try:
            kid, key = _key(entry)
        except KeyFault as fault:
            faults.append(f"key {number} {fault}")
            continue
        for algorithm in key.algorithms:
            keys.setdefault((kid, algorithm), key)
    return KeySet(keys, tuple(faults))


def _key(entry: msgspec.Raw) -> tuple[str, Key]:
    try:
        jwk = msgspec.json.decode(entry, type=_Jwk)
    except (msgspec.DecodeError, RecursionError):
        raise KeyFault("is no JWK") from None
    if jwk.kid is None:
        raise KeyFault("has no kid, by which tokens name it")
    if jwk.use not in (None, "sig") or (jwk.key_ops is not None and "verify" not in jwk.key_ops):
        raise KeyFault("is not for verifying signatures")
    algorithms = _algorithms(jwk)
    if not algorithms:
        raise KeyFault("is of a type, a curve or for an algorithm that is not known here")
    return jwk.kid, Key(algorithms, _material(jwk, _ALGORITHMS[algorithms[0]]))


def _algorithms(jwk: _Jwk) -> tuple[str, ...]:
    family = _FAMILIES.get((jwk.kty, jwk.crv if jwk.kty in ("EC", "OKP") else None), ())
    if jwk.alg is None or (jwk.kty == "OKP" and jwk.alg in family):  # two names of one algorithm
        return family
    return tuple(algorithm for algorithm in family if algorithm == jwk.alg)


def _material(jwk: _Jwk, algorithm: Algorithm) -> Any:
    names = ("kty", "crv", "k", "n", "e", "x", "y")
    public = {name: value for name in names if (value := getattr(jwk, name)) is not None}
    try:
        material = algorithm.prepare_key(algorithm.from_jwk(public))
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        raise KeyFault("has wrong or missing parameters") from None
    if (jwk.kty == "oct" and len(material) < MIN_SECRET) or (
        jwk.kty == "RSA" and material.key_size < _MIN_RSA
    ):
        raise KeyFault(f"is too short: secrets have {MIN_SECRET} bytes, RSA keys {_MIN_RSA} bits, or more")
    return material
