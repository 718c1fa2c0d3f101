"""Rows of a table of many types, and what subscribers are sent of them."""

from collections.abc import Mapping

import asyncpg

from rowcast.capture.relations import Relations
from rowcast.model.change import Change, Op
from rowcast.model.reading import View
from rowcast.protocol.changes import encode_data

#: Where a Postgres comes without its contrib modules, text stands in for their types.
TYPES = """
do $$ begin
  create extension hstore;
  create extension citext;
exception when feature_not_supported or undefined_file then
  create domain hstore as text;
  create domain citext as text;
end $$;
create type mood as enum ('sad', 'ok', 'with "quote"');
create domain amount as numeric check (value <> 13);
create domain exact_amount as amount not null;
create domain bytes as bytea;
create domain document as json;
create domain days as timestamptz[];
create domain numbers as float8[];
create domain map as hstore;
create type place as (latitude float8, at timestamptz, n int);
create type visit as (who text, places place[], note json, map hstore);
create domain checked_visit as visit;
-- A type whose JSON is what its cast to json says; an enum with such a cast.
create type tint as enum ('red', 'green');
create function tint_to_json(tint) returns json language sql immutable
  as $$ select '{"zz" : 1e2, "a":  [1.0, -0], "zz": 3e-2}'::json $$;
create cast (tint as json) with function tint_to_json(tint);
"""


async def make(connection: asyncpg.Connection, types: Mapping[str, str]) -> None:
    """Make and publish a table ``every`` with columns of these types."""
    columns = ", ".join(f"{name} {type_}" for name, type_ in types.items())
    await connection.execute(
        f"create table every (n serial primary key, {columns});"
        "alter publication supabase_realtime add table every"
    )


async def shown(connection: asyncpg.Connection, select: frozenset[str] | None = None) -> list[bytes]:
    """The data of everything in the outbox, as subscribers are sent it."""
    rows = await connection.fetch(
        "select relation, op::text, record, old_record, seq from rowcast.outbox_0"
        " where op <> 'C' order by seq"
    )
    relations = Relations()
    await relations.load(connection, {row["relation"] for row in rows})
    ops = {"I": Op.INSERT, "U": Op.UPDATE, "D": Op.DELETE}
    images = ((row, *(row[name] and row[name].encode() for name in ("record", "old_record"))) for row in rows)
    return [
        encode_data(
            Change(relations[row["relation"]], ops[row["op"]], new, old, row["seq"], "", ""), View(select)
        )
        for row, new, old in images
    ]
