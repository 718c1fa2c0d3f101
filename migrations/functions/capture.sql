-- The trigger functions: one for each operation, serving every captured table; such for each row filter; and such for
-- tables whose JSON may call a type's own cast, which are confined: see casts.sql.
--
-- Arguments of a trigger; the last two are left out where both would be '':
--   0  rowcast.relations.id of the table as it looks now
--   1  which session settings the JSON of a row depends on: '' none, 'time' TimeZone, 'all' every one
--   2  the oid whose drawn order the statement has, or '' where no statement can nest (then ord = seq)
--
-- They are security definer and owned by rowcast_capture, which may insert into the outbox and nothing else. Where code
-- of others may have run, the search path is set anew before anything else is looked up: a SET clause does not outlast
-- a plain SET inside it.
-- A whole row is always written as alias.*: a bare alias would mean the column of that name, if a user has one. In
-- plain `row_to_json(new)` there is no table whose column it might be.

-- Keep the settings that decide how a value looks as text as they must be, and return what they were.
create or replace function rowcast.pin(kind text) returns text[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  wanted constant text[] := array[
    ['TimeZone', 'UTC'], ['DateStyle', 'ISO, MDY'], ['IntervalStyle', 'postgres'], ['bytea_output', 'hex'],
    ['extra_float_digits', '1'], ['xmloption', 'content'], ['lc_monetary', 'C']];
  changed text[] := '{}';
  setting text[];
  present text;
begin
  foreach setting slice 1 in array wanted loop
    exit when kind = 'time' and setting[1] <> 'TimeZone';
    present := current_setting(setting[1]);
    if present <> setting[2] then
      changed := changed || array[setting[1], present];
      perform set_config(setting[1], setting[2], true);
    end if;
  end loop;
  return changed;
end $$;

create or replace function rowcast.unpin(changed text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  for i in 1 .. cardinality(changed) by 2 loop
    perform set_config(changed[i], changed[i + 1], true);
  end loop;
end $$;

-- Draw the number of a statement before its rows change: statements that its own triggers run come later,
-- though their AFTER triggers fire first. Only on tables that have such triggers.
create or replace function rowcast.draw_order() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform set_config(
    format('rowcast.ord_%s_%s_%s', tg_argv[0], lower(tg_op), pg_trigger_depth()),
    nextval('rowcast.seq')::text, true);
  return null;
end $$;

create or replace function rowcast.drawn_order(family text, op text, depth int) returns bigint
language sql stable set search_path = pg_catalog, pg_temp as $$
  select nullif(current_setting(format('rowcast.ord_%s_%s_%s', family, lower(op), depth), true), '')::bigint
$$;

-- Functions of an older version, whose arguments or results were others.
do $$
declare
  old regprocedure;
begin
  for old in
    select p.oid::regprocedure from pg_catalog.pg_proc as p
    where p.pronamespace = 'rowcast'::regnamespace
      and p.proname in ('changed_rows', 'capture_function', 'kept_functions')
  loop
    execute format('drop function %s', old);
  end loop;
end $$;

-- Where the rows of a trigger come from: a query of (op, new, old). Under a row filter, with the meaning that logical
-- replication gives it: a row that passes only before an update leaves, one that passes only after it comes.
-- `writer` is the function that makes the JSON of a row.
create or replace function rowcast.changed_rows(event text, way text, filter text, writer text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  with images as (
    select coalesce('case when ' || filter || ' then ' || made || ' end', made) as image, made,
           case when way = 'row' then '(select new.*)' else 'rowcast_new' end as come,
           case when way = 'row' then '(select old.*)' else 'rowcast_old' end as gone
    from (values (writer || '(i.*)::text')) as i (made)
  )
  select case
    when event = 'truncate' then $q$ select 'T'::"char" as op, null::text as new, null::text as old $q$
    when filter is null and way = 'row' then format(
      $q$ select %L::"char" as op, %s::text as new, %s::text as old $q$, upper(left(event, 1)),
      case when event = 'delete' then 'null' else writer || '(new)' end,
      case when event = 'insert' then 'null' else writer || '(old)' end)
    when event = 'insert' then format(
      $q$ select 'I'::"char" as op, %s as new, null::text as old from %s as i where %s $q$,
      made, come, coalesce(filter, 'true'))
    when event = 'delete' then format(
      $q$ select 'D'::"char" as op, null::text as new, %s as old from %s as i where %s $q$,
      made, gone, coalesce(filter, 'true'))
    -- Both transition tables are filled in lockstep: the n-th old row became the n-th new row. Never by key, which the
    -- statement may have changed. A full join, since it cannot be a nested loop: a plan that a session made for one
    -- row is kept for its statements of a million.
    else format($q$
      select %s as op, n.image as new, o.image as old
      from (select row_number() over () as nth, %s as image from %s as i) as n
      full join (select row_number() over () as nth, %s as image from %s as i) as o using (nth)
      %s order by nth $q$,
      case when filter is null then $q$'U'::"char"$q$
           else $q$(case when o.image is null then 'I' when n.image is null then 'D' else 'U' end)::"char"$q$ end,
      image, come, image, gone,
      case when filter is not null then 'where n.image is not null or o.image is not null' else '' end)
  end
  from images
$$;

-- The trigger function for an event ('insert', 'update', 'delete', 'truncate'), a way ('statement', 'row'), a row
-- filter, or null, and whether JSON is made by rowcast.row_json: its name, and its text. Functions of filters are named
-- by what they say, so they never change.
-- The inserts are plain, static SQL, for their plans to be kept; so they stand three times, once for each table of
-- the outbox. Columns that a filter names come before variables of the function of the same name.
create or replace function rowcast.capture_function(event text, way text, filter text, confined boolean)
returns table (name text, definition text)
language sql immutable set search_path = pg_catalog, pg_temp as $$
  with written as (
    select format($body$
      #variable_conflict use_column
      declare
        changed_settings text[];
        statement_order bigint;
        outbox bigint;
        written bigint;
      begin
        -- The flags are read by a function and not by SELECT: an expression without a table needs no executor, and
        -- three of them cost a quarter of one. Here the writer's xid is assigned already, since a row was written:
        -- see capture/waker and capture/retention.
        if to_timestamp(pg_sequence_last_value('rowcast.lease_until'::regclass)) <= clock_timestamp() then
          return null;
        end if;
        %4$s
        %1$s
        if tg_nargs > 1 then
          if tg_argv[1] = 'all'
             or tg_argv[1] = 'time' and current_setting('TimeZone') not in ('UTC', 'Etc/UTC', 'GMT') then
            changed_settings := rowcast.pin(tg_argv[1]);
          end if;
          if tg_argv[2] <> '' then
            statement_order := rowcast.drawn_order(tg_argv[2], tg_op, pg_trigger_depth());
          end if;
        end if;
        outbox := pg_sequence_last_value('rowcast.current_outbox'::regclass);
        %2$s
        get diagnostics written = row_count;
        %3$s
        if written > 0 then
          -- Once in so many changes, by whoever drew the number.
          if currval('rowcast.seq') %% 512 < written then
            perform rowcast.stop_if_full();
          end if;
        end if;
        if changed_settings is not null then
          perform rowcast.unpin(changed_settings);
        end if;
        if to_timestamp(pg_sequence_last_value('rowcast.asleep_until'::regclass)) > clock_timestamp()
           and written > 0 then
          perform pg_notify('rowcast', '');
        end if;
        return null;
      end $body$,
      -- A filter that cannot be computed (a division by zero, say) must not fail the user's statement.
      case when filter is not null then format($guard$
        begin
          %s
        exception when others then
          raise warning 'Rowcast leaves out what this %% did to %%.%%: the row filter of the publication fails: %%',
            tg_op, tg_table_schema, tg_table_name, sqlerrm;
          return null;
        end;
        $guard$, (
          select string_agg(format('perform from %s as i where %s;', source, filter), ' ')
          from unnest(case when way = 'row' then array['(select new.*)', '(select old.*)']
                           else array['rowcast_new', 'rowcast_old'] end) with ordinality as u (source, n)
          where event = 'update' or (n = 1) = (event = 'insert')
        )) else '' end,
      (
        select string_agg(format($branch$
          %1$s outbox = %2$s then
            insert into rowcast.outbox_%2$s /* Rowcast captures this table; "rowcast unwatch" stops it */
              (xid, seq, ord, relation, op, record, old_record, at)
            -- seq stands before ord, and is drawn before ord reads it: columns are computed in this order.
            select pg_current_xact_id(), nextval('rowcast.seq'),
                   coalesce(statement_order, currval('rowcast.seq')),
                   tg_argv[0]::int, change.op, change.new, change.old, clock_timestamp()
            from (%3$s) as change;
          $branch$, case n when 0 then 'if' else 'elsif' end, n,
          rowcast.changed_rows(event, way, filter, case when confined then 'rowcast.row_json' else 'row_to_json' end)),
          '' order by n)
          -- Not read for lack of a right: no row is left out silently.
          || 'else
            raise exception ''Rowcast cannot read its flags. "rowcast unwatch" stops it capturing this table'';
          end if;'
        from generate_series(0, 2) as n
      ),
      case when confined then $path$
        if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
          perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        end if;$path$ end,
      -- Its owner is whoever the code of others can become, and may drop it. No write fails for that.
      case when confined then $gone$
        if to_regproc('rowcast.row_json') is null then
          raise warning 'Rowcast leaves out what this % did to %.%: its function rowcast.row_json is gone. Run rowcast migrate',
            tg_op, tg_table_schema, tg_table_name;
          return null;
        end if;$gone$ end) as body
  ), named as (
    select concat('capture_', event, case when way = 'row' then '_row' end, case when confined then '_confined' end,
                  case when filter is not null then '_' || md5(body) end) as name, body
    from written
  )
  select named.name, format(
    'create or replace function rowcast.%I() returns trigger language plpgsql security definer'
    ' set search_path = pg_catalog, pg_temp as %L', named.name, named.body)
  from named
$$;

do $generate$
declare
  source record;
begin
  for source in
    select made.* from unnest(array['insert', 'update', 'delete', 'truncate']) as event,
                       unnest(array['statement', 'row']) as way, unnest(array[false, true]) as confined,
                       rowcast.capture_function(event, way, null, confined) as made
    where event <> 'truncate' or way = 'statement' and not confined
  loop
    execute source.definition;
  end loop;
end $generate$;

-- The functions that still belong to whoever made them, though the role that is to own each may have it: a role that
-- inherits from that one may replace and drop them afterwards.
create or replace function rowcast.functions_to_give() returns table (given regprocedure, owner text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select p.oid::regprocedure, r.rolname::text
  from pg_proc as p
  join pg_roles as r on r.rolname = case when p.prorettype = 'trigger'::regtype then 'rowcast_capture'
                                         when p.oid = 'rowcast.row_json(record)'::regprocedure then 'rowcast_json' end
  where p.pronamespace = 'rowcast'::regnamespace and p.prosecdef
    and p.proowner <> r.oid and pg_has_role(p.proowner, 'usage') and pg_has_role(r.oid, 'usage')
    and pg_has_role(r.oid, case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end)
$$;

-- What the bodies of the trigger functions need.
create or replace function rowcast.equip_functions() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from pg_roles where rolname = 'rowcast_capture') then
    grant usage on schema rowcast to rowcast_capture;
    grant insert on rowcast.outbox_0, rowcast.outbox_1, rowcast.outbox_2 to rowcast_capture;
    grant usage on sequence rowcast.seq to rowcast_capture;
    grant select on sequence rowcast.current_outbox, rowcast.asleep_until, rowcast.lease_until to rowcast_capture;
    grant execute on function rowcast.pin(text), rowcast.unpin(text[]), rowcast.drawn_order(text, text, int),
      rowcast.row_json(record) to rowcast_capture;
    -- It stands in a later file.
    if to_regprocedure('rowcast.stop_if_full()') is not null then
      grant execute on function rowcast.stop_if_full() to rowcast_capture;
    end if;
  end if;
end $$;

-- Give each function to the role that is to own it, where that may be done. Who makes another one calls this again.
create or replace function rowcast.give_functions() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  kept record;
begin
  if not exists (select from rowcast.functions_to_give()) then
    return;
  end if;
  perform rowcast.equip_functions();
  for kept in select * from rowcast.functions_to_give() loop
    -- An owner needs CREATE on the schema at the moment it becomes one.
    execute format('grant create on schema rowcast to %I', kept.owner);
    execute format('alter function %s owner to %I', kept.given, kept.owner);
    execute format('revoke create on schema rowcast from %I', kept.owner);
  end loop;
end $$;

revoke all on all functions in schema rowcast from public;
select rowcast.equip_functions();
