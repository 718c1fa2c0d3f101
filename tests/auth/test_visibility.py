"""What a role sees of row images: policies as Postgres puts them together."""

import asyncpg
import pytest

from rowcast.auth.visibility import Visibility
from support.visible import ROLES, agrees, images, lines, selected, subject, version

pytestmark = pytest.mark.anyio


async def test_each_subject_sees_its_own_rows(notes: asyncpg.Connection, judging: asyncpg.Connection) -> None:
    found = await agrees(
        notes, judging, subject(sub="ada"), subject(sub="bob"), subject(sub="eve"), subject()
    )
    assert found == ["1001", "0100", "0000", "0000"]


async def test_restrictive_policies_narrow_and_permissive_ones_widen(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("""
        create policy team_two on notes for all to authenticated using (team = 2);
        create policy narrow on notes as restrictive for select using (id <> 4);
        create policy writing on notes for update using (true);
    """)
    found = await agrees(notes, judging, subject(sub="ada"), subject("authenticated", sub="ada"))
    assert found == ["1000", "1010"]


async def test_restrictive_policies_alone_let_nothing_through(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("drop policy own on notes; create policy p on notes as restrictive using (true)")
    assert await agrees(notes, judging, subject(sub="ada")) == ["0000"]


async def test_a_policy_that_says_nothing_for_select_lets_nothing_through(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("drop policy own on notes; create policy p on notes for select")
    assert await agrees(notes, judging, subject(sub="ada")) == ["0000"]


async def test_who_bypasses_policies_sees_everything(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    assert await agrees(notes, judging, subject("service_role")) == ["1111"]
    await notes.execute("alter table notes owner to authenticated; drop policy own on notes")
    assert await agrees(notes, judging, subject("authenticated")) == ["1111"]
    await notes.execute("alter table notes force row level security")
    assert await agrees(notes, judging, subject("authenticated")) == ["0000"]


async def test_nobody_sees_a_table_that_may_not_be_read(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    visibility, ada = Visibility(ROLES), subject(sub="ada")
    assert await lines(visibility, judging, relation, rows, ada) == ["1001"]
    await notes.execute("revoke select on notes from anon")
    visibility.forget()
    assert await lines(visibility, judging, relation, rows, ada) == ["0000"]
    await notes.execute("grant select (id) on notes to anon; revoke usage on schema public from public, anon")
    visibility.forget()
    assert await lines(visibility, judging, relation, rows, ada) == ["0000"]


async def test_roles_that_are_not_on_the_list_see_nothing(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    found = await lines(
        Visibility(["anon"]), judging, relation, rows, subject("service_role"), subject("postgres")
    )
    assert found == ["0000", "0000"]


async def test_equal_claims_are_asked_once(notes: asyncpg.Connection, judging: asyncpg.Connection) -> None:
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    verdicts = await Visibility(ROLES).judge(judging, relation, rows, [subject(sub="ada")] * 3)
    assert verdicts.lines == {subject(sub="ada"): "1001"}
    assert [verdicts.sees(subject(sub="ada"), row) for row in range(4)] == [True, False, False, True]


async def test_policies_that_changed_count_once_they_were_forgotten(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    visibility, ada = Visibility(ROLES), subject(sub="ada")
    assert await lines(visibility, judging, relation, rows, ada) == ["1001"]
    await notes.execute("alter policy own on notes using (team = 2)")
    visibility.forget()
    assert await lines(visibility, judging, relation, rows, ada) == ["0011"]


async def test_an_image_is_judged_by_what_it_said(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    await notes.execute("update notes set owner = 'bob' where id = 1; delete from notes where id = 4")
    assert await lines(Visibility(ROLES), judging, relation, rows, subject(sub="ada")) == ["1001"]


# What policies may be written with


async def test_claims_are_found_in_every_way(notes: asyncpg.Connection, judging: asyncpg.Connection) -> None:
    await notes.execute("""
        drop policy own on notes;
        alter table notes alter owner type uuid using null;
        update notes set owner = '11111111-1111-4111-8111-111111111111' where id in (1, 2);
        create policy p on notes using (
          (select auth.uid()) = owner and auth.role() = 'anon' and auth.jwt() ->> 'sub' = owner::text
          and current_setting('request.jwt.claim.sub') = owner::text
          and current_setting('request.jwt.claim.role') = 'anon'
          and current_setting('role') = 'anon' and current_user = 'anon');
    """)
    sub = "11111111-1111-4111-8111-111111111111"
    other = "22222222-2222-4222-8222-222222222222"
    found = await agrees(notes, judging, subject(sub=sub), subject(sub=other), subject(sub=sub))
    assert found == ["1100", "0000", "1100"]


async def test_subselects_see_what_the_role_sees(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("""
        create table members (team int, who text, hidden bool);
        insert into members values (1, 'ada', false), (2, 'ada', true), (2, 'bob', false);
        alter table members enable row level security;
        create policy p on members using (not hidden);
        grant select on members to anon;
        alter policy own on notes using (exists (
          select from members m where m.team = notes.team and m.who = (auth.jwt() ->> 'sub')));
    """)
    found = await agrees(notes, judging, subject(sub="ada"), subject(sub="bob"), subject(sub="ada"))
    assert found == ["1100", "0011", "1100"]


async def test_functions_of_policies_find_what_a_session_would(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("""
        create schema private;
        create table private.members (team int, who text);
        insert into private.members values (1, 'ada');
        grant usage on schema private to anon;
        create table teams (team int);
        insert into teams values (1), (2);
        grant select on teams to anon;
        create function private.teams_of(who text) returns setof int language sql stable security definer
          set search_path = '' as 'select team from private.members as m where m.who = $1';
        create function known(team int) returns bool language plpgsql stable
          as 'begin return exists (select from teams as t where t.team = known.team); end';
        alter policy own on notes using (
          known(team) and team in (select private.teams_of(auth.jwt() ->> 'sub')));
    """)
    assert await agrees(notes, judging, subject(sub="ada"), subject(sub="bob")) == ["1100", "0000"]


async def test_policies_may_read_the_whole_row_and_the_table_by_name(
    admin: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await admin.execute("""
        create table "We ""ird" (id int primary key, "rowcast_rows" text, "i" int, "image" text,
          "r" bool, "$5" int, "rowcast_part" text, "We ""ird" int, "t" int, "n" int);
        insert into "We ""ird" values (1, 'x', 1, 'y', true, 1, 'z', 5, 7, 1),
          (2, 'x', 2, 'y', true, 1, 'z', 6, 7, 1);
        create function fine("We ""ird") returns bool language sql as 'select $1.i = 1 and $1.t = 7';
        alter table "We ""ird" enable row level security;
        grant select on "We ""ird" to anon;
        create policy p on "We ""ird" using (fine("We ""ird".*) and rowcast_rows = 'x' and image = 'y' and r
          and rowcast_part = 'z' and n = 1 and "$5" = 1
          and exists (select from pg_class i where "We ""ird"."We ""ird" = 5 and i.relname = 'pg_class'));
    """)
    assert await agrees(admin, judging, subject(), table='"We ""ird"') == ["10"]


async def test_a_policy_may_ask_for_the_partition(
    admin: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await admin.execute("""
        create table every (id int, v text, kind int, primary key (id, kind)) partition by list (kind);
        create table of_one (kind int not null, gone int, v text, id int not null);
        alter table of_one drop column gone;
        alter table every attach partition of_one for values in (1);
        create table of_two partition of every for values in (2);
        insert into every values (1, 'x', 1), (2, 'x', 2), (3, 'y', 1);
        alter table every enable row level security;
        grant select on every to anon;
        create policy p on every using (v = 'x' and tableoid = 'of_one'::regclass);
    """)
    visibility = Visibility(ROLES)
    one, two = await version(admin, "of_one", "every"), await version(admin, "of_two", "every")
    assert one.table == two.table == "every"
    rows = await images(admin, "of_one"), await images(admin, "of_two")
    assert await lines(visibility, judging, one, rows[0], subject()) == ["10"]
    assert await lines(visibility, judging, two, rows[1], subject()) == ["0"]
    assert await selected(admin, subject(), "every", [1, 2, 3]) == "100"


async def test_virtual_generated_columns_are_computed(
    admin: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    if await admin.fetchval("select current_setting('server_version_num')::int") < 180000:
        pytest.skip("virtual generated columns come with PostgreSQL 18")
    await admin.execute("""
        create table notes (id int primary key, a int, gone int,
          twice int generated always as (a * 2) virtual,
          "full" text generated always as ('n' || a) virtual);
        alter table notes drop column gone;
        insert into notes (id, a) values (1, 2), (2, 3), (3, null);
        alter table notes enable row level security;
        grant select on notes to anon;
        create policy p on notes using (twice = 4 and "full" = 'n2');
    """)
    assert '"twice":null' in (await images(admin, "notes"))[0].replace("4", "null")
    relation = await version(admin, "notes")
    rows = ['{"id":1,"a":2,"twice":null,"full":null}', '{"id":2,"a":3,"twice":null,"full":null}']
    assert await lines(Visibility(ROLES), judging, relation, rows, subject()) == ["10"]
