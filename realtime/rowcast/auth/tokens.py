"""Tokens: JSON Web Tokens signed with the shared secret (HS256).

The key decides the algorithm, never the token. The texts are those that Supabase's clients and users know.
"""

import math
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import jwt
from jwt.types import Options

from rowcast.model.claims import Claims, TokenError

_ALGORITHM: Final = "HS256"
_MALFORMED: Final = "The token provided is not a valid JWT"
_SIGNER: Final = "Failed to generate JWT signer, check your JWT secret or JWKS configuration"
_REQUIRED: Final = "Fields `role` and `exp` are required in JWT"


_SIGNATURE_ONLY: Final[Options] = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class Verifier:
    """Verifies tokens against one secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def __call__(self, token: str, now: float) -> Claims:
        """The claims of a token that is good at ``now`` (Unix seconds). Raises TokenError."""
        token = "".join(unquote(token).split())
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            raise TokenError("MalformedJWT", _MALFORMED) from None
        if header.get("alg") != _ALGORITHM:
            raise TokenError("JwtSignerError", _SIGNER)
        try:
            # Only the signature: the claims are checked below, with texts and a clock of our own.
            raw: dict[str, Any] = jwt.decode(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                options=_SIGNATURE_ONLY,
            )
        except jwt.InvalidSignatureError:
            raise TokenError("JwtSignatureError", "Failed to validate JWT signature") from None
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            raise TokenError("MalformedJWT", _MALFORMED) from None
        return _claims(raw, now)


def _claims(raw: Mapping[str, Any], now: float) -> Claims:
    role, expires = raw.get("role"), raw.get("exp")
    if expires is None or not isinstance(role, str) or not role:
        raise TokenError("InvalidJWTToken", _REQUIRED)
    if not _is_number(expires) or ("iat" in raw and not _is_number(raw["iat"])):
        raise TokenError("InvalidJWTToken", "Token expiration time is invalid")
    if expires <= now:
        raise TokenError.expired(now - expires)
    return Claims(role=role, expires_at=float(expires), raw=raw)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer with hundreds of digits
        return False


def sign(claims: Mapping[str, Any], secret: str) -> str:
    """A token with these claims."""
    return jwt.encode(dict(claims), secret, algorithm=_ALGORITHM)
