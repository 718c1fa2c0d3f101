-- DDL is followed: by event triggers where they may be made, and by the servers' timer.

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

-- Whether all captured tables may be compared with the publication while somebody's DDL waits.
create or replace function rowcast.few_tables() returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when pg_relation_size('pg_class') > 4194304 then false
              else (select count(*) <= 400 from rowcast.standing_triggers)
                   and (select count(*) <= 100 from rowcast.publication_members(null)) end
$$;

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
    whole := whole and rowcast.few_tables();
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

-- Make the two event triggers, or make them anew where they differ. Whoever runs DDL runs their function, a superuser
-- perhaps: so only where a superuser owns it. Where an administrator made them (`rowcast migrate --print-admin-sql`)
-- they run a function of the administrator's, which notifies and does nothing else.
create or replace function rowcast.follow_catalog() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  tags constant text[] := array[
    'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'ALTER TYPE', 'ALTER SCHEMA',
    'CREATE PUBLICATION', 'ALTER PUBLICATION', 'CREATE TRIGGER', 'ALTER TRIGGER', 'GRANT', 'REVOKE',
    'CREATE POLICY', 'ALTER POLICY', 'CREATE SUBSCRIPTION', 'ALTER SUBSCRIPTION', 'CREATE CAST'];
begin
  if not (select r.rolsuper and o.rolsuper
          from pg_roles as r, pg_proc as p join pg_roles as o on o.oid = p.proowner
          where r.rolname = current_user and p.oid = 'rowcast.follow_ddl()'::regprocedure)
     or 2 = (select count(*) from pg_event_trigger as e
             where e.evtfoid = 'rowcast.follow_ddl()'::regprocedure and e.evtenabled = 'A'
               and (e.evtname, e.evtevent)
                 in (('rowcast_follow_ddl', 'ddl_command_end'), ('rowcast_follow_drop', 'sql_drop'))
               and coalesce(e.evttags, tags) @> tags and coalesce(e.evttags, tags) <@ tags) then
    return;
  end if;
  set local client_min_messages = warning;
  drop event trigger if exists rowcast_follow_ddl;
  drop event trigger if exists rowcast_follow_drop;
  execute format('create event trigger rowcast_follow_ddl on ddl_command_end when tag in (%s) '
                 'execute function rowcast.follow_ddl()',
                 (select string_agg(quote_literal(tag), ', ') from unnest(tags) as tag));
  create event trigger rowcast_follow_drop on sql_drop execute function rowcast.follow_ddl();
  alter event trigger rowcast_follow_ddl enable always;
  alter event trigger rowcast_follow_drop enable always;
end $$;

revoke all on all functions in schema rowcast from public;
