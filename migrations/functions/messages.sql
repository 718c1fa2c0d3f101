-- What policies of private channels call, and the partitions of realtime.messages.

-- Functions that users call by these names: made where absent, never replaced.
do $$
begin
  -- By a name in a schema that may not be used, even looking fails.
  if has_schema_privilege('realtime', 'create') and not exists (
    select from pg_catalog.pg_proc as p join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
    where n.nspname = 'realtime' and p.proname = 'topic' and p.pronargs = 0) then
    create function realtime.topic() returns text language sql stable as $f$
      select nullif(current_setting('realtime.topic', true), '')
    $f$;
    comment on function realtime.topic() is 'The name of the private channel that is being joined or sent to';
    grant execute on function realtime.topic() to public;
  end if;
end $$;

-- Whether realtime.messages is a partitioned table that may be kept by the one who asks.
create or replace function rowcast.keeps_messages() returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_class as k join pg_namespace as n on n.oid = k.relnamespace
                 where n.nspname = 'realtime' and k.relname = 'messages' and k.relkind = 'p'
                   and pg_has_role(k.relowner, 'usage') and has_schema_privilege(n.oid, 'create'))
$$;

-- Have a partition for yesterday, today and the next three days (UTC), and of a table of ours drop those that are
-- older than the retention. Attaching does not lock writers out; set lock_timeout before, all the same. Returns how
-- many it changed.
create or replace function rowcast.keep_messages(retention interval) returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  today constant date := (now() at time zone 'utc')::date;
  ours constant boolean := not exists (
    select from rowcast.notes as n where n.kind = 'table' and n.name = 'realtime.messages' and n.was is not null);
  changed int := 0;
  part record;
begin
  if not rowcast.keeps_messages() then
    return 0;
  end if;
  -- Our own DDL is no news of the catalog.
  perform set_config('rowcast.installing', 'on', true);
  for part in
    select today + n as day, 'messages_' || to_char(today + n, 'YYYY_MM_DD') as name
    from generate_series(-1, 3) as n
  loop
    if to_regclass(format('realtime.%I', part.name)) is null then
      execute format('create table realtime.%I (like realtime.messages including all)', part.name);
      execute format('alter table realtime.%I enable row level security', part.name);
      execute format('alter table realtime.messages attach partition realtime.%I for values from (%L) to (%L)',
                     part.name, part.day, part.day + 1);
      changed := changed + 1;
    end if;
  end loop;
  for part in
    select k.relname as name, to_date(substr(k.relname, 10), 'YYYY_MM_DD') as day
    from pg_inherits as i join pg_class as k on k.oid = i.inhrelid
    where i.inhparent = 'realtime.messages'::regclass and k.relname ~ '^messages_\d{4}_\d{2}_\d{2}$'
  loop
    -- The whole day is older.
    if ours and part.day + 1 <= (now() at time zone 'utc') - retention then
      execute format('drop table realtime.%I', part.name);
      changed := changed + 1;
    end if;
  end loop;
  perform set_config('rowcast.installing', 'off', true);
  return changed;
end $$;

revoke all on all functions in schema rowcast from public;

-- The roles may have been made since the table was.
do $$
declare
  role_name text;
begin
  if rowcast.keeps_messages() then
    perform rowcast.keep_messages(interval '72 hours');
    for role_name in
      select rolname from pg_catalog.pg_roles where rolname in ('anon', 'authenticated', 'service_role')
    loop
      execute format('grant usage on schema realtime to %I', role_name);
      execute format('grant select, insert, update on realtime.messages to %I', role_name);
    end loop;
  end if;
end $$;
