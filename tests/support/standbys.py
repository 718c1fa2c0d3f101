"""A standby of a Postgres of the test's own: a copy that follows it, and may be promoted."""

import subprocess
from urllib.parse import urlsplit

import pytest

from rowcast.dev.account import current_account
from rowcast.dev.postgres import Postgres
from support import databases
from support.postgres import SETTINGS, binaries, home


def standby_of(primary: Postgres, *, port: int = 0) -> Postgres:
    """Copy a running server into a new home; ``start`` it, and ``discard`` it in the end."""
    program = primary.binaries.folder / "pg_basebackup"
    if not program.exists():
        pytest.skip(f"{primary.binaries.folder} has no pg_basebackup")
    copy = Postgres(home(), primary.binaries, port=port, durable=False, settings=SETTINGS)
    (copy.home / "password").write_text(primary.password)
    parts = urlsplit(primary.dsn)
    source = f"host={parts.hostname} port={parts.port} user={parts.username} password={parts.password}"
    command = ["-d", source, "-D", str(copy.data), "--checkpoint=fast", "--write-recovery-conf", "--no-sync"]
    subprocess.run([str(program), *command], check=True, cwd="/", **current_account().identity())
    return copy


def can_copy() -> bool:
    """Whether this machine has what a copy is made with."""
    return (binaries().folder / "pg_basebackup").exists()


def detach(standby: Postgres) -> None:
    """Let it follow no more: what is written from now on is lost to whoever goes on with it."""
    databases.execute(standby.dsn, "alter system set primary_conninfo = ''")
    databases.execute(standby.dsn, "select pg_reload_conf()")


def promote(standby: Postgres) -> None:
    """Make it a primary, and return when it is."""
    databases.execute(standby.dsn, "select pg_promote()")
