"""A hot standby of a running Postgres of ours, made by pg_basebackup and promoted when a test says so."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

import asyncpg

from rowcast.dev.account import current_account
from rowcast.dev.postgres import Postgres, temporary_home
from support.postgres import SETTINGS, binaries
from support.waiting import until

_COPY_TIMEOUT = 60


class Standby(Postgres):
    """A Postgres that follows another until it is promoted. Its passwords are the other's."""

    def _status(self, pid: int) -> str:
        # Of a standby that takes connections the lock file says so.
        status = super()._status(pid)
        return "ready" if status == "standby" else status


def can_copy() -> bool:
    """Whether this machine has pg_basebackup beside the server programs."""
    return (binaries().folder / "pg_basebackup").exists()


def start_standby(primary: Postgres) -> Standby:
    """Copy ``primary``, and follow it. End it with ``discard``."""
    found, account = binaries(), current_account()
    standby = Standby(temporary_home(), found, durable=False, settings=SETTINGS)
    with _cleared(standby):
        shutil.copy(primary.home / "password", standby.home / "password")
        account.give(standby.home / "password")
        copied = subprocess.run(
            [
                str(found.folder / "pg_basebackup"),
                *(f"--pgdata={standby.data}", f"--dbname={primary.dsn}"),
                *("--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
            timeout=_COPY_TIMEOUT,
            **account.identity(),
        )
        assert copied.returncode == 0, copied.stderr
        standby.start()
    return standby


async def detach(standby: Standby) -> None:
    """Stop following: what is written from now on is lost to it, and to whoever goes on with it."""
    connection = await asyncpg.connect(standby.dsn)
    try:
        await connection.execute("alter system set primary_conninfo = ''")
        await connection.execute("select pg_reload_conf()")

        async def alone() -> bool:
            return bool(await connection.fetchval("select count(*) = 0 from pg_stat_wal_receiver"))

        await until(alone)
    finally:
        await connection.close()


async def promote(standby: Standby) -> None:
    """Make it a primary, and return when it takes writes."""
    connection = await asyncpg.connect(standby.dsn)
    try:
        assert await connection.fetchval("select pg_promote()")
        await connection.execute("alter system reset primary_conninfo")
    finally:
        await connection.close()


@contextlib.contextmanager
def _cleared(standby: Standby) -> Iterator[None]:
    try:
        yield
    except BaseException:
        standby.discard()
        raise
