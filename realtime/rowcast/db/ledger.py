"""What has run in a database, and what a release has still to run there. Pure: no file and no database.

A server of an older release may run beside a newer one's schema, while a deployment is under way: its
functions are never put back over newer ones, and it refuses only what says that it must. A versioned file
names in its head the oldest release that works beside it (``-- Works beside: 0.1.0``); one without works
beside none. A file that was edited names the checksum of its earlier text (``-- Replaces: …``), where both
come to the same.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rowcast import __version__
from rowcast.errors import MigrationError

_BESIDE = re.compile(r"^-- Works beside: (\S+)$", re.MULTILINE)
_REPLACES = re.compile(r"^-- Replaces: ([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One SQL file. ``version`` is None for a repeatable one."""

    version: int | None
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def beside(self) -> str | None:
        """The oldest release that works beside it, or None where only its own does."""
        return match[1] if (match := _BESIDE.search(self.sql)) else None

    @property
    def replaces(self) -> frozenset[str]:
        """Checksums of earlier texts that came to the same."""
        return frozenset(_REPLACES.findall(self.sql))


@dataclass(frozen=True, slots=True)
class Applied:
    """A file that has run: what it was, the release that ran it, and the oldest that works beside it."""

    checksum: str
    release: str
    beside: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """What has run in a database: versioned files by number, repeatable ones by name."""

    done: dict[int, Applied] = field(default_factory=dict)
    functions: dict[str, Applied] = field(default_factory=dict)

    @property
    def release(self) -> str:
        """The newest release that has run something."""
        return max(
            (one.release for one in [*self.done.values(), *self.functions.values()]), key=order, default=""
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, in this order. ``older`` says why nothing is: a newer release was here."""

    scripts: tuple[Script, ...]
    older: str | None = None


def order(release: str) -> tuple[int, ...]:
    """What releases are compared by: the numbers of ``1.20.3``; less than any for ``""``."""
    return tuple(int(number) for number in re.findall(r"\d+", release)[:3])


def plan(
    versioned: Sequence[Script], repeatable: Sequence[Script], ledger: Ledger, release: str = __version__
) -> Plan:
    """What ``release`` has to run over what has run.

    Raises MigrationError when a file that has run was edited, or when a newer release migrated the database
    and this one does not work beside it.
    """
    known = {script.version: script for script in versioned}
    for version, applied in ledger.done.items():
        script = known.get(version)
        if script is not None and applied.checksum not in {script.checksum, *script.replaces}:
            raise MigrationError(
                f"Migration {version} was edited after it ran. Put the file back as it was, "
                "and make the change in a new migration."
            )
    pending = [script for script in versioned if script.version not in ledger.done]
    newer = sorted(set(ledger.done) - set(known))
    if newer:
        needed = max((ledger.done[version].beside for version in newer), key=order)
        if pending or order(release) < order(needed):
            raise MigrationError(
                f"The database has migration {newer[-1]}, which this version of Rowcast, {release}, does not "
                f"know. Run a Rowcast at least as new as the one that migrated it, {ledger.release}."
            )
    if newer or order(ledger.release) > order(release):
        return Plan((), f"The database was migrated by Rowcast {ledger.release}; this is {release}.")
    changed = any(
        name not in ledger.functions or ledger.functions[name].checksum != checksum
        for name, checksum in ((script.name, script.checksum) for script in repeatable)
    )
    # Views and functions depend on each other: when one differs, all are run.
    return Plan((*pending, *(repeatable if changed else ())))
