-- Versions of tables: how a row looked when it was written.

-- What the JSON of a value is, with domains resolved: see model/shape. It follows what Postgres' own conversion
-- looks at, in the same order. `sorted` is the collation of the column, and so of the elements of its arrays.
create or replace function rowcast.shape_of(type oid, sorted oid, depth int default 0) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  kind record;
begin
  loop
    select y.typname, y.typtype, y.typbasetype, y.typelem, y.typrelid, y.typcollation,
           y.typelem <> 0 and y.typsubscript = 'array_subscript_handler'::regproc as repeats,
           -- Below are the types that come with Postgres.
           y.oid >= 16384 as added
      into strict kind from pg_type as y where y.oid = shape_of.type;
    exit when kind.typtype <> 'd';
    type := kind.typbasetype;
  end loop;
  return case
    when (kind.repeats or kind.typtype = 'c') and depth = 8 then '"any"'
    when kind.repeats then jsonb_build_object('array', rowcast.shape_of(kind.typelem, sorted, depth + 1))
    when kind.typtype = 'c' then jsonb_build_object('row', (
      select coalesce(jsonb_agg(jsonb_build_array(
               a.attname, rowcast.shape_of(a.atttypid, a.attcollation, depth + 1)) order by a.attnum), '[]')
      from pg_attribute as a where a.attrelid = kind.typrelid and a.attnum > 0 and not a.attisdropped))
    when kind.added and exists (
      select from pg_cast as c
      where c.castsource = shape_of.type and c.casttarget = 'json'::regtype and c.castmethod = 'f') then '"any"'
    when kind.typtype = 'e' then '"enum"'
    when kind.typtype in ('r', 'm') then '"range"'
    when kind.added then '"other"'
    when kind.typcollation <> 0 and exists (
      select from pg_collation as c where c.oid = sorted and not c.collisdeterministic) then '"collated"'
    else to_jsonb(kind.typname)
  end;
end $$;

-- The version of a table as it looks now: its id in rowcast.relations, made when there is none like it. `published`
-- names the columns that the publication gives, or is null for all.
do $$
begin
  if to_regprocedure('rowcast.relation_version(oid, oid, int2[])') is not null then
    drop function rowcast.relation_version(oid, oid, int2[]);
  end if;
end $$;
create or replace function rowcast.relation_version(of oid, root oid, published text[]) returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  described record;
  found_id int;
begin
  select n.nspname::text as schema_name, k.relname::text as table_name, listed.columns, listed.omitted,
         coalesce((select array_agg(a.attname::text order by a.attnum)
                   from pg_attribute as a join pg_index as x on x.indrelid = t.oid
                   where a.attrelid = t.oid
                     -- Without the columns that an index only carries along (INCLUDE).
                     and a.attnum = any ((x.indkey::int2[])[0 : x.indnkeyatts - 1])
                     and case t.relreplident when 'i' then x.indisreplident when 'd' then x.indisprimary end), '{}')
           as key_columns,
         t.relreplident as identity_kind, k.oid as root_oid,
         (t.relrowsecurity or k.relrowsecurity) as rls
    into strict described
    from pg_class as t
    join pg_class as k on k.oid = relation_version.root
    join pg_namespace as n on n.oid = k.relnamespace
    cross join lateral (
      -- [name, type, shape, whether it is of the primary key of the table that is reported,
      --  type and collation as SQL writes them (null is the type's own), type as people read it]
      -- A filter needs them for rows that were written before the table changed, or went.
      select coalesce(jsonb_agg(jsonb_build_array(
                        a.attname, y.typname,
                        -- What most columns are is told without a call: this runs for every table after DDL.
                        case when y.typtype = 'b' and y.typelem = 0 and y.oid < 16384
                                  and a.attcollation in (0, 'pg_catalog."default"'::regcollation)
                             then to_jsonb(y.typname) else rowcast.shape_of(a.atttypid, a.attcollation) end,
                        exists (
                          select from pg_attribute as p join pg_index as x on x.indrelid = p.attrelid
                          where p.attrelid = k.oid and p.attname = a.attname and x.indisprimary
                            and p.attnum = any ((x.indkey::int2[])[0 : x.indnkeyatts - 1])),
                        quote_ident(yn.nspname) || '.' || quote_ident(y.typname),
                        case when a.attcollation <> y.typcollation then (
                          select quote_ident(cn.nspname) || '.' || quote_ident(c.collname)
                          from pg_collation as c join pg_namespace as cn on cn.oid = c.collnamespace
                          where c.oid = a.attcollation) end,
                        format_type(a.atttypid, null)
                      ) order by a.attnum) filter (where not hidden.is), '[]') as columns,
             coalesce(array_agg(a.attname::text order by a.attnum) filter (where hidden.is), '{}') as omitted
      from pg_attribute as a
      join pg_type as y on y.oid = a.atttypid
      join pg_namespace as yn on yn.oid = y.typnamespace
      -- A virtual generated column is null in a trigger; a column list may leave columns out.
      cross join lateral (select a.attgenerated = 'v'
                                 or coalesce(a.attname <> all (relation_version.published), false) as is) as hidden
      where a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
    ) as listed
    where t.oid = relation_version.of;
  if described.identity_kind = 'f' then
    described.key_columns := array(select jsonb_array_elements(described.columns) ->> 0);
  end if;
  select r.id into found_id from rowcast.relations as r
    where r.oid = relation_version.of and r.fingerprint = md5(described::text);
  if not found then
    insert into rowcast.relations as r
      (oid, root, fingerprint, schema_name, table_name, columns, identity, omitted, rls)
    values (relation_version.of, described.root_oid, md5(described::text), described.schema_name, described.table_name,
            described.columns, described.key_columns, described.omitted, described.rls)
    -- Another node may be describing it at this moment: then take its row.
    on conflict (oid, fingerprint) do update set rls = excluded.rls
    returning r.id into found_id;
  end if;
  return found_id;
end $$;

revoke all on all functions in schema rowcast from public;
