"""Values of many filters are cast by a few statements, whatever some of them are."""

import contextlib

import pytest
from asyncpg.connection import LoggedQuery

from rowcast.capture.filters import FilterError, Filters
from rowcast.model.binding import Binding, parse_binding
from support.catalog import NUMBERS, VALUES, Catalog


class Statements:
    """Counts what a connection is asked that gives rows."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.queries: list[str] = []

    def __enter__(self) -> "Statements":
        self._catalog.connection.add_query_logger(self._log)
        return self

    def __exit__(self, *exc: object) -> None:
        self._catalog.connection.remove_query_logger(self._log)

    def _log(self, record: LoggedQuery) -> None:
        if record.query.startswith("select"):
            self.queries.append(record.query)


def typed(*filters: str) -> list[Binding]:
    return [parse_binding({"schema": "public", "table": "typed", "filter": text}) for text in filters]


def cast(catalog: Catalog, filters: Filters, bindings: list[Binding]) -> None:
    catalog.run(filters.cast_ahead(catalog.connection, catalog.relation, bindings, "anon"))


def test_thousands_of_filters_are_cast_by_a_few_statements(catalog: Catalog) -> None:
    filters = Filters()
    bindings = typed(
        *(f"num=eq.{number}.0" for number in range(2500)),
        *(f"num=lt.{number}.0" for number in range(2500)),
        *(f"u=in.(00000000-0000-0000-0000-{number:012})" for number in range(500)),
    )
    with Statements(catalog) as statements:
        cast(catalog, filters, bindings)
    assert len(statements.queries) == 4
    with Statements(catalog) as statements:
        for binding in bindings:
            catalog.run(filters.prepare(catalog.connection, catalog.relation, binding, "anon"))
    assert statements.queries == []


def test_what_was_cast_ahead_is_what_is_cast_when_a_filter_is_prepared(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few values are not worth a statement of their own, else.
    monkeypatch.setattr("rowcast.capture.filters._PARTS", 2)
    texts = [
        f"{column}=eq.{value}" for column, values in VALUES.items() for value in values if value.isalnum()
    ]
    texts += [f"{column}=in.({','.join(NUMBERS)})" for column in ("i4", "num", "f8")]
    ahead, one_by_one = Filters(), Filters()
    cast(catalog, ahead, typed(*texts, *texts))
    kept = dict(ahead._values)
    for binding in typed(*texts):
        with contextlib.suppress(FilterError):
            catalog.run(one_by_one.prepare(catalog.connection, catalog.relation, binding, "anon"))
    assert len(kept) > 30
    assert kept.items() <= dict(one_by_one._values).items()


def test_values_that_cannot_be_cast_take_few_others_with_them_and_are_told_when_prepared(
    catalog: Catalog,
) -> None:
    filters = Filters()
    many = "i8=in.(" + ",".join(map(str, range(101))) + ")"
    good = [f"i8=eq.{number}" for number in range(1000)]
    bad = typed("i8=eq.seven", many, "nowhere=eq.1", "txt=like.a%")
    with Statements(catalog) as statements:
        cast(catalog, filters, [*typed(*good[:500]), *bad, *typed(*good[500:])])
    # The whole, its tenths, and the tenths of one of them; and the list.
    assert len(statements.queries) <= 30
    assert len(filters._values) >= 985
    for binding in bad[:3]:
        with pytest.raises(FilterError):
            catalog.run(filters.prepare(catalog.connection, catalog.relation, binding, "anon"))
    for binding in typed(*good):
        assert catalog.run(filters.prepare(catalog.connection, catalog.relation, binding, "anon"))


def test_a_role_that_cannot_be_assumed_casts_nothing_ahead(catalog: Catalog) -> None:
    filters = Filters()
    bindings = typed(*(f"i4=eq.{number}" for number in range(20)))
    catalog.run(filters.cast_ahead(catalog.connection, catalog.relation, bindings, "nobody_at_all"))
    assert not filters._values
