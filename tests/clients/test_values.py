"""The official clients, unmodified, against the real server: values and names that break careless code.

What a callback sees is held against what Postgres says that it holds (``to_jsonb``), with what the wire and
each client make of it on the way:

- the wire: bytea is hex without ``\\x``; NaN and the infinities are null, JSON having no word for them;
- supabase-js: numbers are doubles; a json or jsonb column that holds a string is parsed as JSON where it can
  be; a column called ``__proto__`` is lost;
- Python: numbers with a point are doubles, whole ones keep every digit; a change with a value nested deeper
  than some 190 levels is dropped, as its parser of JSON goes no deeper.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from support.databases import execute
from support.official import Driven, binding, rows
from support.server import Server

TYPES = {"id": "int8", "i8": "int8", "n": "numeric", "f8": "float8", "f4": "float4", "ok": "bool"}
TYPES |= {"t": "text", "c": "char(3)", "b": "bytea", "j": "json", "jb": "jsonb"}
TYPES |= {"ta": "text[]", "na": "int8[]", "fa": "numeric[]", "ba": "bytea[]", "ja": "jsonb[]"}
_ODD = f"""
    create table odd ({", ".join(f"{name} {type_}" for name, type_ in TYPES.items())}, primary key (id));
    alter table odd replica identity full;
    grant select on odd to anon;
    alter publication supabase_realtime add table odd;
"""
_DEEP = 100

CONTROLS = "".join(map(chr, range(1, 0x20))) + "\x7f\x80\x85\x9f"
TEXTS = [
    "",
    " ",
    "null",
    "NULL",
    "{}",
    '"',
    "'",
    "''\"\"``",
    "\\",
    '\\\\\\"',
    "\\u0000",
    "\\ud800",
    "%s %d $1 ${x} {0}",
    "line\nline\r\nline\ttab",
    CONTROLS,
    "\u2028\u2029\ufeff\u200b\u202e\ufffd\uffff\ufdd0",
    "😀👩‍👩‍👧‍👦🇺🇳\U0001d11e\U0010ffff",
    "e\u0301 é ﬁ İ ß",
    "</script><!--",
    '{"ids":[1],"data":{}}',
    '[null,null,"realtime:room","phx_close",{}]',
]
NUMBERS = {
    "i8": ["9223372036854775807", "-9223372036854775808", "9007199254740993", "0"],
    "n": ["1234567890123456789012345678901234567890", f"-0.{0:039}1", "1.50", "1e300", "1e-300", "-0.0"],
    "f8": ["1e300", "-1e300", "5e-324", "1.7976931348623157e308", "-0", "0.1"],
    "f4": ["3.4028235e38", "1e-45", "0.1", "16777216"],
}
NO_NUMBERS = ["NaN", "Infinity", "-Infinity"]
JSONS = [
    "null",
    '"12"',
    '"[1, 2"',
    '""',
    "0",
    "[]",
    "{}",
    '{"__proto__": {"a": 1}, "constructor": {"prototype": null}, "toString": 1, "": 2, "a b": 3, "\\\\": 4}',
    '{"a": 1, "a": 2, "z": 0, "aa": [1.50, 1e3, -0, 9007199254740993, 1e300]}',
    "[" * _DEEP + "]" * _DEEP,
    '{"a":' * _DEEP + '"\\u2028\\ud83d\\ude00"' + "}" * _DEEP,
]
ARRAYS = {
    "ta": ["{}", "{NULL}", '{"",NULL,"null","a,b","{}","\\"","\\\\"}', "{{a,NULL},{c,d}}", "[2:3]={a,b}"],
    "na": ["{9223372036854775807,NULL,-1}", "{{{1},{2}},{{3},{4}}}"],
    "fa": ["{NaN,1.50,NULL,Infinity}", "{{NaN,1},{2,3}}"],
    "ba": ['{"\\\\x00ff",NULL,"\\\\x"}'],
    "ja": ['{"{\\"__proto__\\": 1}","[1]",null,"\\"x\\""}'],
}
BYTES = ["\\x", "\\x00", "\\x5c78", "\\xdeadbeef00ff"]


def contents() -> list[tuple[str, str]]:
    """Column and text, one a row; each row has nothing but NULL in its other columns."""
    found = [("t", text) for text in TEXTS] + [("c", ""), ("c", "é")]
    found += [(column, text) for column, texts in {**NUMBERS, **ARRAYS}.items() for text in texts]
    found += [("b", text) for text in BYTES]
    found += [(column, text) for column in ("n", "f8", "f4") for text in NO_NUMBERS]
    return found + [(column, text) for text in JSONS for column in ("j", "jb")]


@pytest.fixture
async def server(todos: str, serve: Callable[..., Awaitable[Server]]) -> Server:
    """A running server, for a database of ``todos`` and ``odd``."""
    execute(todos, _ODD)
    return await serve(todos)


def on_the_wire(row: dict[str, Any]) -> dict[str, Any]:
    """What the wire makes of a row that Postgres gave as jsonb."""
    return {name: _wired(name, value) for name, value in row.items()}


def _wired(column: str, value: Any) -> Any:
    if isinstance(value, list) and column not in ("j", "jb", "ja"):
        return [_wired(column, element) for element in value]
    if isinstance(value, str) and column in ("n", "f8", "f4", "fa"):
        return None
    return value.removeprefix("\\x") if isinstance(value, str) and column in ("b", "ba") else value


def seen_by(client: Driven, row: dict[str, Any]) -> Any:
    """What a client makes of a row of the wire."""
    if client.official.package is None:
        return row
    parsed = {name: _parsed(value) if name in ("j", "jb") else value for name, value in row.items()}
    return doubles(parsed)


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return value


def doubles(value: Any) -> Any:
    """The same with every number a double, as JavaScript knows no other."""
    match value:
        case bool():
            return value
        case int():
            return float(value)
        case list():
            return [doubles(each) for each in value]
        case dict():
            return {name: doubles(each) for name, each in value.items()}
    return value


def images(client: Driven, changes: list[dict[str, Any]]) -> list[tuple[str, Any, Any]]:
    """Events and rows as the client gave them."""
    if client.official.package is None:
        return rows(changes)
    return [(event, doubles(new), doubles(old)) for event, new, old in rows(changes)]


async def test_every_value_is_seen_as_postgres_holds_it(client: Driven, db: asyncpg.Connection) -> None:
    await client.subscribe("room", binding(table="odd"))
    for number, (column, text) in enumerate(contents(), start=1):
        given = {"id": str(number), column: text}
        names = ", ".join(given)
        values = ", ".join(f"(${place}::text)::{TYPES[name]}" for place, name in enumerate(given, start=1))

        async def held() -> Any:
            texts = await db.fetch("select to_jsonb(odd)::text from odd")
            return seen_by(client, on_the_wire(json.loads(texts[0][0])))

        await db.execute(f"insert into odd ({names}) values ({values})", *given.values())
        first = await held()
        await db.execute("update odd set ok = true")
        second = await held()
        await db.execute("delete from odd")
        assert images(client, await client.changes("room", 3)) == [
            ("INSERT", first, {}),
            ("UPDATE", second, first),
            ("DELETE", {}, second),
        ], (column, text)


@pytest.mark.parametrize("piece", ["x", "\n", "🌱"], ids=["plain", "escaped", "of four bytes"])
async def test_a_text_just_below_the_limit_arrives_whole(
    client: Driven, db: asyncpg.Connection, piece: str
) -> None:
    await client.subscribe("room", binding())
    # In JSON the line's end is two characters, and the plant four bytes.
    text = piece * (1_000_000 // len(json.dumps(piece, ensure_ascii=False).encode()[1:-1]))
    await db.execute("insert into todos values (1, $1)", text)
    await db.execute("update todos set done = true")
    insert, update = rows(await client.changes("room", 2))
    assert insert == ("INSERT", {"id": 1, "task": text, "done": False}, {})
    assert update == ("UPDATE", {"id": 1, "task": text, "done": True}, {"id": 1})


async def test_a_change_over_the_limit_says_so_and_keeps_its_short_values(
    client: Driven, db: asyncpg.Connection
) -> None:
    await client.subscribe("room", binding())
    await db.execute("insert into todos values (1, repeat('x', 1100000)), (2, 'y')")
    changes = await client.changes("room", 2)
    assert [new for _, new, _ in rows(changes)] == [
        {"id": 1, "done": False},
        {"id": 2, "task": "y", "done": False},
    ]
    errors = [change.get("data", change)["errors"] for change in changes]
    assert errors == [["Error 413: Payload Too Large"], None]


COLUMNS = [
    "ids",
    "record",
    "type",
    "data",
    "constructor",
    "a b",
    "a.b",
    "a=b",
    'q"q',
    "it's",
    "Ключ🌱",
    "columns",
]
SCHEMA, TABLE = "we ird.s\"ch'ema 🌱", "ta.b\"le '🌱 -- %_"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def test_names_may_be_anything(client: Driven, db: asyncpg.Connection) -> None:
    table = f"{quoted(SCHEMA)}.{quoted(TABLE)}"
    columns = ", ".join(f"{quoted(name)} text" for name in COLUMNS)
    await db.execute(f"""
        create schema {quoted(SCHEMA)};
        create table {table} ("__proto__" text, {columns}, primary key ("type", "a.b"));
        grant usage on schema {quoted(SCHEMA)} to anon;
        grant select on {table} to anon;
        alter publication supabase_realtime add table {table};
    """)
    asked = [
        binding(schema=SCHEMA, table=TABLE, **more)
        for more in (
            {"filter": "a b=eq.a b"},
            {"filter": "a.b=neq.a.b"},
            {"filter": "Ключ🌱=like.Ключ%"},
            {"filter": 'and("a=b".eq."a=b","q\\"q".eq."q\\"q")'},
            {"select": ["ids", 'q"q', "Ключ🌱"]},
            {},
        )
    ]
    await client.subscribe("room", *asked)
    await db.execute(
        f"insert into {table} values ({', '.join(f'${n}' for n in range(1, len(COLUMNS) + 2))})",
        "p",
        *COLUMNS,
    )
    await db.execute(f"update {table} set ids = null")
    await db.execute(f"delete from {table}")
    given: dict[int, list[Any]] = {number: [] for number in range(len(asked))}
    for _ in range(5 * 3):
        event = await client.event("change", channel="room")
        given[event["binding"]] += rows([event["payload"]])
    row = {name: name for name in COLUMNS}
    if client.official.package is None:
        row["__proto__"] = "p"
    key = {"type": "type", "a.b": "a.b"}
    whole = [("INSERT", row, {}), ("UPDATE", {**row, "ids": None}, key), ("DELETE", {}, key)]
    assert given[0] == given[2] == given[3] == given[5] == whole
    assert given[1] == []
    shown = {**key, "ids": "ids", 'q"q': 'q"q', "Ключ🌱": "Ключ🌱"}
    assert given[4] == [("INSERT", shown, {}), ("UPDATE", {**shown, "ids": None}, key), ("DELETE", {}, key)]
