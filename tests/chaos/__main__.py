"""``make chaos``: break everything for a minute, and end with 1 when a change was lost, repeated or split.

``make chaos ARGS="--seed 7 --seconds 60 --faults cut,server-killed"`` does one run again; timing aside, the
seed decides what is written, who subscribes and what breaks.
"""

import argparse
import logging
import secrets
import sys

import uvloop

from chaos.faults import ALONE, FAULTS
from chaos.run import Outcome, Plan, Run
from support.standbys import can_copy

_LINES = 120


def main() -> int:
    """The exit code."""
    plan = _plan()
    # What the SDK gets over by itself is counted, and told at the end.
    logging.getLogger("rowcast_client").setLevel(logging.CRITICAL)
    print(f"Seed {plan.seed}, {plan.seconds:g} s, faults: {', '.join(plan.faults) or 'none'}", flush=True)
    outcome = uvloop.run(Run(plan, lambda text: print(text, flush=True)).do())
    print(summary(outcome))
    if outcome.verdict.good:
        return 0
    wrong = {example.split(":")[0] for examples in outcome.verdict.examples.values() for example in examples}
    for name in sorted(wrong & outcome.told.keys()):
        print(f"What {name} was told:", *outcome.told[name][-_LINES:], sep="\n  ")
    print("The servers printed at last:", *outcome.printed[-_LINES:], sep="\n  ")
    print(
        f'Again: make chaos ARGS="--seed {plan.seed} --seconds {plan.seconds:g} '
        f'--faults {",".join(plan.faults)}"',
        file=sys.stderr,
    )
    return 1


def summary(outcome: Outcome) -> str:
    """What is said at the end."""
    verdict = outcome.verdict
    found = verdict.faults
    rows = [
        ("written", f"{outcome.written} changes in {outcome.transactions} transactions"),
        ("to be delivered", verdict.expected),
        ("delivered", verdict.delivered),
        ("sockets, resumes", f"{outcome.sessions}, {outcome.resumes}"),
        ("sent again, dropped by rule", outcome.again),
        ("gaps", f"{verdict.gaps - found['gap']} expected, {found['gap']} not"),
        *((name, count) for name, count in found.items() if name != "gap"),
        ("longest stall", f"{outcome.stall:.2f} s"),
        ("faults done", ", ".join(f"{name} {n}" for name, n in sorted(outcome.faults.items())) or "none"),
        ("writers", ", ".join(f"{name} {n}" for name, n in outcome.outcomes.most_common())),
        ("last troubles", ", ".join(f"{name} {n}" for name, n in outcome.troubles.most_common(5)) or "none"),
    ]
    lines = [f"  {name:<28} {value}" for name, value in rows]
    for kind, examples in verdict.examples.items():
        lines += [f"  {kind}: {example}" for example in examples]
    return "\n".join(lines)


def _plan() -> Plan:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="what the dice say")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults go on")
    parser.add_argument("--channels", type=int, default=12, help="how many channels there are")
    parser.add_argument("--servers", type=int, default=2, help="how many servers there are")
    parser.add_argument("--rate", type=float, default=120.0, help="about how many changes a second")
    parser.add_argument(
        "--faults",
        default="all",
        help=f"names with commas, `all` or `none`: {', '.join(FAULTS)}",
    )
    given = parser.parse_args()
    names = tuple(name.strip() for name in given.faults.split(",") if name.strip())
    if names == ("all",):
        names = tuple(name for name in FAULTS if name not in ALONE)
    elif names == ("none",):
        names = ()
    if unknown := set(names) - set(FAULTS):
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}")
    if "promoted" in names and not can_copy():
        print("No pg_basebackup on this machine: no standby, and no promotion", file=sys.stderr)
        names = tuple(name for name in names if name != "promoted")
    return Plan(given.seed, given.seconds, names, given.channels, given.servers, given.rate)


if __name__ == "__main__":
    raise SystemExit(main())
