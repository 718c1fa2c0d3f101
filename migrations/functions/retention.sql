-- The lease of capture, the marks, and the rotation of the outbox.

-- The tables that take turns.
create or replace function rowcast.outboxes() returns table (n int, unlogged boolean)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select n, (select relpersistence = 'u' from pg_class where oid = ('rowcast.outbox_' || n)::regclass)
  from generate_series(0, 2) as n
$$;

-- Keep the triggers capturing for so many seconds more. Where the lease had run out, changes went uncaptured:
-- a new epoch begins. Returns whether one did.
create or replace function rowcast.renew_lease(seconds bigint) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  lapsed boolean;
begin
  perform from rowcast.epoch for update;
  select last_value <= extract(epoch from clock_timestamp()) into lapsed from rowcast.lease_until;
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

-- Bytes that the outbox takes.
create or replace function rowcast.outbox_size() returns bigint
language sql stable set search_path = pg_catalog, pg_temp as $$
  select sum(pg_total_relation_size(t))::bigint
  from unnest(array['rowcast.outbox_0', 'rowcast.outbox_1', 'rowcast.outbox_2']::regclass[]) as t
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
