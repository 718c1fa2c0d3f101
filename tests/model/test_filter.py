"""Filters: what Supabase accepts and refuses, to the letter; what is read beyond it; the way back to text."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.filter import (
    MAX_CONDITIONS,
    MAX_LENGTH,
    MAX_NESTING,
    MAX_STEPS,
    Condition,
    Filter,
    FilterError,
    Group,
    Op,
    Step,
    conditions,
    parse_filter,
    write_filter,
)

PREFIX = "Error parsing `filter` params: "
EMPTY = "filter must not contain empty segments (check for extra commas)"
BARE_IN = "`in` filter value must be wrapped by parentheses"

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
# Few characters, most of them of the grammar, so that what is drawn often comes close to a filter.
WORDS = 'a;b c;1; ;,;.;=;(;);";\\;->;->>;{;};not.;or(;and=(;a=eq.1;a.eq.1;in.(1,"x");id=in.(;é;\n;\ud800'
SCRAPS = st.lists(st.sampled_from(WORDS.split(";")), max_size=24).map("".join)


def condition(
    column: str, op: Op, value: str, *, path: tuple[Step, ...] = (), negated: bool = False
) -> Condition:
    return Condition(column, path, op, value, negated)


def either(*parts: Filter, negated: bool = False) -> Group:
    return Group(any=True, negated=negated, parts=parts)


def both(*parts: Filter, negated: bool = False) -> Group:
    return Group(any=False, negated=negated, parts=parts)


A = condition("a", Op.EQ, "1")
B = condition("b", Op.GT, "2")


@pytest.mark.parametrize("op", Op)
def test_every_operator_is_read_and_can_be_negated(op: Op) -> None:
    text, value = ("(1,2)", "{1,2}") if op is Op.IN else ("1", "1")
    assert parse_filter(f"id={op}.{text}") == condition("id", op, value)
    assert parse_filter(f"id=not.{op}.{text}") == condition("id", op, value, negated=True)


@pytest.mark.parametrize("text", ["", " ", "\t\n ", "\u2003\u00a0"])
def test_white_space_is_no_filter(text: str) -> None:
    assert parse_filter(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("txt=eq.x,y", '["y"]'),
        ("id= eq.1", '[" eq", "1"]'),
        ("id=EQ.1", '["EQ", "1"]'),
        ("id", '["id"]'),
        ("undefined", '["undefined"]'),
        ("id=foo.1", '["foo", "1"]'),
        ("id=foo.1.5", '["foo", "1.5"]'),
        ("id=", '[""]'),
        ("id=eq", '["eq"]'),
        ("id=not.eq", '["eq"]'),
        ("id=not.not.eq.1", '["not", "eq.1"]'),
        ("or", '["or"]'),
        ("or (a.eq.1)", '["or (a.eq.1)"]'),
        ('a"b', '["a\\"b"]'),
        ("id=in.1,2", BARE_IN),
        ("id=in.(1", BARE_IN),
        ("id=in.(", BARE_IN),
        ('id=in."(1)"', BARE_IN),
        ("id=eq.1,", EMPTY),
        (",id=eq.1", EMPTY),
        ("id=eq.1,,id=lt.2", EMPTY),
        ("id=eq.1, ,id=lt.2", EMPTY),
        (",", EMPTY),
        ("id=foo.1,", '["foo", "1"]'),
    ],
)
def test_what_supabase_refuses_is_refused_in_its_words(text: str, reason: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    assert str(caught.value) == PREFIX + reason


@pytest.mark.parametrize(
    ("text", "column", "op", "value"),
    [
        (" id=eq.1", "id", Op.EQ, "1"),
        ("\u2003id=eq.1\u2003", "id", Op.EQ, "1"),
        ("id=eq. 1", "id", Op.EQ, " 1"),
        ("ID=eq.1", "ID", Op.EQ, "1"),
        ('"id"=eq.1', '"id"', Op.EQ, "1"),
        ("=eq.1", "", Op.EQ, "1"),
        ("id=eq.", "id", Op.EQ, ""),
        ("a.b=eq.1", "a.b", Op.EQ, "1"),
        ("a=eq.b=eq.c", "a", Op.EQ, "b=eq.c"),
        ("ts=eq.2024-06-01 00:00:00+00", "ts", Op.EQ, "2024-06-01 00:00:00+00"),
        ("num=gte.10.5", "num", Op.GTE, "10.5"),
        ("txt=match.(", "txt", Op.MATCH, "("),
        ("txt=eq.(a,b)", "txt", Op.EQ, "(a,b)"),
        ("id=in.()", "id", Op.IN, "{}"),
        ("id=in.(a)b)", "id", Op.IN, "{a)b}"),
        ('txt=in.(abc,"x,y")', "txt", Op.IN, '{abc,"x,y"}'),
        ('txt=in.("a)",b)', "txt", Op.IN, '{"a)",b}'),
        ("or=eq.1", "or", Op.EQ, "1"),
        ("not=is.null", "not", Op.IS, "null"),
    ],
)
def test_one_condition_is_read_to_the_letter(text: str, column: str, op: Op, value: str) -> None:
    assert parse_filter(text) == condition(column, op, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"x,y"', "x,y"),
        (r'"say \"hi\""', 'say "hi"'),
        (r'"a\\b"', r"a\b"),
        (r'"a\b"', "ab"),
        ('""', ""),
        ('"  x "', "  x "),
        ('"(a"', "(a"),
        ('"two\nlines"', "two\nlines"),
        ('"open', '"open'),
        ('"open,b=eq.1', '"open,b=eq.1'),
        ('"a\\"', '"a\\"'),
        ('"a"b', '"a"b'),
        ('a"b"', 'a"b"'),
        ('"', '"'),
    ],
)
def test_a_value_in_quotes_is_unquoted_and_anything_else_is_taken_literally(text: str, value: str) -> None:
    assert parse_filter(f"txt=eq.{text}") == condition("txt", Op.EQ, value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a=eq.1,b=gt.2", (A, B)),
        (" a=eq.1 ,\tb=gt.2 ", (A, B)),
        ('a=eq."1",b=gt.2', (A, B)),
        ("a=eq.x),b=gt.2", (condition("a", Op.EQ, "x)"), B)),
        ("a=in.(1,2),b=gt.2", (condition("a", Op.IN, "{1,2}"), B)),
        ('a=eq.x\\",b=gt.2', (condition("a", Op.EQ, 'x\\"'), B)),
        ('a=eq.x"y,b=gt.2', (condition("a", Op.EQ, 'x"y'), B)),
        ('a=eq.x."y,z",b=gt.2', (condition("a", Op.EQ, 'x."y,z"'), B)),
    ],
)
def test_commas_outside_parentheses_and_quotes_join_conditions(text: str, parts: tuple[Filter, ...]) -> None:
    assert parse_filter(text) == both(*parts)


def test_quotes_in_the_middle_of_a_value_protect_no_comma() -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter('a=eq.x"y,z"')
    assert str(caught.value) == PREFIX + '["z\\""]'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("or(a.eq.1,b.gt.2)", either(A, B)),
        ("or=(a.eq.1,b.gt.2)", either(A, B)),
        ("and(a.eq.1,b.gt.2)", both(A, B)),
        ("not.or(a.eq.1,b.gt.2)", either(A, B, negated=True)),
        ("not.and=(a.eq.1,b.gt.2)", both(A, B, negated=True)),
        ("not.and(a.eq.1)", both(A, negated=True)),
        ("or(a.eq.1)", A),
        (" or( a.eq.1 ,\tb.gt.2 ) ", either(A, B)),
        ("a=eq.1,or(a.eq.1,b.gt.2)", both(A, either(A, B))),
        ("or(a.eq.1,b.gt.2) , a=eq.1", both(either(A, B), A)),
        ("or(and(a.eq.1,b.gt.2),not.or=(a.eq.1,b.gt.2))", either(both(A, B), either(A, B, negated=True))),
        ("or(a.not.eq.1,b.gt.2)", either(condition("a", Op.EQ, "1", negated=True), B)),
        ('or("a,b.c".eq.1,b.gt.2)', either(condition("a,b.c", Op.EQ, "1"), B)),
        (r'or("a\"".eq.1,b.gt.2)', either(condition('a"', Op.EQ, "1"), B)),
        ('or( "a)".eq.1, b.gt.2)', either(condition("a)", Op.EQ, "1"), B)),
        ('or(a.eq."x),y",b.gt.2)', either(condition("a", Op.EQ, "x),y"), B)),
        ("or(a.eq.f(x,y),b.gt.2)", either(condition("a", Op.EQ, "f(x,y)"), B)),
        ('or(a.in.(1,"x)"),b.gt.2)', either(condition("a", Op.IN, '{1,"x)"}'), B)),
        ("or(or.eq.1,not.eq.2)", either(condition("or", Op.EQ, "1"), condition("not", Op.EQ, "2"))),
        ("or=(a.eq.b=eq.c,b.gt.2)", either(condition("a", Op.EQ, "b=eq.c"), B)),
        ('a=in."{(}"', condition("a", Op.IN, "{(}")),
    ],
)
def test_groups_are_read_as_postgrest_reads_them(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("data->>kind", (Step(True, "kind"),)),
        ("data->a->0->>b", (Step(False, "a"), Step(False, 0), Step(True, "b"))),
        ("data->-1", (Step(False, -1),)),
        ("data->00", (Step(False, 0),)),
        ('data->"0"', (Step(False, "0"),)),
        ("data->2147483648", (Step(False, "2147483648"),)),
        ('data->>"a.b"', (Step(True, "a.b"),)),
        ('data->>"a->b"', (Step(True, "a->b"),)),
        ('data->""', (Step(False, ""),)),
        ("data->a-b", (Step(False, "a-b"),)),
        ("data->>é", (Step(True, "é"),)),
    ],
)
def test_a_path_leads_into_json_alone_and_in_groups(text: str, path: tuple[Step, ...]) -> None:
    expected = condition("data", Op.EQ, "x", path=path)
    assert parse_filter(f"{text}=eq.x") == expected
    assert parse_filter(f"or({text}.eq.x,a.eq.1)") == either(expected, A)


def test_what_supabase_accepts_keeps_its_meaning_where_the_grammars_collide() -> None:
    assert parse_filter("or(a.eq.b=eq.c)") == condition("or(a.eq.b", Op.EQ, "c)")
    assert parse_filter("and(a=not.in.(1)") == condition("and(a", Op.IN, "{1}", negated=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("or(a.eq.1", "`or(` is never closed: add the `)` that is missing"),
        ("not.and=(a.eq.1,or(b.gt.2)", "`not.and=(` is never closed: add the `)` that is missing"),
        ("or()", EMPTY),
        ("or(a.eq.1,)", EMPTY),
        ("or(a.eq.1),", EMPTY),
        ("or(a.eq.1)x", "only a comma may follow a group, not `x`"),
        ("or(a.eq.1))", "only a comma may follow a group, not `)`"),
        ("or(and(a.eq.1)x)", "only a comma may follow a group, not `x)`"),
        ('or(a.eq."x)', 'a double quote is never closed: `"x)`'),
        ("or(a)", "`a` is no condition: in a group it is column.operator.value, with one of"),
        ("or(.eq.1)", "`.eq.1` is no condition: in a group it is column.operator.value, with one of"),
        ("or(a.foo.1)", "`a.foo.1` is no condition: in a group it is column.operator.value, with one of"),
        ("or=(a=eq.1)", "`a=eq.1` is no condition: in a group it is column.operator.value, with one of"),
        ('or("a"b.eq.1)', '`"a"b.eq.1` is no condition: in a group it is column.operator.value, with one of'),
        ("or(a.in.1)", BARE_IN),
        ("or(a->.eq.1)", "`a->.eq.1` is no path into JSON: it is column->key->>key, with a key"),
        ("a->=eq.1", "`a->` is no path into JSON: it is column->key->>key, with a key"),
        ("a->b->>=eq.1", "`a->b->>` is no path into JSON: it is column->key->>key, with a key"),
        ("->a=eq.1", "`->a` is no path into JSON: it is column->key->>key, with a key"),
        ("a->b.c=eq.1", "`a->b.c` is no path into JSON: it is column->key->>key, with a key"),
        ('a->"b=eq.1', '`a->"b` is no path into JSON: it is column->key->>key, with a key'),
        ("or(a.eq.1),id=foo.1", '["foo", "1"]'),
        (f"or({'x' * 100})", f"`{'x' * 60}…` is no condition"),
        ("a=eq.\0", "filter must not contain a NUL character"),
    ],
)
def test_what_is_malformed_beyond_supabase_is_refused_with_what_to_mend(text: str, reason: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    assert str(caught.value).startswith(PREFIX + reason)


def test_groups_may_be_nested_so_deep_and_no_deeper() -> None:
    def nested(levels: int) -> str:
        return "not.or(" * levels + "a.eq.1" + ")" * levels

    assert parse_filter(nested(MAX_NESTING)) is not None
    with pytest.raises(FilterError, match=f"nested more than {MAX_NESTING} deep"):
        parse_filter(nested(MAX_NESTING + 1))


@pytest.mark.parametrize(("begin", "between", "end"), [("", "=", ""), ("or(", ".", ")")])
def test_conditions_and_steps_are_bounded(begin: str, between: str, end: str) -> None:
    def many(count: int) -> str:
        return begin + ",".join([f"a{between}eq.1"] * count) + end

    def long(steps: int) -> str:
        return f"{begin}a{'->b' * steps}{between}eq.1{end}"

    found = parse_filter(many(MAX_CONDITIONS))
    assert found is not None
    assert len(list(conditions(found))) == MAX_CONDITIONS
    assert isinstance(parse_filter(long(MAX_STEPS)), Condition)
    with pytest.raises(FilterError, match=f"may have {MAX_CONDITIONS} conditions"):
        parse_filter(many(MAX_CONDITIONS + 1))
    with pytest.raises(FilterError, match=f"may have {MAX_STEPS} steps"):
        parse_filter(long(MAX_STEPS + 1))


def test_conditions_are_counted_over_all_groups() -> None:
    group = "or(" + ",".join(["a.eq.1"] * 60) + ")"
    with pytest.raises(FilterError, match=f"may have {MAX_CONDITIONS} conditions"):
        parse_filter(f"{group},{group}")


def test_all_conditions_are_yielded_from_left_to_right() -> None:
    found = parse_filter("a=eq.1,not.or(b.gt.2,and(a.eq.1,b.gt.2))")
    assert found is not None
    assert list(conditions(found)) == [A, B, A, B]


@pytest.mark.parametrize(
    ("filter_", "text"),
    [
        (A, "a=eq.1"),
        (both(A, B), "a=eq.1,b=gt.2"),
        (either(A, both(A, B)), "or=(a.eq.1,and(a.eq.1,b.gt.2))"),
        (both(A, negated=True), "not.and=(a.eq.1)"),
        (condition("a b", Op.IN, '{1,"x,y"}', negated=True), 'and=("a b".not.in.(1,"x,y"))'),
        (condition("a", Op.EQ, 'x,"\\'), 'a=eq."x,\\"\\\\"'),
        (condition("d", Op.EQ, "x", path=(Step(False, 0), Step(True, "k"))), "d->0->>k=eq.x"),
        (condition("d", Op.EQ, "x", path=(Step(True, "0"),)), 'and=(d->>"0".eq.x)'),
    ],
)
def test_a_filter_is_written_as_shortly_as_it_can_be_read(filter_: Filter, text: str) -> None:
    assert write_filter(filter_) == text


STEPS = st.builds(Step, text=st.booleans(), key=TEXTS | st.integers(-(2**31) + 1, 2**31 - 1))


@st.composite
def single(draw: st.DrawFn) -> Condition:
    op = draw(st.sampled_from(Op))
    value = draw(TEXTS | SCRAPS)
    path = tuple(draw(st.lists(STEPS, max_size=3)))
    return Condition(
        draw(TEXTS | SCRAPS | st.sampled_from(["a", "or", "not"])),
        path,
        op,
        "{" + value + "}" if op is Op.IN else value,
        draw(st.booleans()),
    )


def groups(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Group]:
    def build(negated: bool) -> st.SearchStrategy[Group]:
        members = st.lists(parts, min_size=1 if negated else 2, max_size=4).map(tuple)
        return st.builds(Group, any=st.booleans(), negated=st.just(negated), parts=members)

    return st.booleans().flatmap(build)


@given(filter_=st.recursive(single(), groups, max_leaves=12))
def test_what_is_written_is_read_back(filter_: Filter) -> None:
    assert parse_filter(write_filter(filter_)) == filter_


@given(text=st.text(max_size=80) | SCRAPS)
def test_any_text_is_a_filter_that_can_be_written_or_is_refused(text: str) -> None:
    try:
        found = parse_filter(text)
    except FilterError:
        return
    if found is not None:
        assert parse_filter(write_filter(found)) == found


def test_a_filter_has_a_bounded_length() -> None:
    fits = "a=eq." + "x" * (MAX_LENGTH - 5)
    assert parse_filter(fits) == Condition("a", (), Op.EQ, fits[5:], False)
    with pytest.raises(FilterError, match="may have 16384 characters, and has 16385"):
        parse_filter(fits + "x")
