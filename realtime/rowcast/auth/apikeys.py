"""Opaque API keys: each stands for a role, for as long as the server's settings name it."""

from collections.abc import Mapping
from typing import Final

from rowcast.auth.keys import KeyFault
from rowcast.auth.tokens import API_KEY

#: Shorter ones could be guessed.
_SHORTEST: Final = 24


def parse_api_keys(text: str) -> Mapping[str, str]:
    """Roles by key, of ``sb_publishable_…=anon, sb_secret_…=service_role``.

    Raises KeyFault, whose text shows no key.
    """
    keys: dict[str, str] = {}
    for number, entry in enumerate(filter(None, map(str.strip, text.split(","))), start=1):
        # A key may end with padding, which is the same sign.
        key, equals, role = (part.strip() for part in entry.rpartition("="))
        if not equals or not role:
            raise KeyFault(f"has no role in entry {number}: write key=role, with commas between entries")
        if not key.startswith(API_KEY) or len(key) < _SHORTEST:
            raise KeyFault(
                f"has a key in entry {number} that is none: it must begin with {API_KEY} and have at least "
                f"{_SHORTEST} characters"
            )
        if keys.setdefault(key, role) != role:
            raise KeyFault(f"gives the key of entry {number} another role than before")
    return keys
