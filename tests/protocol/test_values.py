"""Values rewritten for the wire: what changes, what stays the bytes it was, and that nothing fails."""

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.change import Column, Relation
from rowcast.model.shape import ANY, ArrayShape, RowShape, Shape
from rowcast.protocol.values import LARGEST_EXPONENT, plain, rewrite_of, split

NAMES = st.text(st.characters(codec="utf-8"), max_size=6)
WORDS = st.sampled_from(["int4", "text", "numeric", "float8", "bytea", "json", "jsonb", "other", ANY])
SHAPES: st.SearchStrategy[Shape | None] = st.none() | st.recursive(
    WORDS,
    lambda inner: st.one_of(
        st.builds(ArrayShape, inner),
        st.builds(
            RowShape, st.lists(st.tuples(NAMES, inner), max_size=4, unique_by=lambda f: f[0]).map(tuple)
        ),
    ),
    max_leaves=6,
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(["\\x", "\\xAB", "NaN", "Infinity", "-Infinity"])
)
# Python's json reads and writes one half of a surrogate pair, as an escape; UTF-8 cannot hold it.
HALVES = st.text(st.sampled_from('\ud800\udbff\udc00\udfffa\\"/'), max_size=4)


def json_of(scalars: st.SearchStrategy[Any], names: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
        max_leaves=12,
    )


JSON = json_of(SCALARS, st.text(max_size=4))
ANY_JSON = json_of(SCALARS | HALVES, st.text(max_size=4) | HALVES)


def relation(*columns: tuple[str, Shape | None], omitted: frozenset[str] = frozenset()) -> Relation:
    described = tuple(Column(name, "type", shape) for name, shape in columns)
    return Relation(1, 1, "public", "t", described, frozenset(), omitted)


def rewritten(image: bytes, *columns: tuple[str, Shape | None]) -> bytes:
    rewrite = rewrite_of(relation(*columns), {name for name, _ in columns})
    return image if rewrite is None else rewrite(image)


def value(shape: Shape | None, text: bytes) -> bytes:
    """What becomes of one value."""
    return rewritten(b'{"v":' + text + b"}", ("v", shape))[5:-1]


@pytest.mark.parametrize(
    ("shape", "before", "after"),
    [
        ("bytea", rb'"\\xdeadbeef00ff"', b'"deadbeef00ff"'),
        ("bytea", rb'"\\x"', b'""'),
        ("bytea", b"null", b"null"),
        ("text", rb'"\\xdead"', rb'"\\xdead"'),
        ("numeric", b'"NaN"', b"null"),
        ("numeric", b'"-Infinity"', b"null"),
        ("numeric", b"12345678901234567890.1234567890", b"12345678901234567890.1234567890"),
        ("float4", b'"Infinity"', b"null"),
        ("float8", b"1.5e+300", b"15" + b"0" * 299),
        ("float8", b"1e-07", b"0.0000001"),
        ("float8", b"-1.25e-07", b"-0.000000125"),
        ("float8", b"5e-324", b"0." + b"0" * 323 + b"5"),
        ("float8", b"-0", b"0"),
        ("float8", b"-0.5", b"-0.5"),
        ("float8", b"null", b"null"),
        ("float8", b"true", b"true"),
        ("text", b'"NaN"', b'"NaN"'),
        ("json", b' { "bb" : 1e3 ,\n"a":[ -0, 1.50e1,{}], "bb":-0.00 } ', b'{"a":[0,15.0,{}],"bb":0.00}'),
        ("json", b'{"\\u00e9":1,"zz":2,"z":3}', '{"z":3,"zz":2,"é":1}'.encode()),
        ("json", b'"1e3"', b'"1e3"'),
        ("json", b"9" * 5000, b"9" * 5000),
        ("jsonb", b'{"bb": 1, "a": 2}', b'{"bb": 1, "a": 2}'),
        (ANY, b'{"bb":1,"a":"2"}', b'{"a":"2","bb":1}'),
        (ANY, b'"as text"', b'"as text"'),
        ("other", b'"as text"', b'"as text"'),
        (ArrayShape("int4"), b"[1,null]", b"[1,null]"),
        (ArrayShape("numeric"), b'[1.10,"NaN",null]', b"[1.10,null,null]"),
        (ArrayShape("float8"), b"[[1e+20,-0],[0.1,null]]", b"[[100000000000000000000,0],[0.1,null]]"),
        (ArrayShape("bytea"), rb'["\\xab",null]', b'["ab",null]'),
        (ArrayShape("bytea"), b"[]", b"[]"),
        (ArrayShape("bytea"), b"null", b"null"),
        (ArrayShape(ArrayShape("bytea")), rb'[["\\xab"],null,["\\x"]]', b'[["ab"],null,[""]]'),
        (ArrayShape("json"), b'[{"bb":1,"a":2},[ 1e1 ]]', b'[{"a":2,"bb":1},[10]]'),
        (RowShape((("a", "int4"), ("b", "text"))), b'{"a":1,"b":"x"}', b'{"a":1,"b":"x"}'),
        (RowShape((("bb", "int4"), ("a", "bytea"))), rb'{"bb":1,"a":"\\x01"}', b'{"a":"01","bb":1}'),
        (RowShape((("a", "bytea"),)), b"null", b"null"),
        (
            RowShape((("a", "bytea"),)),
            rb'{"a":"\\x01","c":2,"b":{"y" : 1}}',
            b'{"a":"01","b":{"y" : 1},"c":2}',
        ),
        (RowShape((("a", "bytea"), ("b", "text"))), b'{"b":"x"}', b'{"b":"x"}'),
        (ArrayShape(RowShape((("a", "float4"),))), b'[{"a":"NaN"},null]', b'[{"a":null},null]'),
        (None, rb'"\\xdead"', rb'"\\xdead"'),
    ],
)
def test_a_value_becomes_what_the_wire_has(shape: Shape | None, before: bytes, after: bytes) -> None:
    assert value(shape, before) == after


@pytest.mark.parametrize("text", ["1e401", "-2.5E+99999", "1e-401", "1e9999999999999999999999"])
def test_a_number_of_json_that_would_be_very_long_keeps_its_exponent(text: str) -> None:
    assert value("json", b"[" + text.encode() + b"]") == b"[" + text.encode() + b"]"
    assert len(plain(f"1e{LARGEST_EXPONENT}")) == LARGEST_EXPONENT + 1


@given(st.decimals(allow_nan=False, allow_infinity=False, places=None), st.integers(-400, 400))
def test_a_plain_number_has_the_same_value_and_no_exponent(mantissa: Any, exponent: int) -> None:
    text = f"{mantissa:f}e{exponent}"
    result = plain(text)
    assert re.fullmatch(r"(?!-[0.]+$)-?\d+(\.\d+)?", result)
    assert type(mantissa)(result) == type(mantissa)(text)


def test_a_row_that_needs_nothing_is_not_even_parsed() -> None:
    columns: list[tuple[str, Shape | None]] = [("a", "int4"), ("b", "text"), ("aa", ArrayShape("int4"))]
    assert rewrite_of(relation(*columns), {"a", "b", "aa"}) is None
    assert rewrite_of(relation(*columns), {"a", "b"}) is not None
    assert rewrite_of(relation(*reversed(columns)), {"a", "b", "aa"}) is not None
    assert rewrite_of(relation(*columns, omitted=frozenset({"c"})), {"a", "b", "aa"}) is not None


def test_only_the_named_columns_are_shown_and_no_other_that_the_row_has() -> None:
    rewrite = rewrite_of(relation(("id", "int4"), ("b", "text"), ("c", "text")), {"c", "id", "unheard of"})
    assert rewrite is not None
    assert rewrite(b'{"id":1,"b":"hidden","c":"x","new":2}') == b'{"c":"x","id":1}'
    nothing = rewrite_of(relation(("id", "int4")), set())
    assert nothing is not None
    assert nothing(b'{"id":1}') == b"{}"


@given(st.dictionaries(NAMES, JSON, max_size=6), st.randoms())
def test_values_that_need_nothing_stay_byte_for_byte_in_jsonbs_order(
    row: dict[str, Any], random: Any
) -> None:
    texts = {name: json.dumps(value, indent=random.choice([None, 1])).encode() for name, value in row.items()}
    image = b"{" + b" , ".join(json.dumps(name).encode() + b": " + texts[name] for name in texts) + b"}"
    rewrite = rewrite_of(relation(*((name, "jsonb") for name in texts), ("zzzzzzz", None)), set(texts))
    assert rewrite is not None
    shown = msgspec.json.decode(rewrite(image), type=dict[str, msgspec.Raw])
    assert {name: bytes(raw) for name, raw in shown.items()} == texts
    assert list(shown) == sorted(texts, key=lambda name: (len(name.encode()), name.encode()))


@given(
    st.dictionaries(NAMES | HALVES, ANY_JSON, max_size=6),
    st.lists(st.tuples(NAMES, SHAPES), max_size=6, unique_by=lambda column: column[0]),
    st.sets(NAMES),
    st.booleans(),
)
def test_no_json_object_makes_a_rewriting_fail_whatever_it_was_said_to_be(
    row: dict[str, Any], columns: list[tuple[str, Shape | None]], names: set[str], aligned: bool
) -> None:
    if aligned:
        known = [name for name in row if name.encode(errors="ignore").decode() == name]
        columns = [(name, shape) for name, (_, shape) in zip(known, columns, strict=False)]
        names = {name for name, _ in columns}
    rewrite = rewrite_of(relation(*columns), names)
    image = json.dumps(row).encode()
    # Two halves that happen to meet are one character.
    row = json.loads(image)
    assert {name: json.loads(bytes(text)) for name, text in split(image).items()} == row
    if rewrite is not None:
        shown = json.loads(rewrite(image))
        assert set(shown) == names & set(row) & {name for name, _ in columns}


@pytest.mark.parametrize("depth", [10, 990, 3000, 100_000])
def test_values_nested_deeper_than_any_parser_goes_stay_as_they_are(depth: int) -> None:
    deep = b'[{"zz":' * depth + b'"]}\\"{["' + b"}]" * depth
    image = b'{"zz" : ' + deep + rb' , "a" :"\\xab","j":' + deep + b', "l":[' + deep + b'],"n":{}}'
    assert {name: bytes(text) for name, text in split(image).items()} == {
        "zz": deep, "a": rb'"\\xab"', "j": deep, "l": b"[" + deep + b"]", "n": b"{}",
    }  # fmt: skip
    columns: list[tuple[str, Shape | None]] = [
        ("zz", "jsonb"),
        ("a", "bytea"),
        ("j", "json"),
        ("l", ArrayShape("bytea")),
        ("n", RowShape(())),
    ]
    ends = b'"l":[' + deep + b'],"n":{},"zz":' + deep + b"}"
    assert rewritten(image, *columns) == b'{"a":"ab","j":' + deep + b"," + ends


def test_an_empty_object_has_no_values_and_what_is_no_object_is_refused() -> None:
    assert split(b" { } ") == {}
    with pytest.raises(ValueError, match="object"):
        split(b"[]")


OTHER = RowShape((("of another row", "bytea"),))
HALF = rb'"\ud800"'
READABLE = rb'{ "zz":1,"a":"\ud83d\ude00" }'


@pytest.mark.parametrize(
    "half", [HALF, rb'"x\udc00"', rb'{"zz":1,"\ud800":2,"a":[]}', rb'[1,["\uDFFF\ud800"]]']
)
@pytest.mark.parametrize("shape", ["json", "jsonb", ANY, "other", ArrayShape("json"), OTHER, None])
def test_a_value_with_half_of_a_surrogate_pair_stays_as_it_is_and_its_row_is_read(
    shape: Shape | None, half: bytes
) -> None:
    image = b'{"j":' + half + rb',"b":"\\xab","f":1e5}'
    assert {name: bytes(text) for name, text in split(image).items()} == {
        "j": half, "b": rb'"\\xab"', "f": b"1e5",
    }  # fmt: skip
    if shape is OTHER and half.startswith(b"{"):
        half = rb'{"a":[],"zz":1,"\ud800":2}'
    assert rewritten(image, ("j", shape), ("b", "bytea"), ("f", "float8")) == (
        b'{"b":"ab","f":100000,"j":' + half + b"}"
    )


def test_half_of_a_surrogate_pair_in_a_composite_or_an_array_leaves_alone_what_cannot_be_read() -> None:
    composite = RowShape((("j", "json"), ("b", "bytea"), ("k", "json")))
    before = b'{"j":' + HALF + rb',"b":"\\xab","k":' + READABLE + b"}"
    after = '{"b":"ab","j":"\\ud800","k":{"a":"\U0001f600","zz":1}}'.encode()
    assert value(composite, before) == after
    assert value(
        RowShape((("zz", composite), ("c", "json"))), b'{"zz":' + before + b',"c":' + HALF + b"}"
    ) == (b'{"c":' + HALF + b',"zz":' + after + b"}")
    array = rb'["\\xab",' + HALF + b"]"
    assert value(ArrayShape("bytea"), array) == array
    assert value(ArrayShape(composite), b"[" + before + b"]") == b"[" + before + b"]"


def test_what_is_no_object_is_refused_also_where_it_cannot_be_read() -> None:
    for text in (b"[" + HALF + b"]", HALF, b"", b"nonsense"):
        with pytest.raises(ValueError, match="object"):
            split(text)
