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
