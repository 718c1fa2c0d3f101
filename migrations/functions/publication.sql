-- Which tables are captured, and how: the publication supabase_realtime is the list, triggers follow it.

-- Our own DDL is no news of the catalog.
select pg_catalog.set_config('rowcast.installing', 'on', true);

-- What functions return changes only where they are made anew; those of an older version go.
do $$
declare
  old regprocedure;
begin
  if to_regclass('rowcast.tables') is not null then
    drop view rowcast.tables;
  end if;
  if to_regclass('rowcast.states') is not null then
    drop view rowcast.states;
  end if;
  for old in
    select p.oid::regprocedure from pg_catalog.pg_proc as p
    where p.pronamespace = 'rowcast'::regnamespace
      and p.proname in ('publication_members', 'wanted_of', 'wanted_tables', 'wanted_triggers')
  loop
    execute format('drop function %s', old);
  end loop;
end $$;

-- A publication FOR ALL TABLES lists ours as well, and Postgres refuses deletes where no row can be told apart.
do $$
begin
  if (select relreplident from pg_catalog.pg_class where oid = 'rowcast.marks'::regclass) = 'd' then
    alter table rowcast.marks replica identity full;
  end if;
end $$;

-- The tables that the publication names itself, with the operations it publishes: of those given, or all.
--   columns, filter  what is published of each row, and of which rows; null is everything
--   via_root         whether it is the root's columns and filter that count for a partition, or its own
-- Row filters and column lists exist from PostgreSQL 15 on, so the catalog is read by dynamic SQL.
create or replace function rowcast.publication_members(given oid[])
returns table (member oid, ops text, columns text[], filter text, via_root boolean)
language plpgsql stable rows 100 set search_path = pg_catalog, pg_temp as $$
declare
  recent constant boolean := current_setting('server_version_num')::int >= 150000;
begin
  return query execute format($q$
    with publication as (
      select p.oid, p.puballtables, p.pubviaroot,
             concat(case when p.pubinsert then 'I' end, case when p.pubupdate then 'U' end,
                    case when p.pubdelete then 'D' end, case when p.pubtruncate then 'T' end) as ops
      from pg_publication as p where p.pubname = 'supabase_realtime'
    ), named as (
      select r.prrelid as member, p.ops, %s as columns, %s as filter, p.pubviaroot
      from publication as p join pg_publication_rel as r on r.prpubid = p.oid
      union all
      select c.oid, p.ops, null, null, p.pubviaroot
      from publication as p, pg_class as c
      where c.relkind in ('r', 'p') and (p.puballtables and not c.relispartition %s)
    )
    -- What is named as a part of a schema as well is published as a whole.
    select n.member, max(n.ops), case when count(*) = count(n.columns) then max(n.columns) end,
           case when count(*) = count(n.filter) then max(n.filter) end, bool_or(n.pubviaroot)
    from named as n where %s group by n.member
    $q$,
    case when recent then
      $q$(select array_agg(a.attname::text order by a.attname) from pg_attribute as a
          where a.attrelid = r.prrelid and a.attnum = any (r.prattrs::int2[]))$q$
    else 'null::text[]' end,
    case when recent then 'pg_get_expr(r.prqual, r.prrelid)' else 'null::text' end,
    case when recent then
      'or exists (select from pg_publication_namespace as n where n.pnpubid = p.oid and n.pnnspid = c.relnamespace)'
    else '' end,
    case when given is null then 'true' else 'n.member = any ($1)' end) using given;
end $$;

-- The tables whose rows are to be captured, members with their partitions: of those given, or all. Children that
-- inherit are members themselves, or are not: ALTER PUBLICATION adds them with their parent unless told ONLY.
-- What one table costs does not depend on how many others there are: DDL, joins and installing ask about few. Nobody waits
-- for a query of milliseconds to be compiled: Postgres would take it for a long one.
--   root     the topmost published ancestor of a partition, whose name its changes carry; else the table itself
--   columns, filter  as of publication_members, for this table
--   way      'statement'; 'row' where writes do not fire the table's statement triggers, as those through a parent;
--            'parts' where only its partitions' triggers fire
--   refusal  why it is not captured, or null
create or replace function rowcast.wanted_of(given oid[])
returns table (relid oid, root oid, ops text, columns text[], filter text, way text, nests boolean, refusal text)
language sql stable rows 100 set search_path = pg_catalog, pg_temp set jit = off as $$
  with recursive lineage as (
    select unnest(given) as relid
    union
    select i.inhparent from lineage as l join pg_inherits as i on i.inhrelid = l.relid
  ), members as materialized (
    select m.*
    from rowcast.publication_members(case when given is not null then array(
      select l.relid from lineage as l union select t.relid from lineage as l, pg_partition_tree(l.relid) as t
    ) end) as m
  ), tree as (
    select m.member as relid, m.member as root, 0 as depth from members as m
    union all
    select i.inhrelid, t.root, t.depth + 1
    from tree as t join pg_inherits as i on i.inhparent = t.relid join pg_class as c on c.oid = i.inhrelid
    where c.relispartition and not (given is not null and i.inhrelid not in (select l.relid from lineage as l))
  ), chosen as (
    -- A partition that is named itself, too, belongs to its topmost published ancestor.
    select distinct on (t.relid) t.* from tree as t order by t.relid, t.depth desc
  ), split as (
    -- A statement on a root fires the root's triggers, which know of one filter and one list of columns.
    select distinct a.relid
    from members as m, pg_partition_ancestors(m.member) as a
    where not m.via_root and (m.filter is not null or m.columns is not null) and a.relid <> m.member
  ), families as (
    select c.*, k.relkind, k.relpersistence, k.relispartition, m.via_root,
           case when c.root <> c.relid then replace(m.ops, 'T', '') else m.ops end as ops,
           case when m.via_root then m.columns else o.columns end as columns,
           case when m.via_root then m.filter else o.filter end as filter,
           (select pg_partition_root(c.relid)) as top,
           not k.relispartition and k.relkind = 'r' and exists (
             select from pg_inherits as i where i.inhrelid = c.relid or i.inhparent = c.relid)
           -- Nor do the rows that logical replication applies, to a root or to a part.
           or exists (
             select from pg_subscription_rel as s
             where s.srrelid = c.relid
                or s.srrelid in (select t.relid from pg_partition_tree(pg_partition_root(c.relid)) as t)) as inherits
    from chosen as c
    join members as m on m.member = c.root
    left join members as o on o.member = c.relid
    join pg_class as k on k.oid = c.relid
    join pg_namespace as n on n.oid = k.relnamespace
    where k.relkind in ('r', 'p', 'f') and (given is null or c.relid = any (given))
      and n.nspname not in ('rowcast', 'realtime', 'pg_catalog', 'information_schema')
      and n.nspname not like 'pg\_%'
  )
  select f.relid, f.root, f.ops, f.columns, f.filter,
         case when not (f.inherits or coalesce(f.root <> f.top, false) or f.root in (select s.relid from split as s)) then 'statement'
              when f.relkind = 'p' then 'parts' else 'row' end,
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
           when f.relkind = 'f' then 'it is a foreign table'
           when f.relpersistence <> 'p' then 'it is unlogged'
           when not (select rowcast.confines()) and rowcast.calls_casts(f.relid, of_others => true) then
             'its JSON may call code of others, and the role rowcast_json, which that runs as, is missing'
         end
  from families as f
$$;

create or replace function rowcast.wanted_tables()
returns table (relid oid, root oid, ops text, columns text[], filter text, way text, nests boolean, refusal text)
language sql stable rows 100 set search_path = pg_catalog, pg_temp set jit = off as $$
  select * from rowcast.wanted_of(null)
$$;

revoke all on all functions in schema rowcast from public;
