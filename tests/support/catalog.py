"""A table with a column of every type, and what Postgres and the index say of filters on it."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

import asyncpg

from rowcast.capture.filters import Filters, answer
from rowcast.capture.relations import Relations
from rowcast.hub.matching import FilterIndex, Listeners
from rowcast.model.binding import parse_binding
from rowcast.model.change import Change, Op, Relation
from rowcast.protocol.rows import row_of

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


class Catalog:
    """A database with a table of every type, and what is known of it. ``run`` runs in its own event loop."""

    def __init__(self, runner: asyncio.Runner, connection: asyncpg.Connection, dsn: str) -> None:
        self._runner, self.connection, self.dsn = runner, connection, dsn
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


def quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
