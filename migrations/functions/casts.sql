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

-- Whether a role would gain by running code as the triggers do.
create or replace function rowcast.gains(role oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(not pg_has_role(gains.role, (
    select p.proowner from pg_proc as p where p.oid = to_regprocedure('rowcast.capture_insert()')), 'usage'), true)
$$;

-- Whether making the JSON of a table's rows may call such code: where a type in it has a cast to json that is not
-- written in C, and where the table or a type in it belongs to somebody who would gain by it. Those could bring one in
-- and write a row in one transaction, before any trigger is made anew.
create or replace function rowcast.calls_casts(of oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive types as (
    select a.atttypid as type from pg_attribute as a
    where a.attrelid = calls_casts.of and a.attnum > 0 and not a.attisdropped
    union
    -- As Postgres' own conversion does: through domains, arrays and composites, and into nothing else.
    select coalesce(nullif(y.typbasetype, 0), b.atttypid, y.typelem)
    from types as t join pg_type as y on y.oid = t.type
    left join pg_attribute as b on b.attrelid = y.typrelid and b.attnum > 0 and not b.attisdropped
    where y.typtype = 'd' or b.attnum is not null
       or y.typelem <> 0 and y.typsubscript = 'array_subscript_handler'::regproc
  )
  select rowcast.gains((select k.relowner from pg_class as k where k.oid = calls_casts.of)) or exists (
    select from types as t join pg_type as y on y.oid = t.type
    -- Below are the types that come with Postgres. A cast of a domain is ignored, and an array's is never looked for.
    where y.oid >= 16384 and y.typtype <> 'd'
      and not (y.typelem <> 0 and y.typsubscript = 'array_subscript_handler'::regproc)
      and (rowcast.gains(y.typowner) or exists (
        select from pg_cast as c join pg_proc as p on p.oid = c.castfunc join pg_language as l on l.oid = p.prolang
        where c.castsource = y.oid and c.casttarget = 'json'::regtype and c.castmethod = 'f'
          and l.lanname not in ('c', 'internal')))
  )
$$;

revoke all on all functions in schema rowcast from public;
