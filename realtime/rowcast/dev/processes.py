"""How a server process is ended: in order, as by a crash, and when its parent dies without a word."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

_TIMEOUT = 10.0

# Waits for the end of its input, which comes when the parent's end of the pipe closes, however it died.
_WATCH = 'read -r _; kill -INT "$1"'


def stop_when_we_die(pid: int) -> subprocess.Popen[bytes]:
    """Start a watcher that sends SIGINT to ``pid`` when this process is gone. End it with ``dismiss``.

    It works on every Unix, and whichever thread starts it (Linux' parent-death signal follows the thread).
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "sh", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def dismiss(watcher: subprocess.Popen[bytes]) -> None:
    """End a watcher without its signal being sent."""
    watcher.kill()
    watcher.wait(_TIMEOUT)
    if watcher.stdin is not None:
        watcher.stdin.close()


def end(server: subprocess.Popen[bytes], patience: float) -> None:
    """End a Postgres: fast shutdown, then immediate shutdown, then SIGKILL to all of it."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience)
            return
    kill_family(server)


def kill_family(server: subprocess.Popen[bytes]) -> None:
    """End a process and its children at once with SIGKILL.

    The parent is halted first, so that it can neither see a child die nor start another.
    """
    if server.poll() is None:
        server.send_signal(signal.SIGSTOP)
        for pid in _children(server.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.kill()
    server.wait(_TIMEOUT)


def runs_postgres(pid: int) -> bool:
    """Whether process ``pid`` lives and is a Postgres."""
    commands = dict(_table("comm="))
    return "postgres" in commands.get(pid, "") or "postmaster" in commands.get(pid, "")


def _children(parent: int) -> list[int]:
    return [pid for pid, ppid in _table("ppid=") if ppid.strip() == str(parent)]


def _table(column: str) -> list[tuple[int, str]]:
    """Every process, with its parent (``ppid=``) or its program (``comm=``)."""
    if Path("/proc/self/stat").exists():  # Linux, where a small container may have no `ps`
        return [row for path in Path("/proc").glob("[0-9]*/stat") if (row := _from_proc(path, column))]
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=", "-o", column], check=True, capture_output=True, text=True, timeout=_TIMEOUT
    )
    rows = (line.split(None, 1) for line in listed.stdout.splitlines())
    return [(int(row[0]), row[1]) for row in rows if len(row) == 2]


def _from_proc(path: Path, column: str) -> tuple[int, str] | None:
    try:
        text = path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # "pid (program, which may hold anything) state ppid …"
    head, _, tail = text.rpartition(")")
    pid, _, program = head.partition(" (")
    state, parent = tail.split()[:2]
    if state in ("Z", "X"):
        return None
    return int(pid), parent if column == "ppid=" else program
