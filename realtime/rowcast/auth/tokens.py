"""Tokens: JSON Web Tokens, signed with a shared secret or with a key of the key set; and opaque API keys.

Verifying is a function of the token, the time and the keys known then. The texts are those that Supabase's
clients and users know, and its checks come in this order: form, key, signature, claims.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import jwt
import msgspec

from rowcast.auth.keys import ALGORITHMS, SYMMETRIC, Key, secret_key
from rowcast.model.claims import Claims, TokenError
from rowcast.model.elixir import inspect

#: In characters. No handshake carries more.
MAX_TOKEN: Final = 16 * 1024
#: What an opaque key begins with. Inside channels such a token stands for the key of the socket.
API_KEY: Final = "sb_"
_MALFORMED: Final = "The token provided is not a valid JWT"
_REQUIRED: Final = "Fields `role` and `exp` are required in JWT"
_JWS: Final = jwt.PyJWS()
_CLAIMS: Final = msgspec.json.Decoder(dict[str, Any])

#: The key of that ``kid``, if it is good for that algorithm.
Find = Callable[[str, str], Key | None]


@dataclass(frozen=True, slots=True)
class _Token:
    """A token taken apart; nothing of it is verified. ``kid`` names a key, ``signed`` is what it signed."""

    algorithm: str | None
    kid: str | None
    claims: Mapping[str, Any]
    signed: bytes
    signature: bytes


class Verifier:
    """Verifies tokens against secrets, any of which will do, and the keys that ``find`` finds by their kid.

    ``api_keys`` are opaque, each good for its role and for ever. ``required`` are claims and the values they
    must have; ``leeway`` is how many seconds longer than it says a token is good, for clocks that differ.
    Raises KeyFault for a secret that will not do.
    """

    def __init__(
        self,
        *secrets: str,
        find: Find | None = None,
        required: Mapping[str, Any] | None = None,
        leeway: float = 0.0,
        api_keys: Mapping[str, str] | None = None,
    ) -> None:
        # By digest: how long a comparison takes then tells nothing of a key.
        self._api_keys = {_digest(key): role for key, role in (api_keys or {}).items()}
        self._secrets = tuple(map(secret_key, secrets))
        self._find = find
        self._required = {name: _canonical(value) for name, value in (required or {}).items()}
        self._leeway = leeway

    def __call__(self, token: str, now: float) -> Claims:
        """The claims of a token that is good at ``now`` (Unix seconds). Raises TokenError."""
        if token.startswith(API_KEY) and (role := self._api_keys.get(_digest(token))) is not None:
            return Claims(role=role, expires_at=math.inf, raw={"role": role})
        parts = _take_apart(token)
        algorithm, keys = self._keys(parts.algorithm, parts.kid)
        if not any(key.verifies(algorithm, parts.signed, parts.signature) for key in keys):
            raise TokenError("JwtSignatureError", "Failed to validate JWT signature")
        return self._checked(parts.claims, now)

    def _keys(self, algorithm: str | None, kid: str | None) -> tuple[str, Sequence[Key]]:
        """An algorithm that is known, and the keys any of which may have signed."""
        if algorithm is None or algorithm not in ALGORITHMS:
            raise _signer_error()
        if kid is not None and self._find is not None:
            key = self._find(kid, algorithm)
            if key is not None:
                return algorithm, (key,)
        if algorithm in SYMMETRIC and self._secrets:
            return algorithm, self._secrets
        raise _signer_error(None if self._find is None else kid)

    def _checked(self, raw: Mapping[str, Any], now: float) -> Claims:
        role, expires = raw.get("role"), raw.get("exp")
        if expires is None or not isinstance(role, str) or not role:
            raise TokenError("InvalidJWTToken", _REQUIRED)
        if not _is_number(expires) or ("iat" in raw and not _is_number(raw["iat"])):
            raise TokenError("InvalidJWTToken", "Token expiration time is invalid")
        if expires + self._leeway <= now:
            raise TokenError.expired(now - expires)
        for name, value in self._required.items():
            if name not in raw or _canonical(raw[name]) != value:
                text = f"Claim `{name}` of the JWT is not the one that is required"
                raise TokenError("InvalidJWTToken", text)
        return Claims(role=role, expires_at=float(expires) + self._leeway, raw=raw)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def _take_apart(token: str) -> _Token:
    malformed = TokenError("MalformedJWT", _MALFORMED)
    if len(token) > MAX_TOKEN:
        raise malformed
    token = "".join(unquote(token).split())
    try:
        parts = _JWS.decode_complete(token, options={"verify_signature": False})
        claims = _CLAIMS.decode(parts["payload"])
    except (jwt.PyJWTError, msgspec.DecodeError, ValueError, RecursionError):
        raise malformed from None
    algorithm, kid = parts["header"].get("alg"), parts["header"].get("kid")
    return _Token(
        algorithm if isinstance(algorithm, str) else None,
        kid,
        claims,
        token.rpartition(".")[0].encode(),
        parts["signature"],
    )


def _signer_error(kid: str | None = None) -> TokenError:
    named = "" if kid is None else f" for key ID (kid) {inspect(kid)}"
    text = f"Failed to generate JWT signer{named}, check your JWT secret or JWKS configuration"
    return TokenError("JwtSignerError", text)


def _canonical(value: Any) -> str:
    """Equal for equal JSON only: to Python, 1 and true are equal too."""
    return json.dumps(value, sort_keys=True)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer with hundreds of digits
        return False


def sign(claims: Mapping[str, Any], secret: str) -> str:
    """A token with these claims (HS256)."""
    return jwt.encode(dict(claims), secret, algorithm="HS256")
