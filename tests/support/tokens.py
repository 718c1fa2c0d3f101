"""Tokens for tests: signed with the secret that every server of the tests is given."""

import time
from typing import Any

import jwt

SECRET = "a-secret-of-the-tests-long-enough-for-hs256"


def make_token(role: str = "anon", *, secret: str = SECRET, lifetime: float = 3600, **claims: Any) -> str:
    """A token for ``role`` that expires ``lifetime`` seconds from now; ``claims`` are added to it."""
    now = int(time.time())
    return jwt.encode({"role": role, "iat": now, "exp": now + lifetime, **claims}, secret, algorithm="HS256")
