-- A type's own cast to json is code of others, which making the JSON of a row calls. Where somebody may have such a cast
-- called who has not the rights that triggers run with, JSON is made by a function of rowcast_json: a role with no right
-- on anything of ours.

-- The JSON of a row. Called by trigger functions only; nobody else may. It has no SET clause, which would cost
-- each row four times what the call does: every name in it is qualified.
create or replace function rowcast.row_json(of record) returns text
language plpgsql security definer as $$
begin
  return pg_catalog.row_to_json($1)::pg_catalog.text;
end $$;

-- Whether that function runs with no right of ours. Where the role is not to be had, it belongs to whoever migrated.
create or replace function rowcast.confines() returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (
    select from pg_proc as p join pg_roles as r on r.oid = p.proowner
    where p.oid = to_regprocedure('rowcast.row_json(record)') and p.prosecdef
      and r.rolname = 'rowcast_json' and not r.rolsuper)
$$;

-- Whether making the JSON of a table's rows may call such code: where a type in it has a cast to json that is not
-- written in C, and where the table or a type in it belongs to somebody who has not the rights of the role that the
-- triggers run as: who could bring one in and write a row in one transaction, before any trigger is made anew. With
-- `of_others`, casts whose function belongs to somebody with those rights do not count.
create or replace function rowcast.calls_casts(of oid, of_others boolean) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  -- Index by index, and past the types that come with Postgres, which are below: there may be ten thousand tables.
  with recursive types as (
    select a.atttypid as type from pg_attribute as a
    where a.attrelid = calls_casts.of and a.attnum > 0 and not a.attisdropped and a.atttypid >= 16384
    union
    -- As Postgres' own conversion does: through domains, arrays and composites, and into nothing else.
    select inner_.type from types as t cross join lateral (
      select unnest(case
        when y.typtype = 'd' then array[y.typbasetype]
        when y.typelem <> 0 and y.typsubscript = 'array_subscript_handler'::regproc then array[y.typelem]
        else array(select b.atttypid from pg_attribute as b
                   where y.typrelid <> 0 and b.attrelid = y.typrelid and b.attnum > 0 and not b.attisdropped)
        end) as type
      from pg_type as y where y.oid = t.type offset 0
    ) as inner_
    where inner_.type >= 16384
  ), runs as materialized (
    select (select p.proowner from pg_proc as p where p.oid = to_regproc('rowcast.capture_insert')) as role
  )
  select exists (
    select from pg_class as k, runs as r
    where k.oid = calls_casts.of and pg_has_role(k.relowner, r.role, 'usage') is not true
  ) or exists (
    select from runs as r, types as t cross join lateral (
      select y.typowner from pg_type as y
      where y.oid = t.type
        -- A domain's cast is ignored, and an array's is never looked for.
        and y.typtype <> 'd' and not (y.typelem <> 0 and y.typsubscript = 'array_subscript_handler'::regproc)
      offset 0
    ) as y
    where pg_has_role(y.typowner, r.role, 'usage') is not true or exists (
      select from pg_cast as c join pg_proc as p on p.oid = c.castfunc
      where c.castsource = t.type and c.casttarget = 'json'::regtype and c.castmethod = 'f'
        and (select l.lanname from pg_language as l where l.oid = p.prolang) not in ('c', 'internal')
        and (not of_others or pg_has_role(p.proowner, r.role, 'usage') is not true)
      offset 0)
  )
$$;

revoke all on all functions in schema rowcast from public;
