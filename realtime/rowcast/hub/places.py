"""The names that bindings give, and which of them mean one table: either part may be ``*``."""

from collections.abc import Iterable
from functools import lru_cache

from rowcast.model.binding import WILDCARD, Binding

#: A schema and a table.
Place = tuple[str, str]


@lru_cache(maxsize=4096)
def places_of(schema: str, table: str) -> tuple[Place, ...]:
    """Where bindings that match a table may stand."""
    # Each once: a table may be called "*".
    return tuple(
        dict.fromkeys(((schema, table), (schema, WILDCARD), (WILDCARD, table), (WILDCARD, WILDCARD)))
    )


def cross(bindings: Iterable[Binding]) -> bool:
    """Whether two names may mean one table and neither is the narrower: ``public.*`` and ``*.notes``."""
    wild = {(binding.schema == WILDCARD, binding.table == WILDCARD) for binding in bindings}
    return {(True, False), (False, True)} <= wild


def narrower(bindings: Iterable[Binding]) -> list[Place]:
    """The names that a broader one among them covers."""
    places = dict.fromkeys((binding.schema, binding.table) for binding in bindings)
    return [place for place in places if any(one in places for one in places_of(*place) if one != place)]
