"""Statements of every kind beside the triggers: what is delivered is what happened, row by row."""

import json
from typing import Any

import asyncpg
import pytest

from support.streams import Kept, streaming, subscribed

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

# Tables with what they do, and the statements that write them; each between ";;".
SCENARIOS: dict[str, tuple[str, str]] = {
    "foreign keys that cascade": (
        """create table a (id int primary key, v text);
        create table b (id int primary key, a int default 9 references a on delete cascade on update cascade);
        create table c (id int primary key, a int references a on delete set null on update cascade);
        create table d (id int primary key, b int default 9 references b on delete set default
          on update cascade);""",
        """insert into a select n, 'a' from generate_series(1, 9) as n;;
        insert into b select n, 1 + n % 8 from generate_series(1, 40) as n;;
        insert into c select n, 1 + n % 8 from generate_series(1, 40) as n;;
        insert into d select n, n from generate_series(1, 40) as n;;
        update a set id = id + 100 where id < 5;;
        update b set id = 0, a = 9 where id = 20;;
        delete from a where id in (101, 6)""",
    ),
    "deferred constraints": (
        """create table a (id int primary key);
        create table b (id int primary key, a int references a deferrable initially deferred);""",
        """begin; insert into b values (1, 1); insert into a values (1); commit;;
        do $$ begin
          begin
            insert into b values (2, 2);
            set constraints all immediate;
          exception when foreign_key_violation then
            insert into b values (3, 1);
          end;
        end $$""",
    ),
    "constraint triggers that write at the end": (
        """create table a (id int primary key, n int);
        create table b (id int primary key, seen int);
        create function late() returns trigger language plpgsql as $$ begin
          insert into b values (new.id, new.n) on conflict (id) do update set seen = excluded.seen;
          return null;
        end $$;
        create constraint trigger late after insert or update on a deferrable initially deferred
          for each row execute function late();""",
        """begin; insert into a values (1, 1), (2, 2); update a set n = n * 10; commit;;
        update a set n = 5 where id = 1""",
    ),
    "triggers that change and suppress rows": (
        """create table a (id int primary key, v text, n int default 0);
        create function before() returns trigger language plpgsql as $$ begin
          if tg_op = 'DELETE' then
            return case when old.id % 2 = 0 then old end;
          end if;
          if new.id % 3 = 0 then return null; end if;
          new.v := upper(new.v);
          return new;
        end $$;
        create trigger before before insert or update or delete on a for each row execute function before();
        create function after() returns trigger language plpgsql as $$ begin
          update a set n = n + 1 where id = new.id and n < 2;
          return null;
        end $$;
        create trigger aaa after insert or update on a for each row execute function after();""",
        """insert into a select n, 'x' || n from generate_series(1, 12) as n;;
        update a set v = 'y' || id, id = id + 20 where id > 4;;
        delete from a""",
    ),
    "views, rules and instead-of triggers": (
        """create table a (id int primary key, v text);
        create table b (id int generated always as identity primary key, note text);
        create view simple as select * from a where id < 100;
        create view whole as select id, v as text from a;
        create function instead() returns trigger language plpgsql as $$ begin
          insert into a values (new.id, new.text); return new;
        end $$;
        create trigger instead instead of insert on whole for each row execute function instead();
        create rule also as on update to a do also insert into b (note) values (old.v || '>' || new.v);
        create rule never as on delete to a where old.id = 1 do instead nothing;""",
        """insert into simple values (1, 'one'), (2, 'two');;
        insert into whole values (3, 'three');;
        update simple set v = v || '!';;
        delete from a""",
    ),
    "partitions with row triggers": (
        """create table a (id int, at int, v text, primary key (id, at)) partition by range (at);
        create table a1 partition of a for values from (0) to (10);
        create table a2 (v text, at int not null, id int not null, primary key (id, at));
        alter table a attach partition a2 for values from (10) to (20);
        create table b (id int generated always as identity primary key, note text);
        create function noted() returns trigger language plpgsql as $$ begin
          insert into b (note) values (tg_op); return null;
        end $$;
        create trigger noted after insert or update or delete on a for each row execute function noted();""",
        """insert into a select n, n, 'v' from generate_series(1, 15) as n;;
        update a set at = at + 8 where at in (3, 4);;
        insert into a2 values ('direct', 12, 99);;
        delete from a where at > 12""",
    ),
    "copies, conflicts and statements in one": (
        """create table a (id int primary key, v text);
        create table b (like a including all);""",
        """copy a (id) from program 'seq 1 50';;
        insert into a select n, 'c' from generate_series(40, 60) as n
          on conflict (id) do update set v = excluded.v;;
        insert into a select n, 'd' from generate_series(55, 65) as n on conflict do nothing;;
        with gone as (delete from a where id % 2 = 0 returning *),
          kept as (insert into b select * from gone returning *)
          update a set v = 'beside' from kept where a.id = kept.id + 1;;
        update a set id = -id;;
        update a set id = id - 1 where false""",
    ),
    "savepoints, exceptions and cursors": (
        """create table a (id int primary key, v text);""",
        """begin; insert into a values (1, 'a'); savepoint s; insert into a values (2, 'b'); rollback to s;
          insert into a values (3, 'c'); release s; commit;;
        do $$ begin
          for i in 10..20 loop
            begin
              insert into a values (i, 'loop');
              if i % 3 = 0 then raise division_by_zero; end if;
            exception when division_by_zero then null;
            end;
          end loop;
        end $$;;
        do $$ declare c cursor for select * from a for update; begin
          for r in c loop
            if r.id % 2 = 0 then update a set v = 'even' where current of c;
            elsif r.id > 15 then delete from a where current of c; end if;
          end loop;
        end $$;;
        begin; insert into a values (90, 'gone'); rollback""",
    ),
    "columns of every kind": (
        """create domain positive as int check (value > 0) default 7;
        create table a (id bigint generated by default as identity primary key, p positive,
          twice int generated always as (p * 2) stored, raw bytea, nothing text);
        create table b (id int primary key);
        do $$ begin
          execute 'alter table b ' || (select string_agg('add column c' || i || ' int', ', ')
                                       from generate_series(1, 1599) as i);
        end $$;""",
        """insert into a (raw) values ('\\x00ff00');;
        insert into a (p, raw) values (3, decode(repeat('00', 5000), 'hex'));;
        update a set p = p + 1;;
        insert into b values (1);;
        update b set c1 = 1, c1599 = 2""",
    ),
    "work on the table itself": (
        """create table a (id int primary key, v text); create index of_v on a (v);""",
        """insert into a select n, 'a' from generate_series(1, 20) as n;;
        vacuum full a;;
        cluster a using a_pkey;;
        reindex table concurrently a;;
        begin; lock table a in access exclusive mode; update a set v = 'locked' where id < 3; commit;;
        alter table a alter column v type varchar(50);;
        create index concurrently another on a (id, v);;
        analyze a;;
        delete from a where id = 20""",
    ),
    "functions in queries that could run in parallel": (
        """create table a (id int primary key, v text);
        create table src as select generate_series(1, 5000) as n;
        create function put(n int) returns int language sql as
          $$ insert into a values (n, 'f') returning id $$;""",
        """select set_config(name, 'on', false) from pg_settings
          where name in ('force_parallel_mode', 'debug_parallel_query');;
        select put(n) from src where n % 100 = 0;;
        create table a_copy as select * from a where id > 1000;;
        insert into a select n + 10000, 'i' from src where n % 500 = 0""",
    ),
    "commits that wait for no disk": (
        """create table a (id int primary key, v text);""",
        """set synchronous_commit = off;;
        insert into a select n, 'a' from generate_series(1, 100) as n;;
        update a set v = 'b' where id < 50""",
    ),
}
MERGES = """insert into a values (1, 'a'), (2, 'b');;
merge into a using (values (1, 'A'), (2, null), (3, 'C')) as new (id, v) on a.id = new.id
  when matched and new.v is null then delete when matched then update set v = new.v
  when not matched then insert values (new.id, new.v)"""


async def happened(dsn: str, tables: str, writes: str) -> None:
    """Write while somebody listens, and compare what they have with what the tables hold."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(tables)
    await connection.execute("create table done (id int primary key)")
    names = [
        row["relname"]
        for row in await connection.fetch(
            "select relname from pg_class where relnamespace = 'public'::regnamespace"
            " and relkind in ('r', 'p') and not relispartition and relname <> 'src'"
        )
    ]
    for name in names:
        await connection.execute(
            f"alter table {name} replica identity full; grant select on {name} to service_role;"
            f"alter publication supabase_realtime add table {name}"
        )
    if connection.get_server_version().major >= 18:
        # Postgres refuses updates where the replica identity has a generated column that is not published.
        await connection.execute(
            "alter publication supabase_realtime set (publish_generated_columns = stored)"
        )
    for (partition,) in await connection.fetch(
        "select relname from pg_class"
        " where relispartition and relkind = 'r' and relnamespace = 'public'::regnamespace"
    ):
        await connection.execute(f"alter table {partition} replica identity full")
    async with streaming(dsn) as stream:
        kept = await subscribed(stream, "*")
        # Not asyncpg's own transaction around all: each statement commits by itself.
        for statement in writes.split(";;"):
            await connection.execute(statement)
        await connection.execute("insert into done values (1)")
        await kept.until(lambda: any(change["table"] == "done" for change in kept.changes))
        assert kept.losses == 0
    for name in names:
        rows = await connection.fetch(f"select to_jsonb(r.*)::text as row from {name} as r")
        # Bytes are on the wire without the sign that they are hexadecimal.
        held = [json.loads(row["row"].replace(r"\\x", "")) for row in rows]
        assert mirrored(kept, name) == sorted(json.dumps(row) for row in held), name
    await connection.close()


def mirrored(kept: Kept, table: str) -> list[str]:
    """The rows of a table as somebody has them who did what every change said."""
    rows: list[dict[str, Any]] = []
    for change in (change for change in kept.changes if change["table"] == table):
        if change["type"] in ("UPDATE", "DELETE"):
            rows.remove(change["old_record"])
        if change["type"] in ("INSERT", "UPDATE"):
            rows.append(change["record"])
    return sorted(json.dumps(_as_jsonb(row)) for row in rows)


def _as_jsonb(row: dict[str, Any]) -> dict[str, Any]:
    """Keys in the order of jsonb: shorter ones first."""
    return dict(sorted(row.items(), key=lambda item: (len(item[0].encode()), item[0].encode())))


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_what_is_delivered_is_what_happened(migrated: str, scenario: str) -> None:
    await happened(migrated, *SCENARIOS[scenario])


@pytest.mark.parametrize(("needs", "more"), [(15, ""), (17, " returning merge_action(), a.*")])
async def test_merges_deliver_what_each_branch_did(migrated: str, needs: int, more: str) -> None:
    connection = await asyncpg.connect(migrated)
    version = connection.get_server_version().major
    await connection.close()
    if version < needs:
        pytest.skip(f"that came with PostgreSQL {needs}")
    await happened(migrated, "create table a (id int primary key, v text)", MERGES + more)


async def test_a_rewrite_of_the_table_gives_no_changes_and_the_next_change_has_the_column(
    migrated: str,
) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute(
        "create table a (id int primary key); grant select on a to service_role;"
        "alter publication supabase_realtime add table a; insert into a values (1), (2)"
    )
    async with streaming(migrated) as stream:
        kept = await subscribed(stream, "a")
        await connection.execute("alter table a add column n float8 default random()")
        await connection.execute("update a set n = 5 where id = 1")
        await kept.until(lambda: len(kept.changes) == 1)
        assert kept.changes[0]["record"] == {"id": 1, "n": 5}
    await connection.close()


async def test_a_truncate_that_cascades_is_captured_for_each_table(migrated: str) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute(
        "create table a (id int primary key); create table b (id int primary key, a int references a);"
        "alter publication supabase_realtime add table a, b; select rowcast.renew_lease(60);"
        "insert into a values (1); insert into b values (1, 1); truncate a cascade"
    )
    found = await connection.fetch(
        "select r.table_name from rowcast.outbox_0 as o join rowcast.relations as r on r.id = o.relation"
        " where o.op = 'T' order by 1"
    )
    assert [row["table_name"] for row in found] == ["a", "b"]
    await connection.close()
