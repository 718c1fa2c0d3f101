"""How many pairs of a row and claims a second are judged by policies, beside a round trip for each."""

import json
import time
from collections.abc import Awaitable, Callable
from statistics import median

import asyncpg

from rowcast.auth.visibility import Visibility
from rowcast.capture.relations import Relations
from rowcast.capture.watching import watch
from rowcast.db.connection import connect
from rowcast.db.migrations import migrate
from rowcast.dev.postgres import Postgres
from rowcast.model.change import Relation
from rowcast.model.claims import Subject

SUBJECTS = (1, 10, 100, 1_000)
ROWS = (1, 100)
ALONE = 200
ROUNDS = 5

_SETUP = """
create table members (team int, who text, primary key (team, who));
insert into members select n % 50, 'u' || n / 50 from generate_series(0, 49999) as n;
analyze members;
create table own (id int primary key, owner text, team int, body text);
create table shared (like own including all);
insert into own select n, 'u' || n, n % 50, 'some text of a row' from generate_series(0, 99) as n;
insert into shared table own;
alter table own enable row level security;
alter table shared enable row level security;
create policy own on own using ((select auth.jwt() ->> 'sub') = owner);
create policy shared on shared using (exists (
  select from members as m where m.team = shared.team and m.who = (select auth.jwt() ->> 'sub')));
grant select on own, shared, members to anon;
"""


async def measure(server: Postgres) -> dict[str, tuple[float, float]]:
    """Ratios by name, each with its bar."""
    await migrate(server.dsn)
    connection = await asyncpg.connect(server.dsn)
    await connection.execute(_SETUP)
    ratios = {}
    for table in ("own", "shared"):
        await watch(connection, table)
        relation = await _relation(connection, table)
        images = [
            row["image"]
            for row in await connection.fetch(f"select row_to_json(t.*)::text as image from {table} as t")
        ]
        alone = await _alone(connection, table)
        print(f"  {table}, a round trip for each pair: {alone:,.0f} pairs/s", flush=True)
        rates: dict[int, float] = {}
        for users in SUBJECTS:
            for rows in ROWS:
                # Of these, what counts is many users: the last.
                rates[rows] = await _judged(server, relation, images[:rows], _subjects(users))
                print(f"  {table}, {users} users, {rows} rows a call: {rates[rows]:,.0f} pairs/s", flush=True)
        ratios[f"{table}: pairs/s, one row ÷ a round trip for each"] = rates[1] / alone, 8.0
        ratios[f"{table}: pairs/s, 100 rows ÷ a round trip for each"] = rates[100] / alone, 100.0
    await connection.close()
    return ratios


async def _relation(connection: asyncpg.Connection, table: str) -> Relation:
    id_ = await connection.fetchval(
        "select relation from rowcast.captured where relid = $1::text::regclass", table
    )
    relations = Relations()
    await relations.load(connection, [id_])
    return relations[id_]


def _subjects(users: int) -> list[Subject]:
    claims = ({"role": "anon", "sub": f"u{number}", "exp": 2_000_000_000} for number in range(users))
    return [Subject("anon", json.dumps(one)) for one in claims]


async def _judged(server: Postgres, relation: Relation, images: list[str], subjects: list[Subject]) -> float:
    visibility = Visibility(["anon"], seconds=5.0, limit=60.0)
    connection = await connect(server.dsn, purpose="visibility", pooled=True)

    async def judge() -> None:
        verdicts = await visibility.judge(connection, relation, images, subjects)
        assert verdicts.doubts.slow == verdicts.doubts.failed == 0
        assert any("1" in line for line in verdicts.lines.values())

    seconds = await _seconds(judge)
    await connection.close()
    return len(images) * len(subjects) / seconds


async def _alone(connection: asyncpg.Connection, table: str) -> float:
    """One statement for each pair: role, claims and whether the row is there."""
    subjects = _subjects(ALONE)

    async def ask() -> None:
        for one in subjects:
            await connection.execute(
                f"begin; set local role anon; set local request.jwt.claims = '{one.claims}';"
                f" select from {table} where id = 1; rollback"
            )

    return ALONE / await _seconds(ask)


async def _seconds(work: Callable[[], Awaitable[None]]) -> float:
    await work()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await work()
        times.append(time.perf_counter() - began)
    return median(times)
