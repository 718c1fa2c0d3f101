"""Filters mean what Postgres means: every operator on every type, judged here and there alike."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcast.capture.filters import FilterError
from support.catalog import VALUES, Catalog, quoted

ORDERED = ["eq", "neq", "lt", "lte", "gt", "gte", "in", "isdistinct", "is"]
PATTERNS = ["like", "ilike", "match", "imatch"]
#: An array of arrays is no type of Postgres: `in` is refused.
ARRAYS = {"tags", "nums"}
TEXTUAL = {"txt", "vc", "bp", "ci"}
SQL = {
    "eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "isdistinct": "is distinct from",
    "like": "like", "ilike": "ilike", "match": "~", "imatch": "~*",
}  # fmt: skip


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
