"""Chaos in small, with what must break broken: `make chaos` does the same for longer, and at random."""

import pytest

from chaos.run import Outcome, Plan, Run
from support.standbys import can_copy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


async def outcome_of(*faults: str, seed: int = 1, servers: int = 1) -> Outcome:
    """What comes of these faults, one after the other. Fails if anything is wrong with what was delivered."""
    plan = Plan(seed, faults=faults, channels=3, servers=servers, pause=0.4, once=True)
    outcome = await Run(plan, lambda _: None).do()
    assert outcome.verdict.good, (outcome.verdict.faults, dict(outcome.verdict.examples), outcome.troubles)
    assert outcome.verdict.delivered >= outcome.verdict.expected > 0
    return outcome


async def test_nothing_is_lost_or_repeated_whatever_becomes_of_connections_and_servers() -> None:
    outcome = await outcome_of("reset", "moved", "server-killed", "terminated", "deploy", servers=2)
    assert outcome.verdict.gaps == 0
    assert outcome.resumes > 0


async def test_nothing_is_lost_or_repeated_when_postgres_is_killed_or_restarted() -> None:
    outcome = await outcome_of("postgres-killed", "database-cut", "postgres-restarted")
    assert outcome.verdict.gaps == 0


@pytest.mark.skipif(not can_copy(), reason="no pg_basebackup here")
async def test_a_promotion_is_told_as_a_gap_and_what_comes_after_it_is_whole() -> None:
    outcome = await outcome_of("reset", "promoted")
    assert outcome.verdict.gaps > 0
