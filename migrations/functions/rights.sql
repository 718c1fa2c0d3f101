-- What stands outside the schema rowcast, and what was there before: roles, memberships, and the tables that were
-- watched. rowcast.notes tells of each thing how it was found; `rowcast uninstall` puts it back.

-- Make what is missing and may be made by the current role; what may not is left, and `rowcast migrate` says so.
-- Runs at every start: it changes nothing where nothing is missing.
create or replace function rowcast.settle() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  grants_options constant boolean := current_setting('server_version_num')::int >= 160000;
  wanted record;
begin
  -- Our own DDL is no news of the catalog.
  perform set_config('rowcast.installing', 'on', true);
  for wanted in
    select * from (values
      ('anon', 'nologin noinherit', ''),
      ('authenticated', 'nologin noinherit', ''),
      ('service_role', 'nologin noinherit', 'bypassrls'),
      ('rowcast_capture', 'nologin noinherit', ''),
      ('rowcast_json', 'nologin noinherit', '')
    ) as roles (name, options, more)
  loop
    begin
      if not exists (select from pg_roles where rolname = wanted.name) then
        begin
          execute format('create role %I %s %s', wanted.name, wanted.options, wanted.more);
        exception when insufficient_privilege then
          -- BYPASSRLS may be given only by a superuser, or by one who has it.
          execute format('create role %I %s', wanted.name, wanted.options);
        end;
      end if;
      -- To act as a role one must be a member who may SET it; to replace a function, one who inherits from its owner.
      -- Who made a role since PostgreSQL 16 may grant it, and is no such member yet.
      if not pg_has_role(wanted.name, case when grants_options then 'set' else 'member' end)
         or wanted.name in ('rowcast_capture', 'rowcast_json') and not pg_has_role(wanted.name, 'usage') then
        execute format('grant %I to current_user %s', wanted.name,
          case when not grants_options then ''
               when wanted.name in ('rowcast_capture', 'rowcast_json') then 'with set true, inherit true'
               else 'with set true, inherit false' end);
      end if;
    exception
      -- Another database of the cluster is at the same at this moment: then it is done.
      when duplicate_object or unique_violation or insufficient_privilege or undefined_object then null;
    end;
  end loop;

  for wanted in
    select n.oid, n.nspname as schema, r.rolname as role
    from pg_namespace as n, pg_roles as r
    where n.nspname in ('realtime', 'auth') and r.rolname in ('anon', 'authenticated', 'service_role')
      and not has_schema_privilege(r.oid, n.oid, 'usage')
      and has_schema_privilege(n.oid, 'usage with grant option')
  loop
    execute format('grant usage on schema %I to %I', wanted.schema, wanted.role);
  end loop;

  perform rowcast.give_functions();
  perform rowcast.follow_catalog();
  perform set_config('rowcast.installing', 'off', true);
end $$;

-- Note how something was found before it was changed; what was noted first stands. `was` is null where it was absent.
create or replace function rowcast.note(kind text, name text, was text default null, of oid default null) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  insert into rowcast.notes (kind, name, was, of) values (note.kind, note.name, note.was, note.of)
  on conflict do nothing
$$;

create or replace function rowcast.name_of(of oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('%I.%I', n.nspname, k.relname)
  from pg_class as k join pg_namespace as n on n.oid = k.relnamespace where k.oid = name_of.of
$$;

-- Called before `rowcast watch` gives a table REPLICA IDENTITY FULL: note which it has. 'd', 'n', or 'i' and the index.
create or replace function rowcast.note_identity(of oid) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  select rowcast.note('identity', rowcast.name_of(k.oid), concat_ws(' ', k.relreplident, (
    select i.relname from pg_index as x join pg_class as i on i.oid = x.indexrelid
    where x.indrelid = k.oid and x.indisreplident)), k.oid)
  from pg_class as k where k.oid = note_identity.of and k.relreplident <> 'f'
$$;

-- Called when `rowcast watch` has added a table to the publication, and when `unwatch` has taken it out.
create or replace function rowcast.note_published(of oid) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  select rowcast.note('published', rowcast.name_of(note_published.of), null, note_published.of)
$$;

create or replace function rowcast.forget_published(of oid) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  delete from rowcast.notes as n where n.kind = 'published' and n.of = forget_published.of
$$;

revoke all on all functions in schema rowcast from public;
