-- Which tables are captured, and how: the publication supabase_realtime is the list, triggers follow it.

-- The tables that the publication names itself, with the operations it publishes: of those given, or all.
-- Row filters and column lists exist from PostgreSQL 15 on, so the catalog is read by dynamic SQL.
do $$ begin
  if to_regprocedure('rowcast.publication_members()') is not null then
    drop function rowcast.publication_members();
  end if;
end $$;
create or replace function rowcast.publication_members(given oid[])
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
    where p.pubname = 'supabase_realtime' %s
    union all
    select c.oid,
           concat(case when p.pubinsert then 'I' end, case when p.pubupdate then 'U' end,
                  case when p.pubdelete then 'D' end, case when p.pubtruncate then 'T' end),
           null::int2[], false
    from pg_publication as p, pg_class as c
    where p.pubname = 'supabase_realtime'
      and (p.puballtables %s) and c.relkind in ('r', 'p') and not c.relispartition %s
    $q$,
    case when recent then 'r.prattrs::int2[]' else 'null::int2[]' end,
    case when recent then 'r.prqual is not null' else 'false' end,
    case when given is not null then 'and r.prrelid = any ($1)' else '' end,
    case when recent then
      'or exists (select from pg_publication_namespace as n where n.pnpubid = p.oid and n.pnnspid = c.relnamespace)'
    else '' end,
    case when given is not null then 'and c.oid = any ($1)' else '' end) using given;
end $$;

-- The tables whose rows are to be captured, members with their partitions and children: of those given, or all.
-- What one table costs does not depend on how many others there are: DDL, joins and installing ask about few.
--   root    the topmost published ancestor of a partition, whose name its changes carry; else the table itself
--   way     'statement', or 'row' where writes do not fire the table's statement triggers, as those through a parent
--   refusal why it is not captured, or null
create or replace function rowcast.wanted_of(given oid[])
returns table (relid oid, root oid, ops text, columns int2[], way text, nests boolean, refusal text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive lineage as (
    select unnest(given) as relid
    union
    select i.inhparent from lineage as l join pg_inherits as i on i.inhrelid = l.relid
  ), members as materialized (
    select m.member, string_agg(distinct op, '') as ops, max(m.columns) as columns, bool_or(m.filtered) as filtered
    from rowcast.publication_members(case when given is not null then array(select l.relid from lineage as l) end) as m,
         unnest(string_to_array(m.ops, null)) as op
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
           -- Nor do the rows that logical replication applies.
           (not k.relispartition and k.relkind = 'r' and (
             exists (select from pg_inherits as i where i.inhrelid = c.relid or i.inhparent = c.relid)
             or exists (select from pg_subscription_rel as s where s.srrelid = c.relid))) as inherits
    from chosen as c
    join pg_class as k on k.oid = c.relid
    join pg_namespace as n on n.oid = k.relnamespace
    where k.relkind in ('r', 'p') and (given is null or c.relid = any (given))
      and n.nspname not in ('rowcast', 'realtime', 'pg_catalog', 'information_schema')
      and n.nspname not like 'pg\_%'
  )
  select f.relid, f.root, f.ops, f.columns,
         case when f.inherits or (f.relispartition and f.top <> f.root) then 'row' else 'statement' end,
         -- Statements can nest where the table's triggers may write: triggers of others, and referential actions.
         exists (
           select from (
             select f.relid union select f.root union select t.relid from pg_partition_tree(f.root) as t
             where f.relispartition or f.relkind = 'p'
           ) as of cross join lateral (
             -- Table by table: where the catalog has just grown, Postgres would read all triggers for each table.
             select from pg_trigger as g join pg_proc as p on p.oid = g.tgfoid
             where g.tgrelid = of.relid
               and g.tgtype::int & 2 = 0 and g.tgtype::int & 64 = 0
               and p.pronamespace <> 'rowcast'::regnamespace
               and (not g.tgisinternal or p.proname ~ '^RI_FKey_(cascade|setnull|setdefault)_')
             offset 0
           ) as others
         ),
         case
           when f.filtered then 'the publication has a row filter for it'
           when f.relpersistence <> 'p' then 'it is not a permanent, logged table'
           when f.relkind = 'p' and f.root <> f.top then 'its partitions are captured'
         end
  from families as f
$$;

create or replace function rowcast.wanted_tables()
returns table (relid oid, root oid, ops text, columns int2[], way text, nests boolean, refusal text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select * from rowcast.wanted_of(null)
$$;

revoke all on all functions in schema rowcast from public;
