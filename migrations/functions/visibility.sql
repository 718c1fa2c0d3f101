-- Row level security on row images: which policies narrow what a role may read, and the functions that judge by them.
--
-- A policy's text comes from the catalog only, written and parsed under `pg_catalog, pg_temp`: whatever else stands in
-- public, it means what it meant when the policy was made. Functions that it calls find the path of a session.

-- What SELECT means for each of these roles, one row for each that exists:
--   sees        'everything'; 'nothing'; 'some', as the condition says; 'barred' where this session may not assume it
--   condition   the policies' conditions, put together as Postgres does
--   columns     of the table: [name, type as SQL writes it, whether the condition reads it, whether its JSON reads
--               back as what it was, expression of a virtual generated column]
--   whole       whether the condition reads the row as a whole
--   system      numbers of the system columns it may read
--   key         of the table: [column, type, operator of equality], or null
create or replace function rowcast.rules(of oid, role_names text[])
returns table (role text, sees text, condition text, schema_name text, table_name text, columns jsonb,
               whole boolean, system int[], key jsonb)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  recent constant boolean := current_setting('server_version_num')::int >= 160000;
begin
  return query
  with applied as materialized (
    select r.oid as role_oid, p.oid as policy, p.polname, p.polpermissive,
           pg_get_expr(p.polqual, p.polrelid) as condition, p.polqual::text as tree
    from pg_roles as r join pg_policy as p on p.polrelid = rules.of
    where r.rolname = any (role_names) and p.polcmd in ('*', 'r') and p.polqual is not null
      and exists (select from unnest(p.polroles) as named
                  where named = 0 or pg_has_role(r.oid, named, 'usage'))
  ), assembled as (
    select a.role_oid,
           string_agg(format('(%s)', a.condition), ' and ' order by a.polname) filter (where not a.polpermissive)
             as narrowing,
           string_agg(format('(%s)', a.condition), ' or ' order by a.polname) filter (where a.polpermissive)
             as granting,
           -- Names are escaped where Postgres writes a tree, so that none of them looks like this.
           bool_or(a.tree ~ ':varattno 0 ') as whole,
           (select array_agg(distinct written[1]::int)
            from applied as b, regexp_matches(b.tree, ':varattno (-\d+) ', 'g') as written
            where b.role_oid = a.role_oid) as system,
           (select array_agg(distinct d.refobjsubid)
            from applied as b join pg_depend as d on d.objid = b.policy
            where b.role_oid = a.role_oid and d.classid = 'pg_policy'::regclass
              and d.refclassid = 'pg_class'::regclass and d.refobjid = rules.of and d.refobjsubid > 0) as reads
    from applied as a group by a.role_oid
  )
  select r.rolname::text,
         case when not (has_schema_privilege(r.oid, k.relnamespace, 'usage')
                        and (has_table_privilege(r.oid, k.oid, 'select')
                             or has_any_column_privilege(r.oid, k.oid, 'select'))) then 'nothing'
              when not k.relrowsecurity or r.rolbypassrls or r.rolsuper
                   or not k.relforcerowsecurity and pg_has_role(r.oid, k.relowner, 'usage') then 'everything'
              when s.granting is null then 'nothing'
              when not pg_has_role(r.oid, case when recent then 'set' else 'member' end) then 'barred'
              else 'some' end,
         concat(s.narrowing || ' and ', format('(%s)', s.granting)),
         n.nspname::text, k.relname::text,
         (select jsonb_agg(jsonb_build_array(
                   a.attname, quote_ident(yn.nspname) || '.' || quote_ident(y.typname),
                   coalesce(s.whole or a.attnum = any (s.reads), false),
                   rowcast.shape_of(a.atttypid, a.attcollation)::text !~ '"any"',
                   case when a.attgenerated = 'v' then pg_get_expr(f.adbin, f.adrelid) end) order by a.attnum)
          from pg_attribute as a
          join pg_type as y on y.oid = a.atttypid
          join pg_namespace as yn on yn.oid = y.typnamespace
          left join pg_attrdef as f on f.adrelid = a.attrelid and f.adnum = a.attnum
          where a.attrelid = k.oid and a.attnum > 0 and not a.attisdropped),
         coalesce(s.whole, false), coalesce(s.system, '{}'),
         (select jsonb_agg(jsonb_build_array(
                   a.attname, quote_ident(yn.nspname) || '.' || quote_ident(y.typname),
                   format('operator(%I.%s)', n2.nspname, o.oprname)) order by i.nth)
          from pg_index as x
          cross join unnest(x.indkey::int2[], x.indclass::oid[]) with ordinality as i (attnum, opclass, nth)
          join pg_attribute as a on a.attrelid = k.oid and a.attnum = i.attnum
          join pg_type as y on y.oid = a.atttypid
          join pg_namespace as yn on yn.oid = y.typnamespace
          join pg_opclass as c on c.oid = i.opclass
          join pg_amop as m on m.amopfamily = c.opcfamily and m.amopstrategy = 3
            and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype
          join pg_operator as o on o.oid = m.amopopr
          join pg_namespace as n2 on n2.oid = o.oprnamespace
          where x.indrelid = k.oid and x.indisprimary and i.nth <= x.indnkeyatts)
  from pg_class as k
  join pg_namespace as n on n.oid = k.relnamespace
  cross join pg_roles as r
  left join assembled as s on s.role_oid = r.oid
  where k.oid = rules.of and r.rolname = any (role_names);
end $$;

-- Make a function in this session's temporary schema that belongs to a role and runs as it, security definer, and that
-- only for this: inside, Postgres lets nobody change the role. The session that calls it may be a superuser's, and what
-- it calls is anybody's code.
create or replace function rowcast.make_as(role_name text, signature text, definition text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  superuser constant boolean := current_setting('is_superuser') = 'on';
begin
  -- Only a superuser can give it away whatever the role may create.
  if not superuser then
    perform set_config('role', role_name, true);
  end if;
  execute format('create function %s %s', signature, definition);
  execute format('revoke all on function %s from public', signature);
  if superuser then
    execute format('alter function %s owner to %I', signature, role_name);
  else
    execute format('grant execute on function %s to %I', signature, session_user);
    perform set_config('role', 'none', true);
  end if;
end $$;

-- Make a function that judges, for this session:
--   name(role, images text[], claims text[], oid of the table or partition, path) returns text[]
-- Its first answer has a letter for each image: '1' where it could be read, 'u' where not. Then comes one for each
-- claims, with a letter for each image that could be read: '1' visible, '0' not, 'e' a policy raised an error,
-- 'u' it could not be judged.
--
-- It depends on nothing of the table's, or the table could not be dropped.
create or replace function rowcast.make_judge(name text, role_name text, preparation text, judgement text)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $make$
begin
  perform rowcast.make_as(role_name, format('pg_temp.%I(text, text[], text[], oid, text)', name),
  format('returns text[] language plpgsql stable security definer as %L', format($body$
#variable_conflict use_column
declare
  rowcast_fit text := '';
  rowcast_size int;
  rowcast_at int;
  rowcast_verdict text;
  rowcast_state text;
  rowcast_line text;
  rowcast_answer text[];
%1$s
  rowcast_answer := array[rowcast_fit];
  for rowcast_n in 1 .. cardinality($3) loop
    -- All rows at once; where that fails, none, to see whether the rows are at fault; then one by one.
    rowcast_at := 0;
    rowcast_line := '';
    loop
      rowcast_part := case rowcast_at when 0 then rowcast_rows when -1 then '{}'
                                      else rowcast_rows[rowcast_at : rowcast_at] end;
      rowcast_verdict := null;
      rowcast_state := 'XX000';
      begin
        perform set_config('request.jwt.claims', $3[rowcast_n], true),
                set_config('request.jwt.claim.sub', coalesce($3[rowcast_n]::json ->> 'sub', ''), true),
                set_config('request.jwt.claim.role', $1, true);
        %2$s
        -- Whatever a policy has set for one subject, the next must not find.
        raise sqlstate 'RW000';
      exception
        when sqlstate 'RW000' then null;
        when others or assert_failure then rowcast_state := sqlstate;
      end;
      if rowcast_at = 0 then
        rowcast_line := rowcast_verdict;
        exit when rowcast_verdict is not null;
        rowcast_line := '';
        rowcast_at := case when left(rowcast_state, 2) in ('42', '3F') then -1 else 1 end;
      elsif rowcast_at = -1 then
        rowcast_line := case when rowcast_verdict is null then repeat('u', rowcast_size) else '' end;
        exit when rowcast_verdict is null;
        rowcast_at := 1;
      else
        rowcast_line := rowcast_line || coalesce(rowcast_verdict,
          case when left(rowcast_state, 2) in ('42', '3F') then 'u' else 'e' end);
        rowcast_at := rowcast_at + 1;
      end if;
      exit when rowcast_at > rowcast_size;
    end loop;
    rowcast_answer := rowcast_answer || rowcast_line;
  end loop;
  return rowcast_answer;
end $body$, preparation, judgement)));
end $make$;

-- Make a function that runs one statement, for this transaction, which is to be rolled back:
--   pg_temp.rowcast_question(arguments …, text) returns setof record
-- Its last argument is not used: whoever calls sets the role there. It belongs to the role for the same reason as a judge.
create or replace function rowcast.make_question(role_name text, arguments text, statement text, writes boolean)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $make$
begin
  perform rowcast.make_as(role_name, format('pg_temp.rowcast_question(%s)', arguments),
    format('returns setof record language plpgsql %s security definer as %L',
           case when writes then 'volatile' else 'stable' end,
           format(E'#variable_conflict use_column\nbegin return query %s; end', statement)));
end $make$;

-- A judge of images: each is read as a row of the table, under the table's name, which policies may use.
-- $4 stands for tableoid, which a row that is no table's has not.
create or replace function rowcast.make_image_judge(
  name text, role_name text, schema_name text, table_name text, columns jsonb, condition text, tableoid boolean)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $make$
declare
  type constant text := format('%I.%I', schema_name, table_name);
  reading text := format('json_populate_record(null::%s, i.image::json)', type);
  rows constant text := $rows$unnest(case when set_config('plan_cache_mode', 'auto', true) is not null
          and set_config('search_path', $5, true) is not null then rowcast_part end)$rows$;
begin
  -- A virtual generated column is null in an image. Once computed, it is a column like others.
  if exists (select from jsonb_array_elements(columns) as c where c ->> 4 is not null) then
    reading := format('(select row(%s)::%s from %s as %I)',
      (select string_agg(coalesce('(' || (c ->> 4) || ')', format('%I.%I', table_name, c ->> 0)), ', ' order by nth)
       from jsonb_array_elements(columns) with ordinality as e (c, nth)), type, reading, table_name);
  end if;
  perform rowcast.make_judge(name, role_name, format($part$
  rowcast_rows %1$s[];
  rowcast_part %1$s[];
begin
  begin
    rowcast_rows := array(select %2$s from unnest($2) with ordinality as i (image, n) order by i.n);
    rowcast_fit := repeat('1', cardinality($2));
  exception when others or assert_failure then
    rowcast_rows := '{}';
    for rowcast_at in 1 .. cardinality($2) loop
      begin
        rowcast_rows := rowcast_rows || array(select %2$s from unnest($2[rowcast_at : rowcast_at]) as i (image));
        rowcast_fit := rowcast_fit || '1';
      exception when others or assert_failure then
        rowcast_fit := rowcast_fit || 'u';
      end;
    end loop;
  end;
  rowcast_size := cardinality(rowcast_rows);
$part$, type, reading),
    -- The path and the way of planning change when the rows are fetched: the statement was parsed and planned by then.
    format($part$select coalesce(string_agg(case when (%s) then '1' else '0' end, ''), '') into rowcast_verdict
        from %s;$part$, condition,
      case when tableoid then format('(select r.*, $4 as tableoid from %s as r) as %I', rows, table_name)
           else format('%s as %I', rows, table_name) end));
end $make$;

-- A judge of the rows that the table has now under the images' keys, as the role itself may select them.
create or replace function rowcast.make_live_judge(
  name text, role_name text, schema_name text, table_name text, key jsonb)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $make$
begin
  perform rowcast.make_judge(name, role_name, $part$
  rowcast_rows text[] := $2;
  rowcast_part text[];
begin
  rowcast_fit := repeat('1', cardinality($2));
  rowcast_size := cardinality($2);
$part$,
    -- Here everything runs as in a session, parsing too. So that nothing in the path can be meant by it, all names are
    -- qualified.
    format($part$perform set_config('plan_cache_mode', 'auto', true), set_config('search_path', $5, true);
        select coalesce(pg_catalog.string_agg(
          case when exists (select from %1$I.%2$I as t where %4$s) then '1'::pg_catalog.text
               else '0'::pg_catalog.text end, ''::pg_catalog.text order by i.n), '') into rowcast_verdict
        from pg_catalog.unnest(rowcast_part) with ordinality as i (image, n)
        cross join lateral pg_catalog.json_to_record(i.image::pg_catalog.json) as k (%3$s);$part$,
      schema_name, table_name,
      (select string_agg(format('%I %s', c ->> 0, c ->> 1), ', ') from jsonb_array_elements(key) as c),
      (select string_agg(format('t.%1$I %2$s k.%1$I', c ->> 0, c ->> 2), ' and ') from jsonb_array_elements(key) as c)));
end $make$;

revoke all on all functions in schema rowcast from public;
