"""``make bench``: measure, show, and end with 1 when a ratio is under its bar twice.

python -m benchmarks [NAME ...]     all, where none is named
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence

from benchmarks import (
    beside,
    broadcast,
    fanout,
    latency,
    matching,
    presence,
    recovery,
    replay,
    requests,
    snapshot,
    visibility,
    writes,
)
from benchmarks.machine import postgres
from rowcast.dev.postgres import Postgres

Measure = Callable[[Postgres], Awaitable[dict[str, tuple[float, float]]]]

MEASUREMENTS: dict[str, tuple[str, Measure]] = {
    "writes": ("Writers", writes.measure),
    "latency": ("Delivery", latency.measure),
    "replay": ("Replay", replay.measure),
    "beside": ("Live changes beside a replay", beside.measure),
    "snapshot": ("Snapshot", snapshot.measure),
    "recovery": ("Recovery", recovery.measure),
    "matching": ("Matching", matching.measure),
    "broadcast": ("Broadcasts to a thousand", broadcast.measure),
    "requests": ("Broadcasts by REST", requests.measure),
    "presence": ("Presence", presence.measure),
    "visibility": ("Row level security", visibility.measure),
    "fanout": ("Row level security, delivered", fanout.measure),
}


def _measure(name: str, measure: Measure) -> list[str]:
    """Run one measurement, once more when it fails; the ratios that failed both times."""
    failed: list[str] = []
    for attempt in (1, 2):
        print(f"{name}{' (again)' if attempt == 2 else ''}", flush=True)
        with postgres() as server:

            async def work(server: Postgres = server) -> dict[str, tuple[float, float]]:
                return await measure(server)

            ratios = asyncio.run(work())
        failed = []
        for what, (ratio, bar) in ratios.items():
            good = ratio >= bar
            print(f"  {what}: {ratio:.2f} (at least {bar:g}){'' if good else ' MISSED'}")
            if not good:
                failed.append(what)
        if not failed:
            break
    return failed


def main(names: Sequence[str]) -> int:
    """The exit code."""
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        print(
            f"There is no measurement called {', '.join(unknown)}. There are: {', '.join(MEASUREMENTS)}.",
            file=sys.stderr,
        )
        return 2
    failed = [what for name in names or MEASUREMENTS for what in _measure(*MEASUREMENTS[name])]
    for what in failed:
        print(f"Under its bar twice: {what}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
