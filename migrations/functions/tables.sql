-- What became of each table of the publication, and of each partition.
--   root    the table under whose name its changes come
--   reason  why it is not captured; null also while its triggers wait for a lock
create or replace view rowcast.states as
  select w.relid, w.root, w.way, w.filter, w.refusal, c.relation, c.disabled, found.captured,
         case
           when found.captured then null
           when w.refusal is not null then w.refusal
           when c.disabled is not null then 'its triggers are disabled'
           when not pg_catalog.has_table_privilege(w.relid, 'trigger') then 'the server may not create triggers on it'
         end as reason
  from rowcast.wanted_tables() as w
  left join rowcast.captured as c on c.relid = w.relid
  cross join lateral (
    select w.refusal is null and (w.way = 'parts' or coalesce(c.enabled, false)) as captured) as found;

-- The same, as an operator sees it.
--   since   since when it is captured without interruption; null where it is not
--   mend    what to run, as whom, for it to be captured; null where nothing helps, or nothing is needed
create or replace view rowcast.tables as
  select n.nspname::text as schema_name, k.relname::text as table_name, t.way, t.captured, t.reason,
         k.relrowsecurity as rls,
         case when t.captured then nullif(greatest(r.since, (select e.since from rowcast.epoch as e)), 'infinity')
         end as since,
         t.relid, t.root, t.relation, t.filter,
         case
           when t.captured then null
           when t.refusal = 'it is unlogged' then format('ALTER TABLE %s SET LOGGED;', names.quoted)
           when t.refusal = 'it is a foreign table' then 'Watch it in the database where it lives.'
           when t.refusal like 'its JSON %' then
             'Have a superuser run what `rowcast migrate --print-admin-sql` prints, then run rowcast migrate.'
           when t.disabled is not null then (
             select string_agg(format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I;', names.quoted, d), ' ')
             from unnest(t.disabled) as d)
           when t.reason is not null then
             format('GRANT TRIGGER ON %s TO %I; (as its owner, %I)', names.quoted, current_user, o.rolname)
         end as mend
  from rowcast.states as t
  join pg_catalog.pg_class as k on k.oid = t.relid
  join pg_catalog.pg_namespace as n on n.oid = k.relnamespace
  join pg_catalog.pg_roles as o on o.oid = k.relowner
  left join rowcast.relations as r on r.id = t.relation
  cross join lateral (select format('%I.%I', n.nspname, k.relname) as quoted) as names
  order by 1, 2;

-- What the outbox keeps of each version of a table: changes, their bytes, and when the last of them was made.
--   unread  the oldest that no server had read by the last mark, which is made a second after a read at the latest
drop function if exists rowcast.kept_changes();
create function rowcast.kept_changes()
returns table (relation int, changes bigint, bytes bigint, last timestamptz, unread timestamptz)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select o.relation, count(*), sum(pg_column_size(o.*))::bigint, max(o.at),
         min(o.at) filter (where not coalesce(pg_visible_in_snapshot(o.xid,
           (select m.snap from rowcast.marks as m order by m.at desc limit 1)), false))
  from (select * from rowcast.outbox_0 union all select * from rowcast.outbox_1
        union all select * from rowcast.outbox_2) as o
  where o.relation <> 0
  group by o.relation
$$;

revoke all on all functions in schema rowcast from public;
