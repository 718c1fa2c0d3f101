"""What images do not say, and policies that fail or take too long: whatever cannot be judged is hidden."""

from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from rowcast.auth.judges import Judges
from rowcast.auth.visibility import Visibility
from rowcast.db.connection import LOST
from support.links import Relay, Weather
from support.visible import ROLES, agrees, images, lines, subject, version

pytestmark = pytest.mark.anyio


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
    assert await agrees(admin, judging, subject()) == ["01"]
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
    assert await agrees(notes, judging, subject()) == ["1100"]


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
            assert (verdicts.lines[ada], verdicts.doubts.slow) == ("????", 4)


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
    assert verdicts.lines[subject(sub="slow")] == "????"
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
    visibility = Visibility(ROLES, seconds=0.02, limit=0.1)
    everybody = [subject(sub=str(number)) for number in range(8)]
    verdicts = await visibility.judge(judging, relation, rows, everybody)
    assert set(verdicts.lines.values()) == {"????"}
    assert verdicts.doubts.slow == 32
    # A limit for each of 63 questions would be as long again for each.
    assert 0.1 <= visibility._judges.spent < 0.2


async def test_what_the_network_takes_counts_for_no_limit(notes: asyncpg.Connection, migrated: str) -> None:
    await notes.execute("create policy other on notes for select to authenticated using (id > 0)")
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    port = urlsplit(migrated).port
    assert port is not None
    relay = Relay(("127.0.0.1", port))
    await relay.start()
    relay.weather = Weather(delay=0.1)
    connection = await asyncpg.connect(
        migrated.replace(f":{port}/", f":{relay.port}/"), statement_cache_size=0
    )
    # Two roles are two questions, and the first alone takes longer than that by far.
    visibility = Visibility(ROLES, seconds=2.0, limit=1.0)
    subjects = [subject(sub="ada"), subject("authenticated")]
    assert await lines(visibility, connection, relation, rows, *subjects) == ["1001", "1111"]
    await connection.close()
    await relay.stop()


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
    assert (verdicts.lines[subject()], verdicts.doubts.slow) == ("????", 4)
    while await notes.fetchval(
        "select count(*) from pg_stat_activity"
        " where query like '%rowcast_judge%' and datname = current_database()"
        " and pid <> pg_backend_pid() and state = 'active'"
    ):
        pass
    await connection.close()


async def test_a_network_that_is_silent_for_a_while_hides_nothing(
    notes: asyncpg.Connection, migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcast.auth.judges.PATIENCE", 0.05)
    relation, rows = await version(notes, "notes"), await images(notes, "notes")
    visibility, port = Visibility(ROLES, seconds=0.05), urlsplit(migrated).port
    assert port is not None
    relay = Relay(("127.0.0.1", port))
    await relay.start()
    name = Judges._name

    async def silent(self: Judges, *more: Any) -> str:
        found = await name(self, *more)
        for link in relay.links:
            link.swallow()
        return found

    address = migrated.replace(f":{port}/", f":{relay.port}/")
    for _ in range(3):
        connection = await asyncpg.connect(address, statement_cache_size=0)
        with monkeypatch.context() as patched:
            patched.setattr(Judges, "_name", silent)
            with pytest.raises(LOST):
                await visibility.judge(connection, relation, rows, [subject(sub="ada")])
    await relay.stop()
    connection = await asyncpg.connect(migrated, statement_cache_size=0)
    assert await lines(visibility, connection, relation, rows, subject(sub="ada")) == ["1001"]
    await connection.close()
