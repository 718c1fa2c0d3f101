-- What an operator sees: every table of the publication, and why one is not captured.

--   root    the table under whose name its changes come
--   since   since when it is captured without interruption; null where it is not
--   reason  why it is not captured; null also while its triggers wait for a lock
--   mend    what to run, as whom, for it to be captured; null where nothing helps, or nothing is needed
create or replace view rowcast.tables as
  select n.nspname::text as schema_name, k.relname::text as table_name, w.way,
         found.captured, reasons.reason, k.relrowsecurity as rls,
         case when found.captured then nullif(greatest(r.since, e.since), 'infinity') end as since,
         w.relid, w.root, c.relation, w.filter,
         case
           when found.captured then null
           when w.refusal = 'it is unlogged' then format('ALTER TABLE %s SET LOGGED;', names.quoted)
           when w.refusal = 'it is a foreign table' then 'Watch it in the database where it lives.'
           when c.disabled is not null then (
             select string_agg(format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I;', names.quoted, d), ' ')
             from unnest(c.disabled) as d)
           when reasons.reason is not null then
             format('GRANT TRIGGER ON %s TO %I; (as its owner, %I)', names.quoted, current_user, o.rolname)
         end as mend
  from rowcast.wanted_tables() as w
  join pg_catalog.pg_class as k on k.oid = w.relid
  join pg_catalog.pg_namespace as n on n.oid = k.relnamespace
  join pg_catalog.pg_roles as o on o.oid = k.relowner
  cross join rowcast.epoch as e
  left join rowcast.captured as c on c.relid = w.relid
  left join rowcast.relations as r on r.id = c.relation
  cross join lateral (select format('%I.%I', n.nspname, k.relname) as quoted) as names
  cross join lateral (select w.refusal is null and (w.way = 'parts' or coalesce(c.enabled, false)) as captured) as found
  cross join lateral (
    select case
      when w.refusal is not null then w.refusal
      when found.captured then null
      when c.disabled is not null then 'its triggers are disabled'
      when not pg_catalog.has_table_privilege(w.relid, 'trigger') then 'the server may not create triggers on it'
    end as reason) as reasons
  order by 1, 2;

-- What the outbox keeps of each version of a table: changes, their bytes, and when the last of them was made.
create or replace function rowcast.kept_changes()
returns table (relation int, changes bigint, bytes bigint, last timestamptz)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select o.relation, count(*), sum(pg_column_size(o.*))::bigint, max(o.at)
  from (select * from rowcast.outbox_0 union all select * from rowcast.outbox_1
        union all select * from rowcast.outbox_2) as o
  where o.relation <> 0
  group by o.relation
$$;

revoke all on all functions in schema rowcast from public;
