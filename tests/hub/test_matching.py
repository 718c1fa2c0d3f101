"""The index finds the filters that a row passes: those, and no others."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.hub.bounds import Bounds
from rowcast.hub.feed import Subscriber
from rowcast.hub.matching import FilterIndex, Listeners
from rowcast.hub.subscriptions import Subscriptions
from rowcast.model.binding import Binding
from rowcast.model.filter import Condition, Filter, Group, Op
from rowcast.model.predicate import NEVER, NULL, Answers, Column, Equal, Predicate, Row, casts, make_predicate

COLUMNS = {
    "n": Column("int4", "int4"),
    "t": Column("text", "text"),
    "d": Column("numeric", "numeric"),
    "f": Column("float8", "float8"),
}
#: Values as they are written, equal ones in several ways where their type has these.
VALUES = {
    "n": st.integers(-3, 3).map(str),
    "t": st.sampled_from("abc"),
    "d": st.sampled_from(["-1", "-1.0", "0", "0.00", "1", "1.0", "1.00", "1.5", "NaN", "Infinity"]),
    "f": st.sampled_from(["-1", "-0", "0", "1", "1.5", "1e+300", "NaN", "Infinity"]),
}
ORDERS = (Op.LT, Op.LTE, Op.GT, Op.GTE)


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    column = draw(st.sampled_from(sorted(VALUES)))
    ops = (Op.EQ, Op.NEQ, Op.IN, Op.ISDISTINCT, *(() if column == "t" else ORDERS))
    op = draw(st.sampled_from(ops))
    values = draw(st.lists(VALUES[column], min_size=1, max_size=3 if op is Op.IN else 1))
    text = ",".join(values)
    return Condition(column, (), op, f"{{{text}}}" if op is Op.IN else text, draw(st.booleans()))


@st.composite
def groups(draw: st.DrawFn) -> Group:
    parts = draw(st.lists(conditions(), min_size=1, max_size=3))
    return Group(draw(st.booleans()), draw(st.booleans()), tuple(parts))


def texts(condition: Condition) -> tuple[bytes, ...]:
    """The condition's value as Postgres writes it."""
    assert casts(condition, COLUMNS[condition.column].kind)
    return tuple(json_text(condition.column, value) for value in condition.value.strip("{}").split(","))


def json_text(column: str, value: str | None) -> bytes:
    """A value in a row's image."""
    if value is None:
        return b"null"
    quote = '"' if column == "t" or value in ("NaN", "Infinity") else ""
    return f"{quote}{value}{quote}".encode()


def listeners_of(number: int, filter_: Filter | None) -> Listeners:
    listeners = Listeners(Binding(number, "*", "public", "things", filter_))
    if filter_ is not None:
        parts = [filter_] if isinstance(filter_, Condition) else filter_.parts
        values = {part: texts(part) for part in parts if isinstance(part, Condition)}
        listeners.predicates[1] = make_predicate(filter_, COLUMNS, values)
    return listeners


ROWS = st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()})


@given(
    filters=st.lists(st.none() | conditions() | groups(), max_size=12),
    row=ROWS,
    gone=st.sets(st.integers(0, 11)),
)
def test_the_index_finds_what_looking_at_each_filter_finds(
    filters: list[Filter | None], row: dict[str, str | None], gone: set[int]
) -> None:
    index = FilterIndex(1)
    everyone = [listeners_of(number, filter_) for number, filter_ in enumerate(filters)]
    for listeners in everyone:
        index.add(listeners)
    for number in gone:
        if number < len(everyone):
            index.remove(everyone[number])
    texts_ = {name: json_text(name, value) for name, value in row.items()}
    found = sorted(listeners.binding.id for listeners, _ in index.matches(texts_, {}))
    wanted = [
        number
        for number, listeners in enumerate(everyone)
        if number not in gone and (not listeners.predicates or listeners.predicates[1].passes(texts_, {}))
    ]
    assert found == wanted
    assert not index.missing
    for listeners in everyone:
        index.remove(listeners)
    assert (len(index), list(index.matches(texts_, {})), index._columns) == (0, [], {})


@pytest.mark.parametrize("column", ["d", "f", "n"])
def test_of_filters_for_equal_values_only_those_for_a_rows_own_value_are_looked_at(column: str) -> None:
    keyed: list[bytes] = []
    looked: list[Row] = []

    def counted(raw: bytes) -> object:
        keyed.append(raw)
        return float(raw)

    def test(row: Row, answers: Answers) -> bool:
        looked.append(row)
        return True

    index = FilterIndex(1)
    for number in range(100):
        listeners = listeners_of(number, Condition(column, (), Op.EQ, str(number), False))
        ready = listeners.predicates[1]
        assert ready.equal is not None
        assert ready.equal.values == {ready.equal.key(str(number).encode())}
        equal = Equal(column, counted, frozenset({float(number)}))
        listeners.predicates[1] = replace(ready, test=test, exact=False, equal=equal)
        index.add(listeners)
    assert [found.binding.id for found, _ in index.matches({column: b"7"}, {})] == [7]
    assert (len(keyed), len(looked)) == (1, 1)


def test_filters_that_accept_no_value_come_and_go() -> None:
    condition = Condition("d", (), Op.IN, "{NULL}", False)
    index, several = FilterIndex(1), [listeners_of(number, None) for number in range(2)]
    for listeners in several:
        listeners.binding = replace(listeners.binding, filter=condition)
        listeners.predicates[1] = make_predicate(condition, COLUMNS, {condition: (NULL,)})
        index.add(listeners)
    assert list(index.matches({"d": b"1"}, {})) == list(index.matches({"d": NULL}, {})) == []
    for listeners in several:
        index.remove(listeners)
    assert len(index) == 0


@given(
    bounds=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=10),
    value=st.integers(-4, 4),
    upper=st.booleans(),
    gone=st.sets(st.integers(0, 9)),
)
def test_bounds_find_what_comparing_with_each_finds(
    bounds: list[tuple[int, bool]], value: int, upper: bool, gone: set[int]
) -> None:
    kept: Bounds[object] = Bounds(upper=upper)
    things = [(bound, inclusive, object()) for bound, inclusive in bounds]
    for bound, inclusive, thing in things:
        kept.add(bound, inclusive=inclusive, thing=thing)
    for number in gone:
        if number < len(things):
            bound, inclusive, thing = things[number]
            assert kept.remove(bound, inclusive=inclusive, thing=thing)
            assert not kept.remove(bound, inclusive=inclusive, thing=thing)
    wanted = {
        id(thing)
        for number, (bound, inclusive, thing) in enumerate(things)
        if number not in gone
        and ((value < bound if upper else value > bound) or (inclusive and value == bound))
    }
    assert {id(thing) for thing in kept.within(value)} == wanted
    assert len(kept) == len(things) - len({number for number in gone if number < len(things)})


def test_a_filter_that_is_not_ready_is_missing_until_it_is() -> None:
    index, listeners = FilterIndex(1), listeners_of(1, Condition("n", (), Op.EQ, "1", False))
    ready = listeners.predicates.pop(1)
    index.add(listeners)
    assert list(index.missing) == [listeners]
    assert list(index.matches({"n": b"1"}, {})) == []
    listeners.predicates[1] = ready
    index.add(listeners)
    assert not index.missing
    assert [found for found, _ in index.matches({"n": b"1"}, {})] == [listeners]


def test_a_filter_that_was_given_up_is_found_once_it_is_ready_after_all() -> None:
    filter_ = Condition("n", (), Op.EQ, "1", False)
    ready = make_predicate(filter_, COLUMNS, {filter_: (b"1",)})
    subscriptions, listeners = Subscriptions(limit=1), listeners_of(1, filter_)
    listeners.predicates.clear()
    index = FilterIndex(1)
    index.add(listeners)
    subscriptions.ready(listeners, {1: NEVER})
    assert (list(index.missing), list(index.matches({"n": b"1"}, {})), len(index)) == ([], [], 1)
    subscriptions.ready(listeners, {1: ready})
    subscriptions.ready(listeners, {1: NEVER})
    assert [found for found, _ in index.matches({"n": b"1"}, {})] == [listeners]
    index.remove(listeners)
    assert (list(index.matches({"n": b"1"}, {})), len(index), listeners.indexes) == ([], 0, set())


@pytest.mark.parametrize("predicate", [NEVER, None])
def test_an_index_that_is_given_up_is_forgotten_by_all_its_listeners(predicate: Predicate | None) -> None:
    index, listeners = FilterIndex(1), listeners_of(1, Condition("n", (), Op.EQ, "1", False))
    if predicate is not None:
        listeners.predicates[1] = predicate
    index.add(listeners)
    index.clear()
    assert listeners.indexes == set()


def test_listeners_count_their_members_by_role() -> None:
    listeners = listeners_of(1, None)
    members = [Subscriber.__new__(Subscriber) for _ in range(3)]
    for member, role in zip(members, ("anon", "anon", "other"), strict=True):
        listeners.add(member, role)
        listeners.add(member, role)
    assert listeners.roles == {"anon": 2, "other": 1}
    listeners.remove(members[0])
    listeners.remove(members[0])
    listeners.remove(members[2])
    assert listeners.roles == {"anon": 1}
