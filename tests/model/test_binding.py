"""Bindings: what an entry of a join asks for, and why some entries are refused."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.binding import (
    BindingError,
    Order,
    SnapshotOptions,
    binding_id,
    parse_binding,
    parse_snapshot,
)
from rowcast.model.filter import parse_filter

NAMES = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
VALUES = (
    st.none() | st.integers() | st.sampled_from(["*", "", "a=eq.1"]) | NAMES | st.lists(st.none() | NAMES)
)


@pytest.mark.parametrize(
    ("entry", "event", "schema", "table"),
    [
        ({"event": "INSERT", "schema": "app", "table": "todos"}, "INSERT", "app", "todos"),
        ({"event": "insert", "table": "todos"}, "INSERT", "public", "todos"),
        ({"event": "TRUNCATE", "table": "todos"}, "*", "public", "todos"),
        ({"event": 7, "schema": "app"}, "*", "app", "*"),
        ({"event": "uPdAtE", "schema": "*", "table": "*"}, "UPDATE", "*", "*"),
        ({"schema": "", "table": "todos"}, "*", "public", "todos"),
        ({"schema": "app", "table": ""}, "*", "app", "*"),
        ({"schema": "app", "select": []}, "*", "app", "*"),
        ({"schema": "app_%", "table": "100%"}, "*", "app_%", "100%"),
    ],
)
def test_an_entry_is_read_with_its_defaults(
    entry: dict[str, Any], event: str, schema: str, table: str
) -> None:
    binding = parse_binding(entry)
    assert (binding.event, binding.schema, binding.table) == (event, schema, table)
    assert (binding.filter, binding.select) == (None, None)
    assert binding.id == binding_id(entry)


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        ({}, "%{}"),
        ({"event": "*"}, '%{"event" => "*"}'),
        (
            {"event": "*", "schema": "public", "filter": "id=eq.1"},
            '%{"event" => "*", "filter" => "id=eq.1", "schema" => "public"}',
        ),
        ({"table": "a", "filter": ""}, '%{"filter" => "", "table" => "a"}'),
        (
            {"event": "*", "schema": "public", "table": "alltypes", "filter": None},
            '%{"event" => "*", "filter" => nil, "schema" => "public", "table" => "alltypes"}',
        ),
        ({"schema": "a", "table": "b", "filter": 1}, '%{"filter" => 1, "schema" => "a", "table" => "b"}'),
        ({"schema": "*", "table": None}, '%{"schema" => "*", "table" => nil}'),
        ({"schema": "app", "table": 7}, '%{"schema" => "app", "table" => 7}'),
        ({"schema": "", "table": ""}, '%{"schema" => "", "table" => ""}'),
        ({"event": "*", "user_token": "secret"}, "<redacted>"),
        ({"auth_token": "secret"}, "<redacted>"),
    ],
)
def test_an_entry_that_names_nothing_is_shown_in_the_error(entry: dict[str, Any], shown: str) -> None:
    with pytest.raises(BindingError) as caught:
        parse_binding(entry)
    assert str(caught.value) == (
        "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: "
        + shown
    )


WILDCARD_SELECT = (
    "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name."
)
STRING_SELECT = (
    'Error parsing `select` params: expected a list of column name strings, e.g. select: ["col1", "col2"]'
)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"schema": "a", "table": "b", "filter": "id"}, 'Error parsing `filter` params: ["id"]'),
        (
            {"schema": "a", "table": "*", "filter": "id", "select": ["id"]},
            'Error parsing `filter` params: ["id"]',
        ),
        ({"schema": "public", "table": "*", "select": ["id"]}, WILDCARD_SELECT),
        ({"schema": "*", "table": "a", "select": ["id"]}, WILDCARD_SELECT),
        ({"schema": "public", "select": ["id"]}, WILDCARD_SELECT),
        ({"schema": "public", "table": "a", "select": "id,txt"}, STRING_SELECT),
        ({"select": ""}, STRING_SELECT),
    ],
)
def test_an_entry_that_cannot_be_subscribed_is_refused_in_supabases_words(
    entry: dict[str, Any], text: str
) -> None:
    with pytest.raises(BindingError) as caught:
        parse_binding(entry)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "entry",
    [
        {"table": "a\0b"},
        {"schema": "a\0b"},
        {"table": "a", "select": ["\0"]},
        {"schema": "a", "table": "b", "filter": "a=eq.\0"},
    ],
)
def test_what_no_name_or_value_in_postgres_holds_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(BindingError, match="NUL"):
        parse_binding(entry)


@pytest.mark.parametrize(
    ("select", "columns"),
    [
        (["id", "txt"], ("id", "txt")),
        (["b", "a", "b", 1, None, "a"], ("b", "a")),
        ([], None),
        ([1, None], None),
        (None, None),
        (7, None),
        ({"id": True}, None),
    ],
)
def test_selected_columns_are_kept_in_order_once(select: object, columns: tuple[str, ...] | None) -> None:
    assert parse_binding({"schema": "public", "table": "a", "select": select}).select == columns


def test_a_filter_is_carried_even_for_wildcards() -> None:
    binding = parse_binding({"schema": "*", "table": "*", "filter": "id=eq.1"})
    assert binding.filter == parse_filter("id=eq.1")
    assert parse_binding({"schema": "a", "table": "b", "filter": " "}).filter is None


MANY = ",".join(map(str, range(1, 103)))


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ({}, "filters: [], select: nil"),
        ({"filter": "id=eq.x"}, 'filters: [{"id", "eq", "x", false}], select: nil'),
        ({"filter": 'a=not.eq."é\n"'}, 'filters: [{"a", "eq", "é\\n", true}], select: nil'),
        (
            {"filter": "a=eq.1,b=in.(2,3)"},
            'filters: [{"a", "eq", "1", false}, {"b", "in", "{2,3}", false}], select: nil',
        ),
        ({"select": ["id", "nocol"]}, 'filters: [], select: ["id", "nocol"]'),
        (
            {"filter": f"id=in.({MANY})"},
            f'filters: [\n  {{"id", "in",\n   "{{{MANY}}}",\n   false}}\n], select: nil',
        ),
        ({"filter": "d->0->>k=eq.1"}, 'filters: [{"d->0->>k", "eq", "1", false}], select: nil'),
        (
            {"filter": "a=eq.1,or(b.eq.2,c.eq.3)"},
            'filters: [{"a", "eq", "1", false}, "or=(b.eq.2,c.eq.3)"], select: nil',
        ),
    ],
)
def test_a_binding_is_described_as_supabase_describes_it(parameters: dict[str, Any], shown: str) -> None:
    binding = parse_binding({"schema": "public", "table": "alltypes", **parameters})
    assert binding.describe() == f"[event: *, schema: public, table: alltypes, {shown}]"


@given(schema=NAMES, table=NAMES)
def test_any_name_can_be_asked_for(schema: str, table: str) -> None:
    binding = parse_binding({"schema": schema, "table": table})
    assert (binding.schema, binding.table) == (schema, table)


@given(entry=st.dictionaries(NAMES, NAMES | st.integers() | st.booleans()))
def test_equal_parameters_have_one_id_that_javascript_can_hold(entry: dict[str, Any]) -> None:
    assert 0 < binding_id(entry) < 2**53
    assert binding_id(dict(reversed(entry.items()))) == binding_id(entry)


KEYS = ["event", "schema", "table", "filter", "select", "resume", "snapshot", "leave", "truncate"]


@given(entry=st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_any_entry_is_read_or_refused(entry: dict[str, Any]) -> None:
    try:
        binding = parse_binding(entry)
    except BindingError:
        return
    assert binding.describe().startswith("[event: ")


def test_what_a_join_asks_for_once_makes_no_other_binding_of_it() -> None:
    entry = {"event": "*", "schema": "public", "table": "a"}
    once = {**entry, "resume": {"position": "p"}, "snapshot": {"limit": 5}}
    assert binding_id(once) == binding_id(entry)
    assert parse_binding(once) == parse_binding(entry)
    assert parse_binding(once).snapshot == SnapshotOptions(limit=5)
    for lasting in ("leave", "truncate"):
        assert binding_id({**entry, lasting: True}) != binding_id(entry)
        assert parse_binding({**entry, lasting: True}) != parse_binding(entry)


@pytest.mark.parametrize("value", [True, False, "TRUE", "no", 1, None])
def test_leaves_and_truncates_are_told_who_asks_by_entry_or_by_join(value: Any) -> None:
    on = value is True or value == "TRUE"
    read = parse_binding({"table": "a", "leave": value, "truncate": value})
    assert (read.leave, read.truncate) == (on, on)
    assert parse_binding({"table": "a", "leave": value}, leave=True).leave
    assert parse_binding({"table": "a", "truncate": value}, truncate=True).truncate


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (None, None),
        (False, None),
        (True, SnapshotOptions((), None, 500)),
        ({}, SnapshotOptions((), None, 500)),
        ({"limit": 1, "batch": 5000, "order": None}, SnapshotOptions((), 1, 5000)),
        ({"order": " ", "limit": None}, SnapshotOptions()),
        ({"order": "id"}, SnapshotOptions((Order("id"),))),
        (
            {"order": "at.desc.nullslast, My Col .asc,b.nullsfirst"},
            SnapshotOptions((Order("at", True, False), Order("My Col"), Order("b", False, True))),
        ),
        ({"order": r'"a.b,\"\\".desc'}, SnapshotOptions((Order('a.b,"\\', True),))),
    ],
)
def test_a_snapshot_is_asked_for_as_it_is_or_with_options(
    value: Any, options: SnapshotOptions | None
) -> None:
    assert parse_snapshot(value) == options


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("true", "expected true, or an object"),
        (1, "expected true, or an object"),
        ([], "expected true, or an object"),
        ({"limt": 5}, "no 'limt'"),
        ({"limit": 0}, "expected `limit` to be a whole number from 1 to 9223372036854775807"),
        ({"limit": True}, "expected `limit`"),
        ({"limit": "5"}, "expected `limit`"),
        ({"limit": 2**63}, "expected `limit`"),
        ({"batch": 5001}, "expected `batch` to be a whole number from 1 to 5000"),
        ({"order": ["id"]}, "expected `order` to be a string"),
        *(
            ({"order": order}, "expected `order` to be `column")
            for order in (
                "id,",
                ",id",
                "id.down",
                "id.nullsfirst.desc",
                '"id',
                '""',
                "a\0",
                "id..desc",
                'a b"c',
            )
        ),
    ],
)
def test_a_snapshot_that_cannot_be_read_is_refused_with_what_is_wrong(value: Any, text: str) -> None:
    with pytest.raises(BindingError) as caught:
        parse_binding({"table": "a", "snapshot": value})
    assert str(caught.value).startswith("Error parsing `snapshot` params: expected ")
    assert text in str(caught.value)


@pytest.mark.parametrize("entry", [{"schema": "a"}, {"schema": "*", "table": "b"}, {"table": "*"}])
def test_a_snapshot_is_of_one_table(entry: dict[str, Any]) -> None:
    assert not parse_binding({**entry, "snapshot": False}).snapshot
    with pytest.raises(BindingError, match="Snapshots are not supported for wildcard"):
        parse_binding({**entry, "snapshot": True})


ORDERS = st.lists(st.builds(Order, NAMES, st.booleans(), st.none() | st.booleans()), max_size=4)


@given(orders=ORDERS)
def test_any_order_is_read_as_it_was_written(orders: list[Order]) -> None:
    def written(order: Order) -> str:
        name = order.column.replace("\\", "\\\\").replace('"', '\\"')
        nulls = "" if order.nulls_first is None else ".nullsfirst" if order.nulls_first else ".nullslast"
        return f'"{name}"' + (".desc" if order.descending else "") + nulls

    read = parse_snapshot({"order": ",".join(map(written, orders))})
    assert read is not None
    assert read.order == tuple(orders)


@given(order=st.text('ab ".,\\\n\0', max_size=12) | st.sampled_from(["a.desc,", "a.asc.nullsfirst", "é"]))
def test_any_order_is_read_or_refused(order: str) -> None:
    with suppress(BindingError):
        read = parse_snapshot({"order": order})
        assert read is not None
        assert all(one.column for one in read.order) or not order.strip()
