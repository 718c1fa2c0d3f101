"""Accounts of what connections ask, and conditions that were switched off."""

import pytest

from rowcast.capture import costs
from rowcast.capture.costs import Costs
from rowcast.hub.lanes import Lane
from rowcast.model.filter import Op
from rowcast.model.predicate import Ask
from support.streams import Kept

pytestmark = pytest.mark.anyio


def ask(value: str = "a%") -> Ask:
    return Ask("body", "pg_catalog.text", "", (), Op.LIKE, value)


def lane() -> Lane:
    return Lane(Kept(), 1 << 20)


async def test_a_connection_is_overdrawn_once_it_took_what_it_may_and_a_minute_forgives_it() -> None:
    kept, one, other = Costs(0.25), lane(), lane()
    kept.charge(one, 2.4, 100.0)
    assert not kept.overdrawn(one, 100.0)
    kept.charge(one, 0.1, 100.0)
    assert kept.overdrawn(one, 100.0)
    assert not kept.overdrawn(other, 100.0)
    assert kept.spent(one, 130.0) == pytest.approx(1.25)
    assert kept.spent(one, 160.0) == 0.0


async def test_what_was_taken_before_is_forgiven_in_part_when_more_is_taken() -> None:
    kept, one = Costs(1.0), lane()
    kept.charge(one, 10.0, 0.0)
    kept.charge(one, 10.0, 30.0)
    assert kept.spent(one, 30.0) == pytest.approx(15.0)


async def test_accounts_are_bounded_in_number_and_paid_ones_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(costs, "_MAX_CLIENTS", 3)
    kept, lanes = Costs(1.0), [lane() for _ in range(5)]
    for one in lanes:
        kept.charge(one, 5.0, 0.0)
    assert [kept.spent(one, 0.0) for one in lanes] == [0.0, 0.0, 5.0, 5.0, 5.0]
    kept.charge(lanes[0], 5.0, 1000.0)
    assert list(kept._spent) == [lanes[0]]


async def test_a_charge_of_nothing_leaves_no_account() -> None:
    kept = Costs(1.0)
    kept.charge(lane(), 0.0, 0.0)
    assert not kept._spent


async def test_a_condition_is_off_for_a_time_and_for_its_version_of_a_table_alone() -> None:
    kept = Costs(1.0)
    kept.switch_off(7, ask(), 100.0)
    assert kept.is_off(7, ask(), 399.0)
    assert not kept.is_off(7, ask(), 400.0)
    assert not kept.is_off(8, ask(), 100.0)
    assert not kept.is_off(7, ask("b%"), 100.0)


async def test_conditions_that_are_off_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "_MAX_OFF", 2)
    kept = Costs(1.0)
    for value in ("a", "b", "a", "c"):
        kept.switch_off(1, ask(value), 0.0)
    assert [kept.is_off(1, ask(value), 1.0) for value in "abc"] == [True, False, True]


async def test_the_texts_name_the_column_the_operator_and_the_limit() -> None:
    kept = Costs(0.25)
    assert "body (like) took longer than 0.25 s" in kept.too_slow(ask())
    assert "body (like) was switched off" in kept.too_much(ask())
    assert "longer than 2.5 s within a minute" in kept.too_much(ask())
