"""What a role sees of row images: policies as Postgres puts them together, and what cannot be judged."""

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from rowcast.auth.visibility import Visibility
from rowcast.db.connection import LOST
from rowcast.model.claims import Subject
from support.visible import images, lines, selected, subject, version

pytestmark = pytest.mark.anyio

ROLES = ("anon", "authenticated", "service_role")


@pytest.fixture
async def admin(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection, for making tables."""
    connection = await asyncpg.connect(migrated)
    yield connection
    await connection.close()


@pytest.fixture
async def judging(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to judge on."""
    connection = await asyncpg.connect(migrated, statement_cache_size=0)
    yield connection
    connection.terminate()


@pytest.fixture
async def notes(admin: asyncpg.Connection) -> asyncpg.Connection:
    """A table ``notes`` with four rows, whose owner alone may read them."""
    await admin.execute("""
        create table notes (id int primary key, owner text, body text, team int);
        insert into notes values (1, 'ada', 'a', 1), (2, 'bob', 'b', 1),
          (3, null, 'c', 2), (4, 'ada', 'd', 2);
        alter table notes enable row level security;
        grant select on notes to anon, authenticated, service_role;
        create policy own on notes for select using (owner = auth.jwt() ->> 'sub');
    """)
    return admin


async def _agrees(
    admin: asyncpg.Connection, judging: asyncpg.Connection, *subjects: Subject, table: str = "notes"
) -> list[str]:
    """What is answered, once it is known to be what a session would find."""
    relation = await version(admin, table)
    rows = await images(admin, table)
    visibility = Visibility(ROLES)
    verdicts = await visibility.judge(judging, relation, rows, subjects)
    answered = [verdicts.lines[one] for one in subjects]
    ids = [json.loads(row)["id"] for row in rows]
    assert answered == [await selected(admin, one, table, ids) for one in subjects]
    return answered


async def test_each_subject_sees_its_own_rows(notes: asyncpg.Connection, judging: asyncpg.Connection) -> None:
    found = await _agrees(
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
    found = await _agrees(notes, judging, subject(sub="ada"), subject("authenticated", sub="ada"))
    assert found == ["1000", "1010"]


async def test_restrictive_policies_alone_let_nothing_through(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("drop policy own on notes; create policy p on notes as restrictive using (true)")
    assert await _agrees(notes, judging, subject(sub="ada")) == ["0000"]


async def test_a_policy_that_says_nothing_for_select_lets_nothing_through(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("drop policy own on notes; create policy p on notes for select")
    assert await _agrees(notes, judging, subject(sub="ada")) == ["0000"]


async def test_who_bypasses_policies_sees_everything(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    assert await _agrees(notes, judging, subject("service_role")) == ["1111"]
    await notes.execute("alter table notes owner to authenticated; drop policy own on notes")
    assert await _agrees(notes, judging, subject("authenticated")) == ["1111"]
    await notes.execute("alter table notes force row level security")
    assert await _agrees(notes, judging, subject("authenticated")) == ["0000"]


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
    found = await _agrees(notes, judging, subject(sub=sub), subject(sub=other), subject(sub=sub))
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
    found = await _agrees(notes, judging, subject(sub="ada"), subject(sub="bob"), subject(sub="ada"))
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
    assert await _agrees(notes, judging, subject(sub="ada"), subject(sub="bob")) == ["1100", "0000"]


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
    assert await _agrees(admin, judging, subject(), table='"We ""ird"') == ["10"]


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


# What images do not say


async def test_system_columns_are_read_from_the_row_itself(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("alter policy own on notes using (xmin is not null and owner = auth.jwt() ->> 'sub')")
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    await notes.execute("delete from notes where id = 4")
    verdicts = await Visibility(ROLES).judge(judging, relation, rows, [subject(sub="ada")])
    assert verdicts.lines == {subject(sub="ada"): "1000"}
    assert verdicts.doubts.live == 4


async def test_a_version_that_no_longer_fits_is_judged_by_its_row(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    visibility, ada = Visibility(ROLES), subject(sub="ada")
    await notes.execute("alter table notes drop body")
    visibility.forget()
    verdicts = await visibility.judge(judging, relation, rows, [ada])
    assert (verdicts.lines[ada], verdicts.doubts.live) == ("1001", 0)
    await notes.execute("alter table notes rename owner to author")
    visibility.forget()
    verdicts = await visibility.judge(judging, relation, rows, [ada])
    assert (verdicts.lines[ada], verdicts.doubts.live) == ("1001", 4)
    await notes.execute("alter table notes alter id type bigint")
    visibility.forget()
    verdicts = await visibility.judge(judging, relation, rows, [ada])
    assert (verdicts.lines[ada], verdicts.doubts.unjudged) == ("0000", 4)


async def test_a_column_that_came_later_is_not_taken_for_null(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    await notes.execute("""
        alter table notes add hidden bool default true;
        alter policy own on notes using (hidden is null);
    """)
    verdicts = await Visibility(ROLES).judge(judging, relation, rows, [subject(sub="ada")])
    assert verdicts.lines == {subject(sub="ada"): "0000"}


async def test_a_table_that_is_gone_is_hidden(notes: asyncpg.Connection, judging: asyncpg.Connection) -> None:
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    visibility, ada = Visibility(ROLES), subject(sub="ada")
    assert await lines(visibility, judging, relation, rows, ada) == ["1001"]
    await notes.execute("drop table notes")
    assert await lines(visibility, judging, relation, rows, ada) == ["0000"]
    visibility.forget()
    assert await lines(visibility, judging, relation, rows, ada) == ["0000"]


async def test_values_that_do_not_read_back_are_judged_by_their_row(
    admin: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await admin.execute("""
        create type tint as enum ('red', 'green');
        create function tint_to_json(tint) returns json language sql immutable
          as $$ select '"green"'::json $$;
        create cast (tint as json) with function tint_to_json(tint);
        create table notes (id int primary key, t tint, n int);
        insert into notes values (1, 'red', 1), (2, 'green', 1);
        alter table notes enable row level security;
        grant select on notes to anon;
        create policy p on notes using (t = 'green');
    """)
    assert await _agrees(admin, judging, subject()) == ["01"]
    relation = await version(admin, "notes")
    rows = await images(admin, "notes")
    await admin.execute("alter policy p on notes using (n = 1)")
    verdicts = await Visibility(ROLES).judge(judging, relation, rows, [subject()])
    assert (verdicts.lines[subject()], verdicts.doubts.live) == ("11", 0)


async def test_an_image_that_cannot_be_read_does_not_hide_the_others(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    rows[1] = '{"id":"no number","owner":"ada","team":1}'
    rows[2] = '{"id":1,"owner":"ada","team":"no number"}'
    verdicts = await Visibility(ROLES).judge(
        judging, relation, rows, [subject(sub="ada"), subject(sub="bob")]
    )
    assert list(verdicts.lines.values()) == ["1011", "0000"]
    assert (verdicts.doubts.failed, verdicts.doubts.live) == (2, 2)


async def test_names_that_the_role_may_not_look_up_are_left_to_the_table(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("""
        create schema private;
        create function private.fine(text) returns bool language sql security definer
          as $$ select $1 = current_setting('request.jwt.claim.sub') $$;
        alter policy own on notes using (private.fine(owner));
    """)
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    visibility = Visibility(ROLES)
    for _ in range(2):
        verdicts = await visibility.judge(judging, relation, rows, [subject(sub="ada"), subject(sub="bob")])
        assert list(verdicts.lines.values()) == ["1001", "0100"]
        assert verdicts.doubts.live == 8
    await notes.execute("grant usage on schema private to anon")
    visibility.forget()
    verdicts = await visibility.judge(judging, relation, rows, [subject(sub="ada"), subject(sub="bob")])
    assert (list(verdicts.lines.values()), verdicts.doubts.live) == (["1001", "0100"], 0)


async def test_functions_that_would_be_planned_into_the_policy_are_left_to_the_table(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("""
        create table teams (team int);
        insert into teams values (1);
        grant select on teams to anon;
        create function known(team int) returns bool language sql stable
          as 'select exists (select from teams as t where t.team = $1)';
        alter policy own on notes using (known(team));
    """)
    assert await _agrees(notes, judging, subject()) == ["1100"]


async def test_nobody_waits_for_a_table_that_is_locked(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("""
        create table members (who text);
        grant select on members to anon;
        alter policy own on notes using (exists (select from members where who = owner));
    """)
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    visibility, ada = Visibility(ROLES, seconds=0.05, limit=0.1, rest=0.0), subject(sub="ada")
    for known in (False, True):
        if known:
            assert await lines(visibility, judging, relation, rows, ada) == ["0000"]
        async with notes.transaction():
            await notes.execute("lock table members in access exclusive mode")
            verdicts = await visibility.judge(judging, relation, rows, [ada])
            assert (verdicts.lines[ada], verdicts.doubts.slow) == ("0000", 4)


# Policies that fail, and policies that take too long


async def test_an_error_hides_that_row_from_that_subject_only(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("""
        alter policy own on notes using (
          case when id = 2 and auth.jwt() ->> 'sub' = 'ada' then 1 / (id - 2) = 0 else true end);
    """)
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    verdicts = await Visibility(ROLES).judge(
        judging, relation, rows, [subject(sub="ada"), subject(sub="bob")]
    )
    assert list(verdicts.lines.values()) == ["1011", "1111"]
    assert verdicts.doubts.failed == 1


async def test_errors_of_every_kind_are_kept_apart(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("""
        create function failing(id int) returns bool language plpgsql as $$
        begin
          if id = 1 then assert false; end if;
          if id = 2 then raise sqlstate 'RW000'; end if;
          if id = 3 then raise insufficient_privilege; end if;
          return true;
        end $$;
        alter policy own on notes using (failing(id));
    """)
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    verdicts = await Visibility(ROLES).judge(judging, relation, rows, [subject()])
    assert verdicts.lines == {subject(): "0001"}
    assert verdicts.doubts.failed == 3


async def test_a_slow_subject_does_not_hide_rows_from_the_others(
    notes: asyncpg.Connection, judging: asyncpg.Connection
) -> None:
    await notes.execute("""
        alter policy own on notes using (
          case when auth.jwt() ->> 'sub' = 'slow' then pg_sleep(60) is null else true end);
    """)
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    everybody = [subject(sub=str(number)) for number in range(40)]
    visibility = Visibility(ROLES, seconds=0.1, limit=30.0)
    verdicts = await visibility.judge(
        judging, relation, rows, [*everybody[:20], subject(sub="slow"), *everybody[20:]]
    )
    assert {verdicts.lines[one] for one in everybody} == {"1111"}
    assert verdicts.lines[subject(sub="slow")] == "0000"
    assert verdicts.doubts.slow == 4
    # It rests: the next time nothing is asked for it.
    await notes.execute("alter policy own on notes using (true)")
    verdicts = await visibility.judge(judging, relation, rows, [subject(sub="slow")])
    assert verdicts.doubts.slow == 4
    visibility.forget()
    assert await lines(visibility, judging, relation, rows, subject(sub="slow")) == ["1111"]


async def test_a_call_ends_at_its_limit(notes: asyncpg.Connection, judging: asyncpg.Connection) -> None:
    await notes.execute("alter policy own on notes using (pg_sleep(60) is null)")
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    passing = iter([0.0, *([0.5] * 20), *([3.0] * 1000)])
    visibility = Visibility(ROLES, seconds=0.02, limit=2.0, clock=lambda: next(passing))
    everybody = [subject(sub=str(number)) for number in range(8)]
    verdicts = await visibility.judge(judging, relation, rows, everybody)
    assert set(verdicts.lines.values()) == {"0000"}
    assert verdicts.doubts.slow == 32


async def test_a_policy_that_will_not_be_cancelled_is_given_up(
    notes: asyncpg.Connection, migrated: str
) -> None:
    await notes.execute("""
        create function stubborn() returns bool language plpgsql as $$
        begin
          loop
            begin
              perform pg_sleep(60);
            exception when query_canceled then null;
            end;
          end loop;
        end $$;
        alter policy own on notes using (stubborn());
    """)
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    visibility = Visibility(ROLES, seconds=0.05)
    for _ in range(2):
        connection = await asyncpg.connect(migrated, statement_cache_size=0)
        with pytest.raises(LOST):
            await visibility.judge(connection, relation, rows, [subject()])
        assert connection.is_closed()
    connection = await asyncpg.connect(migrated, statement_cache_size=0)
    verdicts = await visibility.judge(connection, relation, rows, [subject()])
    assert (verdicts.lines[subject()], verdicts.doubts.slow) == ("0000", 4)
    while await notes.fetchval(
        "select count(*) from pg_stat_activity where query like '%rowcast_judge%'"
        " and pid <> pg_backend_pid() and state = 'active'"
    ):
        pass
    await connection.close()
