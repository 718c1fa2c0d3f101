-- Which tables are captured, and how: the publication supabase_realtime is the list, triggers follow it.

-- The tables that the publication names itself, with the operations it publishes.
-- Row filters and column lists exist from PostgreSQL 15 on, so the catalog is read by dynamic SQL.
create or replace function rowcast.publication_members()
returns table (member oid, ops text, columns int2[], filtered boolean)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  recent constant boolean := current_setting('server_version_num')::int >= 150000;
begin
  return query execute format($q$
    select r.prrelid,
           concat(case when p.pubinsert then 'I' end, case when p.pubupdate then 'U' end,
                  case when p.pubdelete then 'D' end, case when p.pubtruncate then 'T' end),
           %s, %s
    from pg_publication as p join pg_publication_rel as r on r.prpubid = p.oid
    where p.pubname = 'supabase_realtime'
    union all
    select c.oid,
           concat(case when p.pubinsert then 'I' end, case when p.pubupdate then 'U' end,
                  case when p.pubdelete then 'D' end, case when p.pubtruncate then 'T' end),
           null::int2[], false
    from pg_publication as p, pg_class as c
    where p.pubname = 'supabase_realtime'
      and (p.puballtables %s) and c.relkind in ('r', 'p') and not c.relispartition
    $q$,
    case when recent then 'r.prattrs::int2[]' else 'null::int2[]' end,
    case when recent then 'r.prqual is not null' else 'false' end,
    case when recent then
      'or exists (select from pg_publication_namespace as n where n.pnpubid = p.oid and n.pnnspid = c.relnamespace)'
    else '' end);
end $$;

-- Every table whose rows are to be captured: members with their partitions and children.
--   root    the topmost published ancestor of a partition, whose name its changes carry; else the table itself
--   way     'statement', or 'row' where writes through a parent do not fire the table's statement triggers
--   refusal why it is not captured, or null
create or replace function rowcast.wanted_tables()
returns table (relid oid, root oid, ops text, columns int2[], way text, nests boolean, refusal text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive members as materialized (
    select m.member, string_agg(distinct op, '') as ops, max(m.columns) as columns, bool_or(m.filtered) as filtered
    from rowcast.publication_members() as m, unnest(string_to_array(m.ops, null)) as op
    group by m.member
  ), tree as (
    select m.member as relid, m.member as root, m.ops, m.columns, m.filtered, 0 as depth from members as m
    union all
    select i.inhrelid, case when c.relispartition then t.root else i.inhrelid end,
           t.ops, t.columns, t.filtered, t.depth + 1
    from tree as t join pg_inherits as i on i.inhparent = t.relid join pg_class as c on c.oid = i.inhrelid
  ), chosen as (
    -- A partition that is named itself, too, belongs to its topmost published ancestor.
    select distinct on (t.relid) t.* from tree as t order by t.relid, t.depth desc
  ), families as (
    select c.*, k.relkind, k.relpersistence, k.relispartition, n.nspname,
           (select pg_partition_root(c.relid)) as top,
           (not k.relispartition and k.relkind = 'r' and exists (
             select from pg_inherits as i where i.inhrelid = c.relid or i.inhparent = c.relid)) as inherits
    from chosen as c
    join pg_class as k on k.oid = c.relid
    join pg_namespace as n on n.oid = k.relnamespace
    where k.relkind in ('r', 'p')
      and n.nspname not in ('rowcast', 'realtime', 'pg_catalog', 'information_schema')
      and n.nspname not like 'pg\_%'
  )
  select f.relid, f.root, f.ops, f.columns,
         case when f.inherits or (f.relispartition and f.top <> f.root) then 'row' else 'statement' end,
         -- Statements can nest where the table's triggers may write: triggers of others, and referential actions.
         exists (
           select from pg_trigger as g join pg_proc as p on p.oid = g.tgfoid
           where g.tgrelid in (select f.relid union select f.root union select relid from pg_partition_tree(f.root))
             and g.tgtype::int & 2 = 0 and g.tgtype::int & 64 = 0
             and p.pronamespace <> 'rowcast'::regnamespace
             and (not g.tgisinternal or p.proname ~ '^RI_FKey_(cascade|setnull|setdefault)_')
         ),
         case
           when f.filtered then 'the publication has a row filter for it'
           when f.relpersistence <> 'p' then 'it is not a permanent, logged table'
           when f.relkind = 'p' and f.root <> f.top then 'its partitions are captured'
         end
  from families as f
$$;

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
create or replace function rowcast.wanted_triggers(relid oid, ops text, way text, nests boolean, version int)
returns table (name text, function_name text, arguments text[], definition text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with parts as (
    select '!rowcast_' || event as name,
           'capture_' || event || case when way = 'row' then '_row' else '' end as function_name,
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
    where position(op in ops) > 0
    union all
    select '!rowcast_truncate', 'capture_truncate', array[version::text], 'after truncate',
           'for each statement'
    where position('T' in ops) > 0
    union all
    select '~rowcast_order', 'draw_order', array[coalesce(pg_partition_root(relid), relid)::oid::text],
           'before insert or update or delete', 'for each statement'
    where nests
  )
  select p.name, p.function_name, p.arguments,
         format('create or replace trigger %I %s on %s %s execute function rowcast.%I(%s)',
                p.name, p.moment, relid::regclass, p.scope, p.function_name,
                (select string_agg(quote_literal(a), ', ' order by n) from unnest(p.arguments) with ordinality as u (a, n)))
  from parts as p
$$;

-- Our triggers as they stand on a table.
create or replace view rowcast.standing_triggers as
  select g.tgrelid as relid, g.tgname::text as name, p.proname::text as function_name, g.tgenabled as enabled,
         -- tgargs ends each argument with a zero byte.
         string_to_array(left(encode(g.tgargs, 'escape'), -4), '\000') as arguments
  from pg_catalog.pg_trigger as g
  join pg_catalog.pg_proc as p on p.oid = g.tgfoid
  where not g.tgisinternal and g.tgparentid = 0 and p.pronamespace = 'rowcast'::regnamespace;

-- Tables whose triggers are not what the publication wants: of those given, or of all.
create or replace function rowcast.stale_tables(given oid[] default null) returns setof oid
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  wanted record;
begin
  for wanted in
    select * from rowcast.wanted_tables() as w where w.refusal is null and (given is null or w.relid = any (given))
  loop
    if exists (
      select from rowcast.wanted_triggers(wanted.relid, wanted.ops, wanted.way, wanted.nests,
        rowcast.relation_version(wanted.relid, wanted.root, wanted.columns)) as t
      full join (select * from rowcast.standing_triggers where relid = wanted.relid) as s using (name)
      where t.function_name is distinct from s.function_name or t.arguments is distinct from s.arguments
        -- A trigger that a user disabled stays so.
        or (s.enabled = 'O' and pg_has_role((select relowner from pg_class where oid = wanted.relid), 'usage'))
    ) then
      return next wanted.relid;
    end if;
  end loop;
  return query
    select distinct s.relid from rowcast.standing_triggers as s
    where (given is null or s.relid = any (given))
      and not exists (select from rowcast.wanted_tables() as w where w.relid = s.relid and w.refusal is null);
end $$;

-- Bring the triggers of one table to what the publication wants. Takes SHARE ROW EXCLUSIVE on it: set lock_timeout
-- before. Returns whether the table is captured afterwards.
create or replace function rowcast.install(of oid) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  wanted record;
  part record;
  names text[] := '{}';
begin
  perform set_config('rowcast.installing', 'on', true);
  select * into wanted from rowcast.wanted_tables() as w where w.relid = install.of and w.refusal is null;
  if found then
    for part in
      select t.*, s.enabled, t.function_name is not distinct from s.function_name
             and t.arguments is not distinct from s.arguments as stands
      from rowcast.wanted_triggers(install.of, wanted.ops, wanted.way, wanted.nests,
        rowcast.relation_version(install.of, wanted.root, wanted.columns)) as t
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
  end if;
  for part in
    select s.name from rowcast.standing_triggers as s where s.relid = install.of and s.name <> all (names)
  loop
    execute format('drop trigger %I on %s', part.name, install.of::regclass);
  end loop;
  perform set_config('rowcast.installing', 'off', true);
  return cardinality(names) > 0;
end $$;

-- The captured tables: those that have our triggers, and the version their changes carry now.
create or replace view rowcast.captured as
  select s.relid, max(s.arguments[1]::int) as relation, bool_and(s.enabled <> 'D') as enabled
  from rowcast.standing_triggers as s
  where s.name like '!%' group by s.relid;

-- What an operator sees: every member of the publication, and why one is not captured.
create or replace view rowcast.tables as
  select n.nspname::text as schema_name, k.relname::text as table_name, w.way,
         c.relid is not null and c.enabled as captured,
         coalesce(w.refusal, case when c.relid is null then 'its triggers are not installed yet'
                                  when not c.enabled then 'its triggers are disabled' end) as reason,
         k.relrowsecurity as rls, r.since
  from rowcast.wanted_tables() as w
  join pg_catalog.pg_class as k on k.oid = w.relid
  join pg_catalog.pg_namespace as n on n.oid = k.relnamespace
  left join rowcast.captured as c on c.relid = w.relid
  left join rowcast.relations as r on r.id = c.relation
  order by 1, 2;

-- Say in the stream of changes that names, rights or policies may differ from here on.
create or replace function rowcast.mark_catalog() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if (select last_value from rowcast.lease_until) > extract(epoch from clock_timestamp()) then
    execute format(
      $q$insert into rowcast.outbox_%s (xid, seq, ord, relation, op, at)
         select pg_current_xact_id(), n, n, 0, 'C', clock_timestamp() from nextval('rowcast.seq') as n$q$,
      (select last_value from rowcast.current_outbox));
  end if;
end $$;

-- Runs for whoever runs DDL, so it may never fail and never wait for long; the servers' timer does what is left.
create or replace function rowcast.follow_ddl() returns event_trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' as $$
declare
  touched oid[];
  stale oid;
  whole boolean := false;
begin
  if current_setting('rowcast.installing', true) = 'on' then
    return;
  end if;
  if tg_event = 'sql_drop' then
    if not exists (select from pg_event_trigger_dropped_objects() as d
                   where not d.is_temporary and d.schema_name is distinct from 'pg_toast') then
      return;
    end if;
    whole := true;
  elsif tg_tag not in ('GRANT', 'REVOKE') then
    if not exists (select from pg_event_trigger_ddl_commands() as d where d.schema_name is distinct from 'pg_temp') then
      return;
    end if;
    -- ATTACH and DETACH name the parent only.
    select bool_or(d.classid <> 'pg_class'::regclass
             or exists (select from pg_class as k where k.oid = d.objid and (k.relkind = 'p' or k.relhassubclass))),
           array_agg(d.objid) into whole, touched
      from pg_event_trigger_ddl_commands() as d;
  end if;
  begin
    if whole or touched is not null then
      for stale in select * from rowcast.stale_tables(case when not whole then touched end) loop
        perform rowcast.install(stale);
      end loop;
    end if;
  exception when others then
    null;
  end;
  perform rowcast.mark_catalog();
  -- A transaction that has notified cannot be prepared.
  if current_setting('max_prepared_transactions') = '0' then
    perform pg_notify('rowcast', 'catalog');
  end if;
exception when others then
  null;
end $$;

revoke all on all functions in schema rowcast from public;

do $$
begin
  set local client_min_messages = warning;
  drop event trigger if exists rowcast_follow_ddl;
  drop event trigger if exists rowcast_follow_drop;
  create event trigger rowcast_follow_ddl on ddl_command_end
    when tag in ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'ALTER TYPE', 'ALTER SCHEMA',
                 'CREATE PUBLICATION', 'ALTER PUBLICATION', 'CREATE TRIGGER', 'ALTER TRIGGER', 'GRANT', 'REVOKE',
                 'CREATE POLICY', 'ALTER POLICY')
    execute function rowcast.follow_ddl();
  create event trigger rowcast_follow_drop on sql_drop execute function rowcast.follow_ddl();
  alter event trigger rowcast_follow_ddl enable always;
  alter event trigger rowcast_follow_drop enable always;
exception when insufficient_privilege then
  raise notice 'event triggers need a superuser: DDL is followed by a timer';
end $$;
