-- Snapshots: the rows of a table that a role may select, read by a function of the role's own, as policies are judged.

-- What has to be known of a table before its rows are read: one row, or none where there is no such table.
--   relations  the versions that its changes carry now, of its partitions as well
--   filters    row filters of the publication, by the oid of the table or partition that each is of
--   unfiltered whether rows of a part of it are captured without a filter
--   readable   columns that the role may select
--   key        columns of the primary key, in its order
create or replace function rowcast.snapshot_source(of oid, role_name text)
returns table (schema_name text, table_name text, relations int[], filters jsonb, unfiltered boolean, readable text[],
               key text[])
language sql stable set search_path = pg_catalog, pg_temp as $$
  with parts as materialized (
    select w.relid, w.filter, c.relation
    from rowcast.wanted_of(array(
      select snapshot_source.of union select t.relid from pg_partition_tree(snapshot_source.of) as t)) as w
    left join lateral (select c.relation from rowcast.captured as c where c.relid = w.relid) as c on true
    where w.root = snapshot_source.of and w.way <> 'parts'
  )
  select n.nspname::text, k.relname::text,
         array(select distinct p.relation from parts as p where p.relation is not null order by 1),
         (select jsonb_object_agg(p.relid::text, p.filter) from parts as p where p.filter is not null),
         exists (select from parts as p where p.filter is null),
         array(select a.attname::text from pg_attribute as a
               where a.attrelid = k.oid and a.attnum > 0 and not a.attisdropped
                 and has_column_privilege(r.oid, k.oid, a.attnum, 'select') order by a.attnum),
         array(select a.attname::text
               from pg_index as x
               cross join unnest(x.indkey::int2[]) with ordinality as i (attnum, nth)
               join pg_attribute as a on a.attrelid = k.oid and a.attnum = i.attnum
               where x.indrelid = k.oid and x.indisprimary and i.nth <= x.indnkeyatts order by i.nth)
  from pg_class as k
  join pg_namespace as n on n.oid = k.relnamespace
  left join pg_roles as r on r.rolname = snapshot_source.role_name
  where k.oid = snapshot_source.of
$$;

-- Whether a table, or one that SELECT reads with it, got another file since this transaction's snapshot was taken. ALTER
-- TABLE and TRUNCATE then hide from it the rows that were there. Asked once the table was read, and so is locked.
create or replace function rowcast.rewritten(of oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive tree as (
    select rewritten.of as relid
    union
    select i.inhrelid from tree as t join pg_inherits as i on i.inhparent = t.relid
  )
  select exists (
    select from tree as t join pg_class as k on k.oid = t.relid
    -- The one is what the snapshot sees; the other is what there is now.
    where k.relkind = 'r' and k.relfilenode is distinct from pg_relation_filenode(k.oid))
$$;

-- Make a function that reads a snapshot, for this session:
--   name(role, claims, path, rows, bytes) returns table (n, images, ends)
-- Images come in batches of so many rows at most, which are little more than so many bytes; n numbers them from 1, and
-- one that `ends` is the last: what else runs in the session cannot take one away unnoticed.
--
-- All of it is computed before the first batch is handed out, so that nothing runs later, when a cursor is kept.
create or replace function rowcast.make_snapshot(name text, role_name text, query text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $make$
begin
  perform rowcast.make_as(role_name, format('pg_temp.%I(text, text, text, int, int)', name),
  format('returns table (n int, images text[], ends boolean) language plpgsql stable security definer as %L',
         format($body$
#variable_conflict use_column
declare
  rowcast_image text;
  rowcast_size bigint := 0;
  rowcast_read boolean := false;
begin
  n := 1;
  images := '{}';
  ends := false;
  begin
    perform set_config('request.jwt.claims', $2, true),
            set_config('request.jwt.claim.sub', coalesce($2::json ->> 'sub', ''), true),
            set_config('request.jwt.claim.role', $1, true),
            set_config('search_path', $3, true);
    for rowcast_image in %s loop
      if cardinality(images) >= $4 or rowcast_size > 0 and rowcast_size + octet_length(rowcast_image) > $5 then
        return next;
        n := n + 1;
        images := '{}';
        rowcast_size := 0;
      end if;
      images := array_append(images, rowcast_image);
      rowcast_size := rowcast_size + octet_length(rowcast_image);
    end loop;
    rowcast_read := true;
    -- Whatever a policy has set here, the next table must not find. The rows stay.
    raise sqlstate 'RW000';
  exception when sqlstate 'RW000' then
    if not rowcast_read then
      raise exception using errcode = 'P0001', message = 'a policy ended the reading';
    end if;
  end;
  ends := true;
  return next;
end $body$, query)));
end $make$;

revoke all on all functions in schema rowcast from public;
