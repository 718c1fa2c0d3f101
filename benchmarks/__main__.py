"""``make bench``: measure, show, and end with 1 when a ratio is under its bar twice."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

from benchmarks import fanout, latency, matching, presence, recovery, replay, visibility, writes
from benchmarks.machine import postgres
from rowcast.dev.postgres import Postgres

Measure = Callable[[Postgres], Awaitable[dict[str, tuple[float, float]]]]


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


def main() -> int:
    """The exit code."""
    failed = [
        *_measure("Writers", writes.measure),
        *_measure("Delivery", latency.measure),
        *_measure("Replay", replay.measure),
        *_measure("Recovery", recovery.measure),
        *_measure("Matching", matching.measure),
        *_measure("Presence", presence.measure),
        *_measure("Row level security", visibility.measure),
        *_measure("Row level security, delivered", fanout.measure),
    ]
    for what in failed:
        print(f"Under its bar twice: {what}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
