"""Filters mean what Postgres means: every operator on every type, judged here and there alike."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import TypeVar

import asyncpg
import pytest
from asyncpg.connection import LoggedQuery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcast.capture.filters import FilterError, Filters, answer
from rowcast.capture.relations import Relations
from rowcast.hub.matching import FilterIndex, Listeners
from rowcast.model.binding import Binding, parse_binding
from rowcast.model.change import Change, Op, Relation
from rowcast.protocol.rows import row_of
from support import databases

T = TypeVar("T")

SETUP = """
create type mood as enum ('sad', 'ok', 'happy');
create domain positive as int check (value > 0);
create schema "odd ""x"" .schema";
create type "odd ""x"" .schema"."odd.type" as enum ('one', 'two');
create table typed (
  id int primary key, i2 int2, i4 int4, i8 int8, num numeric, f4 float4, f8 float8, flag bool, u uuid, txt
  text, vc varchar(20), bp char(6), m mood, d date, ts timestamp, tz timestamptz, tm time, ttz timetz, iv
  interval, raw bytea, j json, jb jsonb, ip inet, rng int4range, tags text[], nums int[], pt positive,
  ci citext, loose text collate ignoring, odd "odd ""x"" .schema"."odd.type", "v" text, "n" text
);
grant usage on schema "odd ""x"" .schema" to anon;
grant select on typed to anon;
alter publication supabase_realtime add table typed;
"""

#: Columns of a type that has to be made first.
OPTIONAL = [
    ("ci", "citext", "create extension if not exists citext"),
    ("loose", "text collate ignoring",
     "create collation ignoring (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"),
]  # fmt: skip
NUMBERS = ["0", "1", "-1", "2", "10", "100"]
TEXTS = ["", "a", "A", "ab", "abc", "a%", "b_", "x,y", "é", "e", "null", 'q"q', "back\\slash", " a", "a "]
MOMENTS = ["2024-01-01", "2024-06-01", "1999-12-31", "0044-03-15 BC", "12024-01-01", "infinity", "-infinity"]
TIMES = ["00:00:00", "12:34:56.5", "23:59:59", "24:00:00"]
VALUES: dict[str, list[str]] = {
    "i2": NUMBERS, "i4": NUMBERS, "i8": [*NUMBERS, "9007199254740993", "9007199254740992"],
    "num": [*NUMBERS, "1.0", "1.10", "1.1", "0.30000000000000004", "NaN", "Infinity", "-Infinity", "1e30"],
    "f4": [*NUMBERS, "0.1", "0.3", "NaN", "Infinity", "-Infinity", "-0", "1e20"],
    "f8": [*NUMBERS, "0.1", "0.30000000000000004", "0.3", "NaN", "Infinity", "-0", "1e300", "1e-7"],
    "flag": ["true", "false", "t", "off"],
    "u": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
          "00000000-0000-0000-0000-000000000000"],
    "txt": TEXTS, "vc": TEXTS, "bp": ["a", "a ", "abc", ""], "m": ["sad", "ok", "happy"],
    "d": MOMENTS, "ts": [*MOMENTS, "2024-06-01 12:00:00.5", "2024-06-01 12:00:00"],
    "tz": [*MOMENTS, "2024-06-01T12:00:00.5Z", "2024-06-01 14:00:00+02", "2024-06-01 12:00:00+00"],
    "tm": TIMES, "ttz": ["12:00:00+00", "14:00:00+02", "12:00:00+02"],
    "iv": ["1 day", "24 hours", "1 mon", "30 days"],
    "raw": ["\\x00ff", "\\x", "\\xdeadbeef"], "jb": ["{}", '{"a": 1}', "[1,2]", "1", '"x"'],
    "ip": ["10.0.0.1", "10.0.0.1/32", "10.0.0.0/8", "::1"], "rng": ["[1,5)", "[1,4]", "empty", "(,3)"],
    "tags": ["{}", "{a}", "{a,b}", "{null}", '{"x,y"}'], "nums": ["{1,2}", "{2,1}", "{}", "{{1},{2}}"],
    "pt": ["1", "2", "3"], "ci": ["abc", "ABC", "abd"], "loose": ["abc", "ABC", "abd", "é"],
}  # fmt: skip
ORDERED = ["eq", "neq", "lt", "lte", "gt", "gte", "in", "isdistinct", "is"]
PATTERNS = ["like", "ilike", "match", "imatch"]
#: An array of arrays is no type of Postgres: `in` is refused.
ARRAYS = {"tags", "nums"}
TEXTUAL = {"txt", "vc", "bp", "ci"}
SQL = {
    "eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "isdistinct": "is distinct from",
    "like": "like", "ilike": "ilike", "match": "~", "imatch": "~*",
}  # fmt: skip


class Catalog:
    """A database with a table of every type, and what is known of it. ``run`` runs in its own event loop."""

    def __init__(self, runner: asyncio.Runner, connection: asyncpg.Connection) -> None:
        self._runner, self.connection = runner, connection
        self.filters = Filters()
        #: Columns that have a plain type here.
        self.missing: set[str] = set()
        self.relation, self.types = self.run(self._looked_up())

    def run(self, work: Coroutine[object, object, T]) -> T:
        return self._runner.run(work)

    async def _looked_up(self) -> tuple[Relation, dict[str, str]]:
        await self.connection.execute("select rowcast.renew_lease(3600)")
        setup = SETUP
        # Some builds of Postgres come without ICU, or without its contrib modules.
        for column, type_, prerequisite in OPTIONAL:
            try:
                await self.connection.execute(prerequisite)
            except asyncpg.FeatureNotSupportedError:
                self.missing.add(column)
                setup = setup.replace(f"{column} {type_}", f"{column} text")
        await self.connection.execute(setup)
        relations = Relations()
        version = await self.connection.fetchval("select relation from rowcast.captured")
        await relations.load(self.connection, [version])
        types = await self.connection.fetch(
            "select attname, format_type(atttypid, atttypmod) as type from pg_attribute"
            " where attrelid = 'typed'::regclass and attnum > 0"
        )
        return relations[version], {row["attname"]: row["type"] for row in types}

    async def expected(self, values: dict[str, str | None], sql: str) -> tuple[bool, bytes]:
        """What the table itself says of a row, with its lengths and collations; and the row's image."""
        names = "".join(f', "{name}"' for name in values)
        literals = "".join(f", {'null' if value is None else quoted(value)}" for value in values.values())
        for column in values:
            sql = sql.replace(f"TYPE({column})", self.types[column])
        async with self.connection.transaction():
            await self.connection.execute("delete from typed")
            await self.connection.execute(f"insert into typed (id{names}) values (1{literals})")
            passes = await self.connection.fetchval(f"select coalesce({sql}, false) from typed")
            image = await self.connection.fetchval("select row_to_json(t.*)::text from typed as t")
        return passes, image.encode()

    async def judged(self, filter_: str, rows: list[bytes]) -> list[bool]:
        """Whether each row passes: by the index, which must agree with looking at the filter alone."""
        binding = parse_binding({"schema": "public", "table": "typed", "filter": filter_})
        predicate = await self.filters.prepare(self.connection, self.relation, binding, "anon")
        assert predicate is not None
        listeners = Listeners(binding, predicates={self.relation.id: predicate})
        listeners.roles["anon"] = 1
        index = FilterIndex(self.relation.id)
        index.add(listeners)
        found = []
        for image in rows:
            row = row_of(Change(self.relation, Op.INSERT, image, None, 1, "", ""))
            answers = {}
            if predicate.asks:
                (answers,) = await answer(self.connection, "anon", predicate.asks, [row], 10.0)
            assert {ask for _, ask in index.asks(row)} <= set(predicate.asks)
            indexed = any(True for _ in index.matches(row, {"anon": answers}))
            assert indexed == predicate.passes(row, answers), (filter_, image)
            found.append(indexed)
        return found


@pytest.fixture(scope="module")
def catalog(postgres: str, migrated_template: str, database_names: Iterator[str]) -> Iterator[Catalog]:
    name = next(database_names)
    dsn = databases.create(postgres, name, template=migrated_template)
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(dsn, server_settings={"timezone": "UTC"}))
        yield Catalog(runner, connection)
        runner.run(connection.close())
    databases.drop(postgres, name)


def quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def written(value: str) -> str:
    """A value as the filter grammar has it: always quoted, so that commas and spaces are its own."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def conditions(draw: st.DrawFn, column: str) -> tuple[str, str]:
    """A condition: as a filter, and as SQL."""
    ops = [op for op in ORDERED if op != "in" or column not in ARRAYS]
    op = draw(st.sampled_from(ops + (PATTERNS if column in TEXTUAL else [])))
    values = VALUES[column]
    negated = draw(st.booleans())
    prefix = "not." if negated else ""
    bare = {"bp": "bpchar", "vc": "varchar"}.get(column)
    type_ = bare or f"TYPE({column})"
    if op == "is":
        word = draw(st.sampled_from(["null", "true", "false", "unknown"] if column == "flag" else ["null"]))
        text, sql = f"{column}={prefix}is.{word}", f'"{column}" is {word}'
    elif op == "in":
        chosen = draw(st.lists(st.sampled_from([*values, None]), min_size=1, max_size=3))
        elements = ",".join("null" if one is None else written(one) for one in chosen)
        text = f"{column}={prefix}in.({elements})"
        sql = f'"{column}" = any ({quoted("{" + elements + "}")}::{type_}[])'
    else:
        value = draw(st.sampled_from(values))
        text = f"{column}={prefix}{op}.{written(value)}"
        cast = "::text" if op in PATTERNS else f"::{type_}"
        sql = f'"{column}" {SQL[op]} {quoted(value)}{cast}'
    return text, f"(not ({sql}))" if negated else f"({sql})"


@st.composite
def cases(draw: st.DrawFn, columns: list[str]) -> tuple[str, str, dict[str, str | None]]:
    """Conditions on these columns, all of which must hold, as a filter and as SQL; and a row's values."""
    parts = [draw(conditions(column)) for column in columns]
    values = {column: draw(st.sampled_from([*VALUES[column], None])) for column in dict.fromkeys(columns)}
    return ",".join(text for text, _ in parts), " and ".join(sql for _, sql in parts), values


MIXED = st.lists(st.sampled_from(["i4", "txt", "flag", "num", "ci", "tags"]), min_size=2, max_size=3)


def agrees(catalog: Catalog, text: str, sql: str, values: dict[str, str | None]) -> None:
    async def judged() -> tuple[bool, bool]:
        expected, image = await catalog.expected(values, sql)
        try:
            (passes,) = await catalog.judged(text, [image])
        except FilterError as error:
            raise AssertionError(f"{text} was refused: {error}") from error
        return passes, expected

    passes, expected = catalog.run(judged())
    assert passes == expected, (text, sql, values)


@pytest.mark.parametrize("column", sorted(VALUES))
def test_a_filter_passes_the_rows_that_postgres_would(catalog: Catalog, column: str) -> None:
    if column in catalog.missing:
        pytest.skip("this Postgres was built without it")

    @settings(max_examples=40, deadline=None)
    @given(cases([column]))
    def check(case: tuple[str, str, dict[str, str | None]]) -> None:
        agrees(catalog, *case)

    check()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=MIXED.flatmap(cases))
def test_conditions_combine_as_in_sql(catalog: Catalog, case: tuple[str, str, dict[str, str | None]]) -> None:
    agrees(catalog, *case)


ROWS = [
    '{"id":1,"i4":1,"txt":"abc","jb":{"kind":"x","n":{"list":[10,20]}},"flag":true}',
    '{"id":2,"i4":2,"txt":"x,y","jb":{"kind":"y"},"flag":false}',
    '{"id":3,"i4":3,"txt":null,"jb":null,"flag":null}',
]


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("or(i4.eq.1,txt.eq.\"x,y\")", [1, 2]),
        ("not.or(i4.eq.1,i4.eq.2)", [3]),
        ("i4=gt.1,or(flag.is.null,txt.like.x%)", [2, 3]),
        ("or(and(i4.gte.1,i4.lt.2),not.and(i4.lt.3,flag.is.not_null))".replace("flag.is.not_null",
        "flag.not.is.null"), [1, 3]), ("jb->>kind=eq.x", [1]),
        ("jb->>kind=not.eq.x", [2]),
        ("jb->n->list->>1=eq.20", [1]),
        ("jb->n->list->0=eq.10", [1]),
        ("jb->>kind=in.(x,y)", [1, 2]),
        ("jb->>kind=is.null", [3]),
        ("jb->>kind=like.%", [1, 2]),
        ("or(jb->>kind.eq.y,i4.eq.3)", [2, 3]),
    ],
)  # fmt: skip
def test_groups_and_paths_pass_what_they_say(catalog: Catalog, text: str, passing: list[int]) -> None:
    judged = catalog.run(catalog.judged(text, [row.encode() for row in ROWS]))
    assert [number for number, passes in enumerate(judged, start=1) if passes] == passing


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("nocol=eq.1", "ERROR P0001 (raise_exception) invalid column for filter nocol"),
        ("ID=eq.1", "ERROR P0001 (raise_exception) invalid column for filter ID"),
        ("i8=eq.abc",
         'ERROR 22P02 (invalid_text_representation) invalid input syntax for type bigint: "abc"'),
        ("txt=match.(",
         "ERROR P0001 (raise_exception) invalid regular expression for match filter: invalid regular "
         "expression: parentheses () not balanced"),
        ("txt=is.maybe",
         "ERROR P0001 (raise_exception) invalid value for is filter: must be null, true, false, or unknown"),
        ("txt=is.true", "ERROR P0001 (raise_exception) is true filter requires a boolean column, got text"),
        ("i8=like.1%",
         "ERROR P0001 (raise_exception) operator like requires a text-compatible column type, got bigint"),
        (f"i8=in.({','.join(map(str, range(102)))})",
         "ERROR P0001 (raise_exception) too many values for `in` filter. Maximum 100"),
        (f"ip=in.({','.join(['::1'] * 101)})",
         "ERROR P0001 (raise_exception) too many values for `in` filter. Maximum 100"),
        ("ip=eq.nowhere",
         'ERROR 22P02 (invalid_text_representation) invalid input syntax for type inet: "nowhere"'),
        ("j=eq.{}", "ERROR 42883 (undefined_function) operator does not exist: json = json"),
        ("tags=in.({a})",
         "ERROR P0001 (raise_exception) `in` filter requires a column that is no array, got text[]"),
        ("txt=like.a\\",
         "ERROR 22025 (invalid_escape_sequence) LIKE pattern must not end with escape character"),
        ("loose=match.a", "ERROR 0A000 (feature_not_supported) nondeterministic collations are not supported"
         " for regular expressions"),
        ("num=eq.1e120000", "ERROR P0001 (raise_exception) a value of the filter on num is too long"),
        (f"num=in.({','.join(['1e120000'] * 1500)})",
         "ERROR P0001 (raise_exception) too many values for `in` filter. Maximum 100"),
        ("txt->a=eq.1",
         "ERROR P0001 (raise_exception) a path into txt needs a json or jsonb column, got text"),
    ],
)  # fmt: skip
def test_a_filter_that_does_not_fit_is_refused_with_the_reason(
    catalog: Catalog, text: str, fault: str
) -> None:
    if text.partition("=")[0] in catalog.missing:
        pytest.skip("this Postgres was built without it")
    with pytest.raises(FilterError) as refused:
        catalog.run(catalog.judged(text, []))
    assert str(refused.value) == fault


def test_what_stands_in_other_columns_is_in_nobodys_way(catalog: Catalog) -> None:
    rows = [rb'{"txt":"abc","j":{"a":"\u0000"},"jb":null}', rb'{"txt":"abc","j":"\ud800"}']
    assert catalog.run(catalog.judged("txt=like.a%", rows)) == [True, True]


def test_names_that_the_questions_use_themselves_are_columns_like_others(catalog: Catalog) -> None:
    rows = [b'{"v":"ab","n":"cd"}', b'{"v":"cd","n":"ab"}']
    assert catalog.run(catalog.judged("v=like.a%,n=like.c%", rows)) == [True, False]


def test_a_type_with_an_odd_name_in_a_schema_with_an_odd_name(catalog: Catalog) -> None:
    rows = [b'{"odd":"one"}', b'{"odd":"two"}']
    assert catalog.run(catalog.judged("odd=eq.one", rows)) == [True, False]
    # Order is Postgres' own to judge.
    assert catalog.run(catalog.judged("odd=gt.one", rows)) == [False, True]


def test_now_is_the_moment_at_which_a_row_is_judged(catalog: Catalog) -> None:
    async def judged() -> list[bool]:
        begun = await catalog.judged("tz=lt.now", [])
        moment = await catalog.connection.fetchval("select to_json(clock_timestamp())::text")
        later = await catalog.judged("tz=lt.now", [f'{{"tz":{moment}}}'.encode()])
        return [*begun, *later]

    assert catalog.run(judged()) == [True]


def test_one_bad_condition_does_not_hide_which_it_was(catalog: Catalog) -> None:
    with pytest.raises(FilterError, match='bigint: "x"'):
        catalog.run(catalog.judged("i4=eq.1,i8=eq.x,txt=eq.a", []))


def test_a_hundred_values_are_not_too_many(catalog: Catalog) -> None:
    values = ",".join(map(str, range(100)))
    rows = [b'{"i4":99}', b'{"i4":100}']
    assert catalog.run(catalog.judged(f"i4=in.({values})", rows)) == [True, False]


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
