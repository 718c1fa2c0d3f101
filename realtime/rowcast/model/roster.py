"""Who is present on a topic, as a value.

Each node says who is present by its own clients: that is its part, and only the node itself changes it, each
time with a greater version. A newer part replaces an older one, whole; a node that is gone takes its part
with it, and never comes back under its name. So rosters can be merged in any order, and as often as one
likes: all who have heard the same have the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Presence:
    """What one channel shows of itself, for as long as it shows that.

    ``key`` is what several channels may share, ``ref`` is of this alone, on all nodes; ``prev`` is that of
    what it takes the place of. ``payload`` is the client's JSON object, in UTF-8.
    """

    key: str
    ref: str
    payload: bytes
    prev: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Who is present by one node: presences by their refs.

    ``version`` is greater than that of each part of any topic that the node said before: a topic may be
    forgotten in between.
    """

    version: int = 0
    present: Mapping[str, Presence] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Diff:
    """What became of a roster. A presence that takes another's place joins, and the other leaves."""

    joins: tuple[Presence, ...] = ()
    leaves: tuple[Presence, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.joins or self.leaves)


@dataclass(frozen=True, slots=True)
class Roster:
    """The parts of nodes by their names, and the names of those that are gone."""

    parts: Mapping[str, Part] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()

    def present(self) -> Mapping[str, Presence]:
        """All who are present, by their refs."""
        if len(self.parts) == 1:
            return next(iter(self.parts.values())).present
        return {ref: one for node in sorted(self.parts) for ref, one in self.parts[node].present.items()}

    def change(self, node: str, part: Part) -> "Roster":
        """As the node itself says it. Nothing more is said by one that is gone."""
        return self.merge(Roster({node: part}))

    def drop(self, node: str) -> "Roster":
        """Without a node, for good."""
        return self.merge(Roster(gone=frozenset({node})))

    def merge(self, other: "Roster") -> "Roster":
        """What both say together."""
        gone = self.gone | other.gone
        parts = dict(self.parts)
        for node, part in other.parts.items():
            if node not in parts or part.version > parts[node].version:
                parts[node] = part
        for node in gone & parts.keys():
            del parts[node]
        return Roster(parts, gone)


def difference(before: Roster, after: Roster) -> Diff:
    """What joined and what left on the way from one roster to the other."""
    old, new = before.present(), after.present()
    return Diff(
        tuple(one for ref, one in new.items() if ref not in old),
        tuple(one for ref, one in old.items() if ref not in new),
    )
