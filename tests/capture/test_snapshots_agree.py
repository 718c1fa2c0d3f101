"""Snapshots and changes agree: the same filter lets the same rows through, and a row has the same bytes."""

from collections.abc import Mapping

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcast.capture.snapshots import Batch
from rowcast.protocol.messages import Version
from rowcast.protocol.snapshots import encode_snapshot
from support.catalog import VALUES, Catalog, quoted
from support.rows import TYPES, make, shown
from support.snapshots import asked, batches, records, snapshots
from support.visible import subject

ROWS = 16
ORDERED = ["eq", "neq", "lt", "lte", "gt", "gte", "in", "isdistinct", "is"]
PATTERNS = ["like", "ilike", "match", "imatch"]
TEXTUAL = {"txt", "vc", "bp", "ci"}
ARRAYS = {"tags", "nums"}
DOCUMENTS = ['{"a": {"b": [1, "x"]}, "k": "x"}', '{"a": null, "k": null}', '{"k": 1.0}', "[1, 2]", '"x"']
PATHS = ["->a", "->k", "->>k", "->a->b->>1", "->0", "->>-1"]


@pytest.fixture(scope="module")
def filled(catalog: Catalog) -> list[bytes]:
    """The images of rows that have every value of every column, and nulls."""

    async def fill() -> list[bytes]:
        columns = [column for column in VALUES if column not in catalog.missing]
        values = {
            **{column: VALUES[column] for column in columns},
            "j": DOCUMENTS,
            "jb": [*VALUES["jb"], *DOCUMENTS],
        }
        for id_ in range(ROWS):
            row = {column: [*of, None][id_ % (len(of) + 1)] for column, of in values.items()}
            literals = ", ".join("null" if value is None else quoted(value) for value in row.values())
            names = ", ".join(f'"{name}"' for name in row)
            await catalog.connection.execute(f"insert into typed (id, {names}) values ({id_}, {literals})")
        # An operator that would be meant in their place, were names looked up along the path.
        await catalog.connection.execute("""
            create function never(varchar, varchar) returns bool language sql as 'select false';
            create operator public.= (leftarg = varchar, rightarg = varchar, function = never);
            create operator public.<> (leftarg = varchar, rightarg = varchar, function = never);
        """)
        images = await catalog.connection.fetch(
            "select row_to_json(t.*)::text as t from typed as t order by id"
        )
        return [row["t"].encode() for row in images]

    return catalog.run(fill())


def written(value: str) -> str:
    """A value as the filter grammar has it in quotes."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def conditions(draw: st.DrawFn, missing: set[str]) -> str:
    """A condition as a group has it."""
    column = draw(st.sampled_from(sorted({*VALUES, "j"} - missing)))
    path = (
        draw(st.sampled_from([*PATHS, ""][: None if column == "jb" else -1])) if column in ("j", "jb") else ""
    )
    textual = "->>" in path or column in TEXTUAL
    ops = [op for op in ORDERED if op != "in" or column not in ARRAYS] + PATTERNS * textual
    op = draw(st.sampled_from(ops))
    values = ["x", "1", "null"] if path else VALUES[column]
    if path and "->>" not in path:
        values = ["1", "null", '"x"', '[1, "x"]']
    value = draw(st.sampled_from(values))
    if op == "is":
        value = draw(st.sampled_from(["null", "true", "false", "unknown"] if column == "flag" else ["null"]))
    elif op == "in":
        listed = draw(st.lists(st.sampled_from([*values, None]), min_size=1, max_size=3))
        value = f"({','.join('null' if one is None else written(one) for one in listed)})"
    else:
        value = written(value)
    return f"{column}{path}.{draw(st.sampled_from(['', 'not.']))}{op}.{value}"


@st.composite
def filters(draw: st.DrawFn, missing: set[str]) -> str:
    parts = draw(st.lists(conditions(missing), min_size=1, max_size=2))
    return f"{draw(st.sampled_from(['or', 'and', 'not.or', 'not.and']))}=({','.join(parts)})"


@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_a_snapshot_has_the_rows_that_the_filter_lets_through_as_changes(
    catalog: Catalog, filled: list[bytes], data: st.DataObject
) -> None:
    drawn = data.draw(st.lists(filters(catalog.missing), min_size=10, max_size=25))

    async def compared() -> None:
        found, faults = await batches(
            snapshots(catalog.dsn),
            catalog.connection,
            subject(),
            *(asked("typed", filter=one) for one in drawn),
        )
        assert not faults, [(drawn[place], text) for place, text in faults.items()]
        for place, text in enumerate(drawn):
            passes = await catalog.judged(text, filled)
            expected = [id_ for id_, passed in enumerate(passes) if passed]
            assert [row["id"] for row in records(found, place)] == expected, text

    catalog.run(compared())


EVERY: Mapping[str, tuple[str, ...]] = {
    "int8": ("9007199254740993",), "numeric": ("1.10", "NaN", "1e300"), "float4": ("1e20", "-0"),
    "float8": ("1e300", "5e-324", "Infinity"), "bool": ("t",), "text": ('é "q" \\ \u0001', "\\xdead"),
    "char(4)": ("ab",), "uuid": ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",), "bytea": ("\\xdead", "\\x"),
    "date": ("infinity", "0044-03-15 BC"), "timestamptz": ("2024-02-29 12:34:56.789012+02",),
    "interval": ("1 day 02:03:04",), "inet": ("10.1.2.3/24",), "money": ("12.34",),
    "json": ('{"zz" : 1e2, "a":  [1.0, -0], "zz": 3e-2}', "null"), "jsonb": ('{"b": 1.50}',),
    "int4range": ("[1,5)",), "int4[]": ("{{1},{2}}", "{}"), "bytea[]": ('{"\\\\x00",NULL}',),
    "json[]": ('{"{\\"b\\" : 1}"}',), "mood": ("sad",), "exact_amount": ("1e2",), "days": ("{2024-01-01}",),
    "numbers": ("{1e300,NaN}",), "place": ("(1e300,infinity,)",), "tint": ("red",), "hstore": ("a=>1",),
    "checked_visit": ('(w,"{""(1,,2)""}","{""b"" : 1}",)',),
}  # fmt: skip


def _raw_records(messages: list[bytes]) -> list[bytes]:
    class Data(msgspec.Struct):
        records: list[msgspec.Raw]

    class Payload(msgspec.Struct):
        data: Data

    frames = [msgspec.json.decode(message, type=list[msgspec.Raw]) for message in messages]
    assert {bytes(frame[3]) for frame in frames} == {b'"snapshot"'}
    payloads = [msgspec.json.decode(frame[4], type=Payload) for frame in frames]
    return [bytes(record) for payload in payloads for record in payload.data.records]


def _messages(found: list[Batch]) -> list[bytes]:
    return [
        message
        for batch in found
        for message in encode_snapshot(
            batch.outline, batch.images, "t", [1], Version.V2, last=batch.last, position="P", limit=10_000
        )
    ]


@pytest.mark.anyio
async def test_a_row_has_the_bytes_that_the_change_which_made_it_had(
    capturing: asyncpg.Connection, migrated: str
) -> None:
    await capturing.execute(TYPES)
    await make(capturing, {f"c{n}": type_ for n, type_ in enumerate(EVERY)})
    # What a session begins with must not count.
    name = await capturing.fetchval("select current_database()")
    await capturing.execute(f"""
        alter database {name} set timezone = 'Asia/Tokyo'; alter database {name} set datestyle = 'German';
        alter database {name} set bytea_output = 'escape';
        alter database {name} set intervalstyle = 'iso_8601';
        grant select on every to anon;
    """)
    for k in range(3):
        literals = ", ".join(f"{quoted(values[k % len(values)])}::{type_}" for type_, values in EVERY.items())
        await capturing.execute(f"insert into every values (default, {literals})")

    class Data(msgspec.Struct):
        record: msgspec.Raw

    for select in (None, ["c3", "c15", "c27"]):
        changes = await shown(capturing, None if select is None else frozenset(select))
        expected = [bytes(msgspec.json.decode(change, type=Data).record) for change in changes]
        found, faults = await batches(
            snapshots(migrated), capturing, subject(), asked("every", select=select)
        )
        assert not faults
        assert _raw_records(_messages(found)) == expected
