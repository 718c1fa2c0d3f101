"""The account a development Postgres runs under: Postgres refuses to be root, so root runs it as another.

What that account must read is put where it can; the mode of an existing folder is never changed.
"""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from rowcast.errors import RowcastError


class AccountError(RowcastError):
    """No account to run Postgres under, or a folder that it cannot reach. The text says what to do."""


class Identity(TypedDict, total=False):
    """Keyword arguments of ``subprocess.Popen`` that make the child run under an account."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine. ``switch`` is True when a process must change to it first (we are root)."""

    name: str
    uid: int
    gid: int
    home: Path
    switch: bool

    def identity(self) -> Identity:
        """What ``subprocess.Popen`` needs to run a program under this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}

    def give(self, path: Path) -> None:
        """Make the account the owner of ``path``."""
        if self.switch:
            os.chown(path, self.uid, self.gid)

    def make_way(self, folder: Path) -> None:
        """Make ``folder`` and its missing parents, so that the account can pass through them."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            if self.switch:
                path.chmod(0o755)  # whatever the umask took away

    def check_reaches(self, path: Path) -> None:
        """Raise AccountError if a folder on the way to ``path`` is closed to the account."""
        if not self.switch:
            return
        for folder in path.absolute().parents:
            if not _may_enter(folder, self.uid, self.gid):
                raise AccountError(
                    f"PostgreSQL does not run as root, and the account {self.name!r} it would run under "
                    f"cannot enter {folder}. Choose a folder outside of it, or do not run as root."
                )


def current_account() -> Account:
    """The account to run Postgres under: our own; for root, ``postgres`` if it exists, else ``nobody``."""
    uid = os.geteuid()
    if uid != 0:
        return Account(str(uid), uid, os.getegid(), _state_home(), switch=False)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid, Path("/var/lib/rowcast"), switch=True)
    raise AccountError(
        "PostgreSQL does not run as root, and this machine has neither an account 'postgres' nor 'nobody'. "
        "Make one (useradd --system postgres), or run this under another account than root."
    )


def _state_home() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "rowcast"


def _may_enter(folder: Path, uid: int, gid: int) -> bool:
    try:
        status = folder.stat()
    except FileNotFoundError:
        return True  # we shall make it
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
