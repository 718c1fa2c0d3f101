"""What rows of every type become on the wire, against what Postgres' own ``to_jsonb`` makes of them."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.databases import run_apart
from support.rows import TYPES, make, shown

pytestmark = pytest.mark.anyio

#: Types with values of them, as literals.
VALUES: Mapping[str, Sequence[str]] = {
    "int2": ["-32768", "32767"],
    "int4": ["-2147483648", "0"],
    "int8": ["9007199254740993", "-9223372036854775808"],
    "oid": ["4294967295"],
    "numeric": [
        "12345678901234567890.123456789",
        "1.10",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e300",
        "1e-20",
        "-0",
    ],
    "float4": ["0.1", "1e20", "-1.5e-10", "NaN", "Infinity", "-Infinity", "-0", "3.4028235e38"],
    "float8": ["0.1", "1.5e300", "5e-324", "1e-7", "NaN", "Infinity", "-Infinity", "-0", "1e15", "1e16"],
    "bool": ["true", "false"],
    "text": ["", 'héllo "q" \\ € 😀', "\\xdead", "NaN", "\u0001\t\n\u2028\x7f", "null", "[1]"],
    "varchar(4)": ["v"],
    "char(4)": ["ab"],
    "name": ["a name"],
    '"char"': ["c", ""],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "bytea": ["\\xdeadbeef00ff", "", "\\x"],
    "date": ["2024-02-29", "infinity", "0044-03-15 BC", "12345-01-01"],
    "time": ["12:34:56.5", "24:00"],
    "timetz": ["12:34:56.789012+05:30"],
    "timestamp": ["2024-02-29 12:34:56.789012", "-infinity", "0044-03-15 12:00 BC"],
    "timestamptz": ["2024-02-29 12:34:56.789012+02", "infinity", "-infinity"],
    "interval": ["1 day 02:03:04", "-1 year 3 mons", "0"],
    "inet": ["10.1.2.3/24", "::1"],
    "cidr": ["10.1.0.0/16"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "point": ["(1.5,2)", "(1e300,-0)"],
    "line": ["{1,2,3}"],
    "lseg": ["[(0,0),(1,1)]"],
    "box": ["(1,1),(0,0)"],
    "path": ["[(0,0),(1,1)]"],
    "polygon": ["((0,0),(1,1),(1,0))"],
    "circle": ["<(0,0),1>"],
    "bit(3)": ["101"],
    "varbit": ["10"],
    "money": ["1234.5"],
    "tsvector": ["a:1 'b c':2"],
    "tsquery": ["a & 'b'"],
    "json": [
        '{"z" : 1, "a":  2, "z":[1e3, -0, {"bb":1,"b":"\\u00e9\\/"}]}',
        "1.5e1",
        '"x"',
        "null",
        "[ ]",
        "true",
    ],
    "jsonb": ['{"bb":1,"a":[1e3,{"b":null}],"big":9007199254740993}', "null", '"NaN"', "1.50"],
    "jsonpath": ["$.a[*]"],
    "pg_lsn": ["16/B374D848"],
    "pg_snapshot": ["10:20:10,14"],
    "xid8": ["42"],
    "tid": ["(1,2)"],
    "regclass": ["pg_class"],
    "int2vector": ["1 2"],
    "oidvector": ["1 2"],
    "int4range": ["[1,10)", "empty"],
    "numrange": ["(,1.50]"],
    "tstzrange": ["[2024-01-01 00:00+01,)"],
    "int4multirange": ["{[1,3),[5,9)}"],
    "mood": ["ok", 'with "quote"'],
    "int4[]": ["{}", "{1,null,3}", "{{1,null},{3,4}}", "[0:1]={1,2}", "{{{1},{2}}}"],
    "text[]": ['{x,"y z","with \\"quote\\"",null,NULL,"null"}', "{{a},{b}}"],
    "numeric[]": ["{1.10,NaN,null,-Infinity}", "{{NaN},{1}}"],
    "float8[]": ["{1e300,-0,NaN,0.1}"],
    "bytea[]": ['{"\\\\xab",null,"\\\\x"}', '{{"\\\\x01"},{"\\\\x02"}}'],
    "timestamptz[]": ["{2024-01-01 00:00+01,infinity}"],
    "json[]": ['{"{\\"z\\":1,\\"a\\": 1e1}","[1,  2]",null}', '{{"[1e1]"},{"2"}}'],
    "jsonb[]": ['{"{\\"zz\\":1,\\"a\\":2}",null}'],
    "mood[]": ["{sad,ok}"],
    "int4range[]": ['{"[1,2)",null}'],
    "point[]": ['{"(1,2)"}'],
    "amount": ["1.10", "NaN"],
    "exact_amount[]": ["{1.10,NaN}"],
    "bytes": ["\\xab"],
    "bytes[]": ['{"\\\\xab"}'],
    "document": ['{"zz":1,"a":1e1}'],
    "document[]": ['{"{\\"zz\\":1,\\"a\\":1e1}"}'],
    "days": ["{2024-01-01}"],
    "numbers": ["{NaN,1e20}"],
    "numbers[]": ['{"{NaN,1e20}","{{1},{-0}}",null}', '{{"{NaN}"},{"{1,2}"}}'],
    "place": ["(1e-7,2024-01-01,)", "(,,)"],
    "place[]": ['{"(1e20,infinity,1)",null}'],
    "visit": ['(Ann,"{""(-0,2024-01-01,3)""}","{""zz"":1,""a"":1e1}","zz=>1,a=>NULL")'],
    "checked_visit[]": ['{"(Ann,,,)",null}'],
    "hstore": ["zz=>1,a=>NULL,b=>x"],
    "hstore[]": ['{"zz=>1,a=>NULL"}'],
    "map": ["zz=>1, a=>2"],
    "citext": ["MiXed"],
    "citext[]": ["{MiXed}"],
    "tint": ["red"],
    "tint[]": ["{red,null}"],
}

#: Of these, the text of a value is cut by what to_jsonb puts before the hex.
BINARY = {"bytea", "bytea[]", "bytes", "bytes[]"}
#: Of these, strings mean what JSON has no number for.
NUMERIC = {
    "numeric", "float4", "float8", "numeric[]", "float8[]", "amount", "exact_amount[]", "numbers",
    "numbers[]",
}  # fmt: skip


class Pairs(list[tuple[str, Any]]):
    """An object whose order counts."""


def exactly(text: str | bytes) -> Any:
    """JSON with every digit of its numbers, and the order of its keys."""
    return json.loads(
        text, parse_int=Decimal, parse_float=lambda digits: ("number", digits), object_pairs_hook=Pairs
    )


def expected(type_: str, value: Any) -> Any:
    """What the wire has of a value that to_jsonb made."""
    match value:
        case Pairs() | tuple():
            return value
        case list():
            return [expected(type_, element) for element in value]
        case str() if type_ in BINARY:
            return value.removeprefix("\\x")
        case str() if type_ in NUMERIC:
            return None
        case _:
            return value


def record(data: bytes) -> Pairs:
    read: Pairs = dict(exactly(data))["record"]
    return read


async def as_to_jsonb(connection: asyncpg.Connection, types: Mapping[str, str]) -> list[Pairs]:
    """The rows of ``every``, in their order, as the wire should have them."""
    await connection.execute("set timezone = 'UTC'; set bytea_output = 'hex'; set lc_monetary = 'C'")
    rows = [
        exactly(row[0])
        for row in await connection.fetch("select to_jsonb(e)::text from every as e order by n")
    ]
    return [Pairs((name, expected(types.get(name, ""), value)) for name, value in row) for row in rows]


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def test_values_of_every_type_are_what_to_jsonb_makes_of_them(capturing: asyncpg.Connection) -> None:
    await capturing.execute(TYPES)
    types = {f"c{'x' * (n % 3)}{n}": type_ for n, type_ in enumerate(VALUES)}
    await make(capturing, types)
    for (name, type_), values in zip(types.items(), VALUES.values(), strict=True):
        for value in values:
            await capturing.execute(f"insert into every ({name}) values (cast($1::text as {type_}))", value)
    wanted = await as_to_jsonb(capturing, types)
    found = [record(data) for data in await shown(capturing)]
    assert len(found) == sum(map(len, VALUES.values()))
    for have, want in zip(found, wanted, strict=True):
        assert have == want


async def test_xml_is_its_text(capturing: asyncpg.Connection) -> None:
    try:
        await capturing.execute("select '<a/>'::xml")
    except asyncpg.FeatureNotSupportedError:
        pytest.skip("this Postgres was built without libxml")
    await make(capturing, {"x": "xml"})
    await capturing.execute("insert into every (x) values ('<a b=\"c\">€</a>')")
    assert [record(data) for data in await shown(capturing)] == await as_to_jsonb(capturing, {})


DIGITS = st.decimals(allow_nan=True, allow_infinity=False, places=None).map(
    lambda number: "NaN" if number.is_nan() else str(number)
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NUMBER = st.integers().map(str) | st.from_regex(
    r"-?(0|[1-9][0-9]{0,9})(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?", fullmatch=True
)
SPACE = st.sampled_from(["", " ", "\n\t"])
WRITTEN = st.recursive(
    st.sampled_from(["null", "true", "false"])
    | NUMBER
    | TEXT.map(json.dumps)
    | TEXT.map(lambda text: json.dumps(text, ensure_ascii=False)),
    lambda inner: (
        st.tuples(SPACE, st.lists(inner, max_size=4)).map(lambda p: f"[{f'{p[0]},{p[0]}'.join(p[1])}]")
        | st.tuples(SPACE, st.lists(st.tuples(st.text("abé", max_size=3) | TEXT, inner), max_size=5)).map(
            lambda p: "{" + p[0] + ",".join(f"{json.dumps(key)}{p[0]}:{value}" for key, value in p[1]) + "}"
        )
    ),
    max_leaves=10,
)  # fmt: skip
FLOATS = st.floats().map(repr)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "number": DIGITS,
            "f8": FLOATS,
            "f4": st.floats(width=32).map(repr),
            "t": TEXT,
            "raw": st.binary(max_size=9).map(lambda data: "\\x" + data.hex()),
            "document": WRITTEN,
            "map": WRITTEN,
            "many": st.lists(FLOATS, max_size=4).map(lambda of: "{" + ",".join(of) + "}"),
            "at": st.datetimes().map(str),
        }
    ),
    min_size=1,
    max_size=20,
)
GENERATED = {
    "number": "numeric", "f8": "float8", "f4": "float4", "t": "text", "raw": "bytea", "document": "json",
    "map": "jsonb", "many": "float8[]", "at": "timestamptz",
}  # fmt: skip


def test_values_of_any_kind_are_what_to_jsonb_makes_of_them(migrated: str) -> None:
    async def setting_up() -> None:
        async with connected(migrated) as connection:
            await connection.execute("select rowcast.renew_lease(3600)")
            await make(connection, GENERATED)

    async def holds(rows: list[dict[str, str]]) -> None:
        async with connected(migrated) as connection:
            await compare(connection, rows)

    async def compare(connection: asyncpg.Connection, rows: list[dict[str, str]]) -> None:
        await connection.execute("delete from every; truncate rowcast.outbox_0")
        names = ", ".join(GENERATED)
        casts = ", ".join(f"cast(${n}::text as {type_})" for n, type_ in enumerate(GENERATED.values(), 1))
        await connection.executemany(
            f"insert into every ({names}) values ({casts})",
            [[row[name] for name in GENERATED] for row in rows],
        )
        wanted = await as_to_jsonb(connection, GENERATED)
        assert [record(data) for data in await shown(connection)] == wanted

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ROWS)
    def check(rows: list[dict[str, str]]) -> None:
        run_apart(holds(rows))

    run_apart(setting_up())
    check()


async def test_the_rules_reach_into_composites_and_arrays_of_them(capturing: asyncpg.Connection) -> None:
    await capturing.execute("""
        create domain bytes as bytea;
        create type part as (name text, raw bytes, size float4, doc json, "quoted ""name" numeric[]);
        create type whole as (zz int, parts part[]);
        create table every (id int primary key, w whole, cut text);
        alter publication supabase_realtime add table every;
        insert into every values
          (1, row(2, array[row('\\x01', '\\x02', 'NaN', '{"b":1e1,"a":0}', '{1.10,NaN}')::part, null]), 'x'),
          (2, null, null);
    """)
    first, second = (json.dumps(dict(json.loads(data))["record"]) for data in await shown(capturing))
    assert first == json.dumps(
        {"w": {"zz": 2, "parts": [
            {
                "doc": {"a": 0, "b": 10}, "raw": "02", "name": "\\x01", "size": None,
                'quoted "name': [1.1, None],
            },
            None,
        ]}, "id": 1, "cut": "x"}
    )  # fmt: skip
    assert second == json.dumps({"w": None, "id": 2, "cut": None})


async def test_composites_nested_deeper_than_is_described_are_any_json(capturing: asyncpg.Connection) -> None:
    levels = "create type level0 as (zz int, a float8);"
    levels += "".join(f"create type level{n} as (zz int, a level{n - 1});" for n in range(1, 12))
    await capturing.execute(levels)
    value = "row(0, 1e20)::level0"
    for n in range(1, 12):
        value = f"row({n}, {value})::level{n}"
    await make(capturing, {"deep": "level11"})
    await capturing.execute(f"insert into every (deep) values ({value})")
    assert [record(data) for data in await shown(capturing)] == await as_to_jsonb(capturing, {})


async def test_a_composite_that_gets_a_field_shows_it_at_once(capturing: asyncpg.Connection) -> None:
    await capturing.execute("create type part as (zz int, raw bytea)")
    await make(capturing, {"p": "part"})
    await capturing.execute("insert into every (p) values (row(1, '\\x01'))")
    await capturing.execute("alter type part add attribute a text")
    await capturing.execute("insert into every (p) values (row(1, '\\x02', 'new'))")
    assert [json.loads(data)["record"]["p"] for data in await shown(capturing)] == [
        {"zz": 1, "raw": "01"},
        {"a": "new", "zz": 1, "raw": "02"},
    ]


async def test_an_unchanged_toast_value_is_in_the_record(capturing: asyncpg.Connection) -> None:
    await make(capturing, {"big": "text", "v": "int"})
    await capturing.execute("alter table every alter big set storage external")
    big = "x" * 20_000
    await capturing.execute("insert into every (big, v) values ($1, 1)", big)
    await capturing.execute("update every set v = 2")
    inserted, updated = (json.loads(data) for data in await shown(capturing))
    assert inserted["record"] == {"n": 1, "big": big, "v": 1}
    assert updated["record"] == {"n": 1, "big": big, "v": 2}
    assert updated["old_record"] == {"n": 1}


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "with,comma",
        "with.dot",
        'with"quote',
        "with'quote",
        "back\\slash",
        "😀 é",
        "tab\there",
        "a-b",
        "SELECT",
    ],
)
async def test_names_of_any_kind_arrive_as_they_are(capturing: asyncpg.Connection, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    await capturing.execute(
        f"create schema {quoted}; create table {quoted}.{quoted} ({quoted} int primary key, a bytea);"
        f"alter publication supabase_realtime add table {quoted}.{quoted};"
        f"insert into {quoted}.{quoted} values (1, '\\x01'); update {quoted}.{quoted} set {quoted} = 2"
    )
    inserted, updated = (json.loads(data) for data in await shown(capturing))
    assert inserted["schema"] == inserted["table"] == name
    assert inserted["columns"] == [{"name": name, "type": "int4"}, {"name": "a", "type": "bytea"}]
    assert inserted["record"] == {name: 1, "a": "01"}
    assert (updated["record"], updated["old_record"]) == ({name: 2, "a": "01"}, {name: 1})


async def test_json_nested_deeper_than_parsers_go_is_delivered(capturing: asyncpg.Connection) -> None:
    deep = "[" * 3000 + "]" * 3000
    await make(capturing, {"a": "jsonb", "plain": "json", "raw": "bytea"})
    await capturing.execute(
        "insert into every (a, plain, raw) values ($1::text::jsonb, $1::text::json, '\\x01')", deep
    )
    await capturing.execute("update every set n = 2")
    for data in await shown(capturing):
        assert data.count(deep.encode()) == 2
        assert b'"raw":"01"' in data
