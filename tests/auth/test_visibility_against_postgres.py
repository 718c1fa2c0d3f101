"""Whatever table, policies, roles and claims: an image is seen where Postgres would select its row."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rowcast.auth.visibility import SEARCH_PATH, Visibility
from rowcast.model.claims import Subject
from support import databases
from support.visible import images, selected, version

pytestmark = pytest.mark.anyio

#: Types, each with values that rows have and policies compare with.
VALUES = {
    "int": ["0", "1", "-7"],
    "text": ["'ada'", "'bob'", "''", "e'q\\'\"\\n\\\\'"],
    "bool": ["true", "false"],
    "numeric(9,3)": ["0", "1.500", "'NaN'"],
    "float8": ["0.1", "'-Infinity'", "1e300"],
    "varchar(4)": ["'ada'", "'a b'"],
    "char(4)": ["'ada'", "''"],
    "uuid": ["'11111111-1111-4111-8111-111111111111'", "'22222222-2222-4222-8222-222222222222'"],
    "timestamptz": ["'2020-02-29 12:00:00.123456+05:30'", "'infinity'"],
    "date": ["'2020-02-29'", "'0044-03-15 BC'"],
    "interval": ["'1 mon -3 days 00:00:01.5'", "'0'"],
    "bytea": [r"'\x00ff'", r"'\x'"],
    "jsonb": ["""'{"team": "1", "b": null}'""", "'[1, 2.50]'", "'\"x\"'"],
    "text[]": ["'{ada,NULL,\"b,c\"}'", "'{}'"],
    "inet": ["'10.0.0.1/8'", "'::1'"],
    "int4range": ["'[1,5)'", "'empty'"],
    "mood": ["'sad'", "'fine'"],
    "spot": ["'(1,\"a b\")'", "'(,)'"],
    "positive": ["1", "2"],
}
NAMES = ['"order"', '"Who?"', "image", "rowcast_part", '"t"', "n"]
SUBS = ["ada", "bob", "11111111-1111-4111-8111-111111111111", None]

SETUP = """
create type mood as enum ('sad', 'fine');
create type spot as (x int, label text);
create domain positive as int check (value > 0);
create table members (team int, who text, secret bool not null);
insert into members values (0, 'ada', false), (1, 'ada', true), (1, 'bob', false), (-7, null, false);
alter table members enable row level security;
create policy p on members using (not secret or who = auth.jwt() ->> 'sub');
create function team_of(who text) returns int language sql stable security definer set search_path = ''
  as $$ select max(m.team) from public.members as m where m.who = $1 $$;
create function is_fine(text) returns bool language plpgsql stable
  as $$ begin return exists (select from members where who = $1 and current_user <> ''); end $$;
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A table ``subject`` and who looks at it."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]
    policies: tuple[str, ...]
    table: tuple[str, ...]
    subjects: tuple[tuple[int, str | None, int], ...]


#: One row is seen, and one is not.
ONE_OF_TWO = Case(
    columns=(("id", "int"),),
    rows=(("0",), ("1",)),
    policies=("as permissive for select to public using (id = 1)",),
    table=(),
    subjects=((3, None, 0),),
)


@st.composite
def conditions(draw: st.DrawFn, columns: tuple[tuple[str, str], ...], depth: int = 2) -> str:
    """What a policy may say of a row."""
    if depth and draw(st.booleans()):
        one, other = draw(conditions(columns, depth - 1)), draw(conditions(columns, depth - 1))
        return draw(st.sampled_from([f"({one} and {other})", f"({one} or {other})", f"(not {one})"]))
    name, type_ = draw(st.sampled_from(columns))
    value = draw(st.sampled_from(VALUES[type_]))
    return draw(
        st.sampled_from([
            "true", "false", "null::bool", f"{name} is null", f"{name} is not null",
            f"{name} = {value}::{type_}", f"{name} <> {value}::{type_}",
            f"{name} in ({', '.join(v + '::' + type_ for v in VALUES[type_])})",
            f"{name}::text = auth.jwt() ->> 'sub'",
            f"{name}::text = (select auth.jwt() ->> 'sub')",
            "auth.role() = 'authenticated'",
            "(auth.jwt() -> 'team')::int = id",
            "current_user in (select r from unnest(array['anon', 'authenticated']) as r)",
            "exists (select from members as m where m.team = subject.id)",
            f"exists (select from members as m where m.who = subject.{name}::text)",
            "id in (select team from members where who = (select auth.jwt() ->> 'sub'))",
            f"exists (select from unnest(array['x']) as t (n) where n = 'x' and subject.{name} is not null)",
            "team_of(auth.jwt() ->> 'sub') = id", f"is_fine({name}::text)",
            "subject.* is not null", "row_to_json(subject.*)::text like '%1%'",
            "tableoid = 'subject'::regclass", "ctid is not null",
        ])
    )  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    types = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4))
    columns = (("id", "int"), *zip(NAMES, types, strict=False))
    rows = tuple(
        (str(number), *(draw(st.sampled_from([*VALUES[type_], "null"])) for type_ in types))
        for number in range(draw(st.integers(0, 4)))
    )
    policies = draw(
        st.lists(
            st.builds(
                "as {} for {} to {} using ({})".format,
                st.sampled_from(["permissive", "permissive", "restrictive"]),
                st.sampled_from(["select", "all", "select", "update"]),
                st.lists(st.sampled_from(["public", "<0>", "<1>", "<2>"]), min_size=1, max_size=2).map(
                    ", ".join
                ),
                conditions(columns),
            ),
            max_size=4,
        )
    )
    table = draw(
        st.lists(
            st.sampled_from([
                "alter table subject force row level security",
                "alter table subject disable row level security",
                "alter table subject owner to <1>", "alter table subject owner to <2>",
                "revoke select on subject from <0>", "grant select on subject to <0>",
            ]),
            max_size=2,
        )
    )  # fmt: skip
    who = st.tuples(st.integers(0, 3), st.sampled_from(SUBS), st.integers(0, 2))
    subjects = draw(st.lists(who, min_size=1, max_size=5, unique=True))
    return Case(columns, rows, tuple(policies), tuple(table), tuple(subjects))


class Comparison:
    """A database where a case is judged both ways.

    ``roles``: one that inherits nothing of the group that it is in, one that does, and the group.
    """

    def __init__(self, admin: asyncpg.Connection, judging: asyncpg.Connection, name: str) -> None:
        self.admin, self.judging = admin, judging
        self.roles = [f"{name}_{role}" for role in ("noinherit", "inherits", "group")]
        self.seen = self.hidden = 0

    async def set_up(self) -> None:
        loner, member, group = self.roles
        await self.admin.execute(f"""
            create role {group};
            create role {loner} noinherit in role {group};
            create role {member} in role {group};
            grant usage on schema auth to {loner}, {member}, {group};
            {SETUP}
            grant select on members to {loner}, {group}, authenticated;
            set search_path = {SEARCH_PATH};
        """)

    async def tear_down(self) -> None:
        names = ", ".join(self.roles)
        await self.admin.execute(f"drop table if exists subject; drop owned by {names}; drop role {names}")

    async def check(self, case: Case) -> None:
        await self._make(case)
        relation = await version(self.admin, "subject")
        rows = await images(self.admin, "subject")
        roles = [*self.roles, "authenticated"]
        subjects = [_subject(roles[role], sub, team) for role, sub, team in case.subjects]
        visibility = Visibility(roles, seconds=20.0, limit=60.0)
        verdicts = await visibility.judge(self.judging, relation, rows, subjects)
        ids = [json.loads(row)["id"] for row in rows]
        for subject in subjects:
            expected = await self._selected(subject, ids)
            assert verdicts.lines[subject] == expected
            self.seen += expected.count("1")
            self.hidden += expected.count("0")

    async def _make(self, case: Case) -> None:
        columns = ", ".join(f"{name} {type_}" for name, type_ in case.columns)
        policies = (
            f"create policy p{number} on subject {self._named(policy)};"
            for number, policy in enumerate(case.policies)
        )
        rows = (f"insert into subject values ({', '.join(row)});" for row in case.rows)
        await self.admin.execute(f"""
            set client_min_messages = warning;
            drop table if exists subject;
            create table subject ({columns}, primary key (id));
            alter table subject enable row level security;
            grant select on subject to {", ".join(self.roles)}, authenticated;
            {"".join(policies)} {"".join(rows)}
            {"".join(self._named(statement) + ";" for statement in case.table)}
        """)

    def _named(self, text: str) -> str:
        for number, role in enumerate(self.roles):
            text = text.replace(f"<{number}>", role)
        return text

    async def _selected(self, subject: Subject, ids: list[int]) -> str:
        """What Postgres selects: all at once, and one by one where an error keeps it from that."""
        try:
            return await selected(self.admin, subject, "subject", ids)
        except asyncpg.PostgresError:
            pass
        found = ""
        for id_ in ids:
            try:
                found += await selected(self.admin, subject, f"subject where id = {id_}", [id_])
            except asyncpg.PostgresError:
                found += "0"
        return found


def _subject(role: str, sub: str | None, team: int) -> Subject:
    claims = {"role": role, "team": team} | ({} if sub is None else {"sub": sub})
    return Subject(role, json.dumps(claims))


@pytest.fixture(scope="module")
async def comparison(
    postgres: str, migrated_template: str, database_names: Iterator[str]
) -> AsyncIterator[Comparison]:
    name = next(database_names)
    dsn = databases.create(postgres, name, template=migrated_template)
    admin = await asyncpg.connect(dsn, statement_cache_size=0)
    judging = await asyncpg.connect(dsn, statement_cache_size=0)
    comparison = Comparison(admin, judging, name)
    await comparison.set_up()
    yield comparison
    await judging.close()
    await comparison.tear_down()
    await admin.close()
    databases.drop(postgres, name)
    # Had nobody seen anything, all would have agreed: ONE_OF_TWO is always among the cases.
    assert comparison.seen
    assert comparison.hidden


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
@example(case=ONE_OF_TWO)
async def test_an_image_is_seen_where_its_row_would_be_selected(comparison: Comparison, case: Case) -> None:
    await comparison.check(case)
