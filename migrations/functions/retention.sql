-- The lease of capture, the marks, and the rotation of the outbox.

-- The tables that take turns.
create or replace function rowcast.outboxes() returns table (n int, unlogged boolean)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select n, (select relpersistence = 'u' from pg_class where oid = ('rowcast.outbox_' || n)::regclass)
  from generate_series(0, 2) as n
$$;

-- The size in bytes at which triggers stop capturing; 0 where none was set yet.
create sequence if not exists rowcast.outbox_limit as bigint minvalue 0;

create or replace function rowcast.bound_outbox(bytes bigint) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  select setval('rowcast.outbox_limit', bytes) from rowcast.outbox_limit as l
  where l.last_value <> bytes or not l.is_called
$$;

-- Bytes that the outbox takes.
create or replace function rowcast.outbox_size() returns bigint
language sql stable set search_path = pg_catalog, pg_temp as $$
  select sum(pg_total_relation_size(t))::bigint
  from unnest(array['rowcast.outbox_0', 'rowcast.outbox_1', 'rowcast.outbox_2']::regclass[]) as t
$$;

create or replace function rowcast.outbox_full() returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select l.is_called and l.last_value > 0 and rowcast.outbox_size() > l.last_value from rowcast.outbox_limit as l
$$;

-- Called by the triggers now and then: end the lease where the outbox is full. The user's disk comes first.
create or replace function rowcast.stop_if_full() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '10ms' as $$
begin
  if rowcast.outbox_full() then
    perform setval('rowcast.lease_until', 0);
  end if;
exception when lock_not_available then
  -- It is being trimmed at this moment.
  null;
end $$;

-- What keeps the triggers from writing down what changes, in a sentence; null where nothing does.
create or replace function rowcast.unfit() returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  with owners as (
    select distinct p.proowner as role from pg_proc as p
    where p.pronamespace = 'rowcast'::regnamespace and p.proname like 'capture\_%'
  )
  select coalesce(
    (select format('the function rowcast.%s is gone: run rowcast migrate', name)
     from unnest(array['capture_insert', 'capture_update', 'capture_delete', 'capture_truncate', 'capture_insert_row',
                       'capture_update_row', 'capture_delete_row', 'capture_insert_confined', 'capture_update_confined',
                       'capture_delete_confined', 'capture_insert_row_confined', 'capture_update_row_confined',
                       'capture_delete_row_confined', 'row_json', 'draw_order', 'pin', 'unpin', 'drawn_order',
                       'stop_if_full', 'capture_message']) as name
     where not exists (select from pg_proc as p where p.pronamespace = 'rowcast'::regnamespace and p.proname = name)
     limit 1),
    (select format('%s may not use the schema rowcast, so writes to captured tables fail: run rowcast migrate',
                   o.role::regrole)
     from owners as o where not has_schema_privilege(o.role, 'rowcast', 'usage') limit 1),
    (select format('%s may not insert into rowcast.outbox_%s, so writes to captured tables fail: run rowcast migrate',
                   o.role::regrole, n)
     from owners as o, generate_series(0, 2) as n
     where not has_table_privilege(o.role, 'rowcast.outbox_' || n, 'insert') limit 1),
    (select format('%s may not use rowcast.%s, so writes to captured tables fail: run rowcast migrate',
                   o.role::regrole, k.name)
     from owners as o,
          (values ('seq', 'usage'), ('current_outbox', 'select'), ('asleep_until', 'select'),
                  ('lease_until', 'select')) as k (name, right_)
     where not has_sequence_privilege(o.role, 'rowcast.' || k.name, k.right_) limit 1),
    (select format('%s may not call %s, so writes to captured tables fail: run rowcast migrate',
                   o.role::regrole, p.oid::regprocedure)
     from owners as o, pg_proc as p
     where p.pronamespace = 'rowcast'::regnamespace and p.proname in ('pin', 'unpin', 'drawn_order', 'stop_if_full', 'row_json')
       and not has_function_privilege(o.role, p.oid, 'execute') limit 1),
    case when rowcast.outbox_full() then
      'the outbox has twice the size of ROWCAST_RETENTION_SIZE, and is not trimmed while a transaction that wrote, '
      'or one that reads the outbox as pg_dump does, stays open: changes are not captured until it ends' end)
$$;

-- The database that the outbox was written in; null before the first lease.
alter table rowcast.epoch add column if not exists home text;

-- Empty what was restored from a dump, or copied with the database: its xids are those of another one, and would hide
-- changes here or seem to be changes.
create or replace function rowcast.settle_in() returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  here constant text := (select concat_ws('/', s.system_identifier, d.oid)
                         from pg_control_system() as s, pg_database as d where d.datname = current_database());
  moved constant boolean := (select e.home <> here from rowcast.epoch as e);
begin
  if moved then
    lock table rowcast.outbox_0, rowcast.outbox_1, rowcast.outbox_2 in access exclusive mode;
    truncate rowcast.outbox_0, rowcast.outbox_1, rowcast.outbox_2;
    delete from rowcast.marks;
    delete from rowcast.rotation;
    update rowcast.trimmed set xid = '0';
    perform setval('rowcast.current_outbox', 0);
    insert into rowcast.rotation (outbox, switched_at) values (0, clock_timestamp());
  end if;
  update rowcast.epoch set home = here where home is distinct from here;
  return coalesce(moved, false);
end $$;

-- Keep the triggers capturing for so many seconds more. Where the lease had run out, changes went uncaptured:
-- a new epoch begins. Returns whether one did. A lease that ended since the outbox is full stays so until it is not.
create or replace function rowcast.renew_lease(seconds bigint) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '500ms' as $$
declare
  lapsed boolean;
begin
  perform from rowcast.epoch for update;
  lapsed := rowcast.settle_in();
  select lapsed or last_value <= extract(epoch from clock_timestamp()) into lapsed from rowcast.lease_until;
  if lapsed and rowcast.outbox_full() then
    return false;
  end if;
  if lapsed then
    update rowcast.epoch set value = gen_random_uuid(), since = clock_timestamp();
  end if;
  perform setval('rowcast.lease_until', (extract(epoch from clock_timestamp()) + seconds)::bigint);
  return lapsed;
end $$;

-- Which history of the database this is. Positions, and a reader's kept place, mean something within one only: it
-- differs after a lapse of the lease, in a copy of the database, after a promotion, and after a crash if the outbox
-- was unlogged.
create or replace function rowcast.history() returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  survived text;
begin
  if exists (select from rowcast.outboxes() as o where o.unlogged) then
    insert into rowcast.survival (value) values (gen_random_uuid()) on conflict do nothing;
    select value::text into survived from rowcast.survival;
  end if;
  return (
    select concat_ws(':', e.value, s.system_identifier, d.oid,
                     substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8), survived)
    from rowcast.epoch as e, pg_control_system() as s, pg_database as d where d.datname = current_database()
  );
end $$;

-- Make the tables of the outbox unlogged, or logged, each when it is empty: a full one would be rewritten under its
-- writers. Returns whether all are. Set a short lock_timeout before.
create or replace function rowcast.keep_outbox(unlogged boolean) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  part record;
  filled boolean;
  done boolean := true;
begin
  -- Our own DDL is no news of the catalog.
  perform set_config('rowcast.installing', 'on', true);
  for part in select * from rowcast.outboxes() as o where o.unlogged <> keep_outbox.unlogged loop
    execute format('select exists (select from rowcast.outbox_%s)', part.n) into filled;
    if not filled then
      execute format('lock table rowcast.outbox_%s in access exclusive mode', part.n);
      -- Somebody may have written while the lock was waited for.
      execute format('select exists (select from rowcast.outbox_%s)', part.n) into filled;
    end if;
    if filled then
      done := false;
    else
      execute format('alter table rowcast.outbox_%s set %s', part.n,
                     case when keep_outbox.unlogged then 'unlogged' else 'logged' end);
    end if;
  end loop;
  perform set_config('rowcast.installing', 'off', true);
  return done;
end $$;

-- Record the present snapshot.
create or replace function rowcast.mark() returns void
language sql set search_path = pg_catalog, pg_temp as $$
  insert into rowcast.marks (at, snap, upto)
  select clock_timestamp(), pg_current_snapshot(), pg_snapshot_xmax(pg_current_snapshot())
$$;

-- Turn to the next table if it is empty: by age, or now. The caller draws an xid next, in a transaction of its own,
-- and hands it to rowcast.left_outbox: every writer that may still write into the old table has a lower one.
create or replace function rowcast.turn_outbox(older_than interval, now_ boolean) returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  present constant int := (select last_value from rowcast.current_outbox);
  following constant int := (present + 1) % 3;
begin
  -- A sequence keeps its value when the transaction that set it rolls back.
  insert into rowcast.rotation (outbox, switched_at) values (present, clock_timestamp()) on conflict do nothing;
  if exists (select from rowcast.rotation where outbox = following)
     or not exists (
       select from rowcast.rotation where outbox = present
         and (now_ or switched_at <= clock_timestamp() - older_than)) then
    return null;
  end if;
  insert into rowcast.rotation (outbox, switched_at) values (following, clock_timestamp());
  perform setval('rowcast.current_outbox', following);
  return present;
end $$;

create or replace function rowcast.left_outbox() returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update rowcast.rotation set left_xid = pg_current_xact_id()
  where left_xid is null and outbox <> (select last_value from rowcast.current_outbox)
$$;

-- The table that may be emptied: a mark recorded at least `retention` ago has an xmin above the xid drawn when it was
-- left, so all its writers had ended by then. Null retention: any mark will do.
create or replace function rowcast.trimmable(retention interval) returns int
language sql stable set search_path = pg_catalog, pg_temp as $$
  select r.outbox from rowcast.rotation as r
  where r.left_xid is not null and exists (
    select from rowcast.marks as m
    where (retention is null or m.at <= clock_timestamp() - retention) and pg_snapshot_xmin(m.snap) > r.left_xid)
  order by r.switched_at limit 1
$$;

-- Empty one table. Set a short lock_timeout before: a TRUNCATE that waits stalls every reader behind it.
create or replace function rowcast.trim(outbox int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  execute format('lock table rowcast.outbox_%s in access exclusive mode', trim.outbox);
  execute format($q$update rowcast.trimmed as t set xid = greatest(t.xid,
    coalesce((select o.xid from rowcast.outbox_%s as o order by o.xid desc limit 1), t.xid))$q$, trim.outbox);
  execute format('truncate rowcast.outbox_%s', trim.outbox);
  delete from rowcast.rotation as r where r.outbox = trim.outbox;
  -- A replay from a mark that the trimmed changes were not visible in would be a gap.
  delete from rowcast.marks as m
    where pg_snapshot_xmin(m.snap) <= (select t.xid from rowcast.trimmed as t)
      and m.at < (select max(at) from rowcast.marks);
end $$;

-- Forget versions of tables that no trigger carries and no change refers to. A trigger is replaced under a lock that
-- waits for the table's writers, so all changes with the old version were committed by then; they are gone once every
-- table of the outbox has been begun anew since.
create or replace function rowcast.prune_relations() returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update rowcast.relations as r set retired_at = case when c.relation is null then clock_timestamp() end
    from rowcast.relations as v left join rowcast.captured as c on c.relation = v.id
    where v.id = r.id and (c.relation is null) <> (r.retired_at is not null);
  delete from rowcast.relations as r
    where r.retired_at is not null
      and not exists (select from rowcast.rotation as t where t.switched_at <= r.retired_at);
$$;

revoke all on all functions in schema rowcast from public;
select rowcast.equip_functions();
