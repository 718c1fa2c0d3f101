-- The triggers of captured tables: which there are to be, which stand, and how the ones become the others.

-- Which session settings the JSON of a table's rows depends on.
create or replace function rowcast.settings_of(relid oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  with types as (
    select coalesce(nullif(y.typelem, 0), y.oid) as type
    from pg_attribute as a join pg_type as y on y.oid = a.atttypid
    where a.attrelid = settings_of.relid and a.attnum > 0 and not a.attisdropped
  )
  select case
    when bool_or(type <> all (array['bool', 'int2', 'int4', 'int8', 'oid', 'numeric', 'text', 'varchar', 'bpchar',
      'name', 'uuid', 'json', 'jsonb', 'date', 'time', 'timestamp', 'inet', 'cidr', 'timestamptz']::regtype[]::oid[])
      and not exists (select from pg_enum as e where e.enumtypid = type)) then 'all'
    when bool_or(type = 'timestamptz'::regtype) then 'time'
    else '' end
  from types
$$;

-- The triggers that a captured table is to have. AFTER triggers of one event fire by name: '!' sorts before what
-- users write, and '~' after it.
create or replace function rowcast.wanted_triggers(
  relid oid, ops text, way text, nests boolean, filter text, version int)
returns table (name text, function_name text, arguments text[], definition text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with parts as (
    select '!rowcast_' || event as name,
           case when filter is null
                then concat('capture_', event, case when way = 'row' then '_row' end, case when confined then '_confined' end)
                else (select f.name from rowcast.capture_function(event, way, filter, confined) as f) end as function_name,
           case when extra.arguments = array['', ''] then array[version::text]
                else version::text || extra.arguments end as arguments,
           'after ' || event as moment,
           case when way = 'row' then 'for each row' else tables || ' for each statement' end as scope
    from (values
      ('I', 'insert', 'referencing new table as rowcast_new'),
      ('U', 'update', 'referencing old table as rowcast_old new table as rowcast_new'),
      ('D', 'delete', 'referencing old table as rowcast_old')
    ) as p (op, event, tables)
    cross join (values (array[
      rowcast.settings_of(relid),
      case when nests then coalesce(pg_partition_root(relid), relid)::oid::text else '' end
    ])) as extra (arguments)
    cross join rowcast.calls_casts(relid, of_others => false) as confined
    where position(op in ops) > 0 and way <> 'parts'
    union all
    select '!rowcast_truncate', 'capture_truncate', array[version::text], 'after truncate',
           'for each statement'
    where position('T' in ops) > 0
    union all
    select '~rowcast_order', 'draw_order', array[coalesce(pg_partition_root(relid), relid)::oid::text],
           'before insert or update or delete', 'for each statement'
    where nests and way <> 'parts'
  )
  select p.name, p.function_name, p.arguments,
         format('create or replace trigger %I %s on %s %s execute function rowcast.%I(%s)',
                p.name, p.moment, relid::regclass, p.scope, p.function_name,
                (select string_agg(quote_literal(a), ', ' order by n) from unnest(p.arguments) with ordinality as u (a, n)))
  from parts as p
$$;

-- Our triggers as they stand on captured tables: that of realtime.messages is none of these.
create or replace view rowcast.standing_triggers as
  select g.tgrelid as relid, g.tgname::text as name, p.proname::text as function_name, g.tgenabled as enabled,
         -- tgargs ends each argument with a zero byte.
         string_to_array(left(encode(g.tgargs, 'escape'), -4), '\000') as arguments
  from pg_catalog.pg_trigger as g
  join pg_catalog.pg_proc as p on p.oid = g.tgfoid
  where not g.tgisinternal and g.tgparentid = 0 and p.pronamespace = 'rowcast'::regnamespace
    and p.proname <> 'capture_message';

-- The captured tables: those that have our triggers, and the version their changes carry now. In a restored database
-- that may be a version of another one, which is not enabled: nobody would hear its changes.
create or replace view rowcast.captured as
  select s.relid, max(s.arguments[1]::int) as relation,
         bool_and(s.enabled <> 'D' and exists (
           select from rowcast.relations as r where r.id = s.arguments[1]::int and r.oid = s.relid)) as enabled,
         array_agg(s.name order by s.name) filter (where s.enabled = 'D') as disabled
  from rowcast.standing_triggers as s
  where s.name like '!%' group by s.relid;

-- Tables whose triggers are not what the publication wants: of those given, or of all.
create or replace function rowcast.stale_tables(given oid[] default null) returns setof oid
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  wanted record;
begin
  for wanted in
    select * from rowcast.wanted_of(given) as w where w.refusal is null
  loop
    if exists (
      select from rowcast.wanted_triggers(wanted.relid, wanted.ops, wanted.way, wanted.nests, wanted.filter,
        rowcast.relation_version(wanted.relid, wanted.root, wanted.columns)) as t
      full join (select * from rowcast.standing_triggers where relid = wanted.relid) as s using (name)
      where t.function_name is distinct from s.function_name or t.arguments is distinct from s.arguments
        -- A trigger that a user disabled stays so.
        or (s.enabled = 'O' and pg_has_role((select relowner from pg_class where oid = wanted.relid), 'usage'))
    ) or exists (
      select from rowcast.captured as c join rowcast.relations as r on r.id = c.relation
      where c.relid = wanted.relid and c.enabled <> (r.since < 'infinity')
    ) then
      return next wanted.relid;
    end if;
  end loop;
  return query
    select distinct s.relid from rowcast.standing_triggers as s
    where (given is null or s.relid = any (given))
      and not exists (select from rowcast.wanted_of(given) as w where w.relid = s.relid and w.refusal is null);
end $$;

-- Index by index: there are no statistics of a catalog that has just grown.
create or replace function rowcast.looks_of(of oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select concat_ws('/',
    (select k.xmin from pg_class as k where k.oid = looks_of.of),
    (select sum(hashint8extended(a.xmin::text::bigint, a.attnum)) from pg_attribute as a
     where a.attrelid = looks_of.of and a.attnum > 0),
    (select sum(hashint8extended(x.xmin::text::bigint, x.indexrelid::bigint)) from pg_index as x
     where x.indrelid = looks_of.of),
    (select sum(hashint8extended(g.xmin::text::bigint, g.oid::bigint)) from pg_trigger as g
     where g.tgrelid = looks_of.of))
$$;

-- What each table's triggers follow from, as a number that differs once any of it does: who keeps it asks
-- stale_tables about those alone whose number is another one. Every table that is to be captured, or is.
create or replace function rowcast.looks() returns table (relid oid, looks bigint)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with wanted as materialized (
    select * from rowcast.wanted_tables()
  ), shared as materialized (
    -- Types, casts, names and memberships are not told apart by table.
    select concat_ws('/',
      (select sum(hashint8extended(y.xmin::text::bigint, y.oid::bigint)) from pg_type as y
       where y.typrelid = 0 and y.typelem = 0),
      (select sum(hashint8extended(a.xmin::text::bigint, a.attnum)) from pg_class as k
       join pg_attribute as a on a.attrelid = k.oid where k.relkind = 'c'),
      (select sum(hashint8extended(c.xmin::text::bigint, c.oid::bigint)) from pg_cast as c),
      (select sum(hashint8extended(p.xmin::text::bigint, p.oid::bigint)) from pg_cast as c
       join pg_proc as p on p.oid = c.castfunc where c.oid >= 16384),
      (select sum(hashint8extended(n.xmin::text::bigint, n.oid::bigint)) from pg_namespace as n
       where n.nspname !~ '^pg_(toast_)?temp_'),
      (select sum(hashint8extended(m.xmin::text::bigint, m.member::bigint)) from pg_auth_members as m),
      (select sum(hashint8extended(p.xmin::text::bigint, p.oid::bigint)) from pg_proc as p
       where p.pronamespace = 'rowcast'::regnamespace)) as text
  )
  select w.relid, hashtextextended(concat_ws('/', s.text, w.*::text, rowcast.looks_of(w.relid),
                                   case when w.root <> w.relid then rowcast.looks_of(w.root) end), 0)
  from wanted as w, shared as s
  union all
  select distinct t.relid, 0::bigint
  from rowcast.standing_triggers as t where t.relid not in (select w.relid from wanted as w)
$$;

-- Functions of row filters are made when a table is to have one, and dropped by the servers' timer. Whoever makes or uses
-- one says so until the end of the transaction, for nobody to drop what a trigger not committed yet is to call.
create or replace function rowcast.hold_filters(alone boolean) returns boolean
language sql set search_path = pg_catalog, pg_temp as $$
  select case when alone then pg_try_advisory_xact_lock(90638697824264) else pg_try_advisory_xact_lock_shared(90638697824264) end
$$;

do $$
begin
  if to_regprocedure('rowcast.make_filters(text, text, text)') is not null then
    drop function rowcast.make_filters(text, text, text);
  end if;
end $$;
-- Make the functions that the triggers of one table are to call, where the table has a row filter.
create or replace function rowcast.make_filters(ops text, way text, filter text, confined boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  made record;
begin
  if filter is null or way = 'parts' then
    return;
  end if;
  if not rowcast.hold_filters(alone => false) then
    raise lock_not_available using message = 'functions of row filters are being dropped at this moment';
  end if;
  for made in
    select f.* from (values ('I', 'insert'), ('U', 'update'), ('D', 'delete')) as e (op, event),
                    rowcast.capture_function(e.event, way, filter, confined) as f
    where position(e.op in ops) > 0
      and not exists (select from pg_proc as p where p.pronamespace = 'rowcast'::regnamespace and p.proname = f.name)
  loop
    execute made.definition;
    execute format('revoke all on function rowcast.%I() from public', made.name);
    perform rowcast.give_functions();
  end loop;
end $$;

-- Drop the functions of row filters that no trigger calls. Leaves it for another time where some are being made.
create or replace function rowcast.drop_filters() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  unused regprocedure;
begin
  perform set_config('rowcast.installing', 'on', true);
  if exists (select from rowcast.unused_filters()) and rowcast.hold_filters(alone => true) then
    -- Looked at again, now that nobody can be using one unseen.
    for unused in select * from rowcast.unused_filters() loop
      execute format('drop function %s', unused);
    end loop;
  end if;
  perform set_config('rowcast.installing', 'off', true);
end $$;

create or replace function rowcast.unused_filters() returns setof regprocedure
language sql set search_path = pg_catalog, pg_temp as $$
  select p.oid::regprocedure from pg_proc as p
  where p.pronamespace = 'rowcast'::regnamespace and p.proname ~ '^capture_[a-z_]+_[0-9a-f]{32}$' and pg_has_role(p.proowner, 'usage')
    and not exists (select from pg_trigger as g where g.tgfoid = p.oid)
$$;

-- Bring the triggers of one table to what the publication wants. Takes SHARE ROW EXCLUSIVE on it: set lock_timeout
-- before. Returns whether the table is captured afterwards.
create or replace function rowcast.install(of oid) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  wanted record;
  part record;
  names text[] := '{}';
  version int;
  began timestamptz;
begin
  perform set_config('rowcast.installing', 'on', true);
  select * into wanted from rowcast.wanted_of(array[install.of]) as w where w.refusal is null;
  if found then
    version := rowcast.relation_version(install.of, wanted.root, wanted.columns);
    -- Since when it is captured without interruption: one version hands it on to the next.
    select r.since into began from rowcast.captured as c join rowcast.relations as r on r.id = c.relation
      where c.relid = install.of and c.enabled;
    perform rowcast.make_filters(wanted.ops, wanted.way, wanted.filter,
                                 rowcast.calls_casts(install.of, of_others => false));
    for part in
      select t.*, s.enabled, t.function_name is not distinct from s.function_name
             and t.arguments is not distinct from s.arguments as stands
      from rowcast.wanted_triggers(install.of, wanted.ops, wanted.way, wanted.nests, wanted.filter, version) as t
      left join (select * from rowcast.standing_triggers where relid = install.of) as s using (name)
    loop
      names := names || part.name;
      if not part.stands then
        execute part.definition;
        if part.enabled = 'D' then
          execute format('alter table %s disable trigger %I', install.of::regclass, part.name);
        end if;
      end if;
      if part.enabled is distinct from 'D' and (part.enabled is distinct from 'A' or not part.stands)
         and pg_has_role((select relowner from pg_class where oid = install.of), 'usage') then
        -- Fires under session_replication_role = replica too.
        execute format('alter table %s enable always trigger %I', install.of::regclass, part.name);
      end if;
    end loop;
    if began is null or began = 'infinity' then
      began := clock_timestamp();
    end if;
    if not (select coalesce(bool_and(c.enabled), false) from rowcast.captured as c where c.relid = install.of) then
      began := 'infinity';
    end if;
    update rowcast.relations as r set since = began where r.id = version and r.since <> began;
  end if;
  for part in
    select s.name from rowcast.standing_triggers as s where s.relid = install.of and s.name <> all (names)
  loop
    execute format('drop trigger %I on %s', part.name, install.of::regclass);
  end loop;
  perform set_config('rowcast.installing', 'off', true);
  return cardinality(names) > 0;
end $$;

revoke all on all functions in schema rowcast from public;
