-- The trigger functions: one for each operation, serving every captured table.
--
-- Arguments of a trigger; the last two are left out where both would be '':
--   0  rowcast.relations.id of the table as it looks now
--   1  which session settings the JSON of a row depends on: '' none, 'time' TimeZone, 'all' every one
--   2  the oid whose drawn order the statement has, or '' where no statement can nest (then ord = seq)
--
-- They are security definer and owned by rowcast_capture, which may insert into the outbox and nothing else.
-- A whole row is always written as alias.*: a bare alias would mean the column of that name, if a user has one.

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

-- The functions differ only in where their rows come from. Each insert is plain, static SQL, for its plan to be
-- kept; so it stands three times, once for each table of the outbox.
do $generate$
declare
  source record;
begin
  for source in
    select * from (values
      ('capture_insert', 'I', $rows$
        select row_to_json(image.*)::text as new, null::text as old from rowcast_new as image $rows$),
      ('capture_delete', 'D', $rows$
        select null::text as new, row_to_json(image.*)::text as old from rowcast_old as image $rows$),
      -- Both transition tables are filled in lockstep: the n-th old row became the n-th new row. Never by key,
      -- which the statement may have changed. A full join, since it cannot be a nested loop: a plan that a session
      -- made for one row is kept for its statements of a million.
      ('capture_update', 'U', $rows$
        select n.image as new, o.image as old
        from (select row_number() over () as nth, row_to_json(i.*)::text as image from rowcast_new as i) as n
        full join (select row_number() over () as nth, row_to_json(i.*)::text as image from rowcast_old as i) as o
          using (nth)
        order by nth $rows$),
      ('capture_truncate', 'T', $rows$ select null::text as new, null::text as old $rows$),
      ('capture_insert_row', 'I', $rows$ select row_to_json(new)::text as new, null::text as old $rows$),
      ('capture_delete_row', 'D', $rows$ select null::text as new, row_to_json(old)::text as old $rows$),
      ('capture_update_row', 'U', $rows$
        select row_to_json(new)::text as new, row_to_json(old)::text as old $rows$)
    ) as sources (name, op, rows)
  loop
    execute format($function$
      create or replace function rowcast.%1$I() returns trigger
      language plpgsql security definer set search_path = pg_catalog, pg_temp as $body$
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
      end $body$ $function$,
      source.name,
      (
        select string_agg(format($branch$
          %1$s outbox = %2$s then
            insert into rowcast.outbox_%2$s /* Rowcast captures this table; "rowcast unwatch" stops it */
              (xid, seq, ord, relation, op, record, old_record, at)
            -- seq stands before ord, and is drawn before ord reads it: columns are computed in this order.
            select pg_current_xact_id(), nextval('rowcast.seq'),
                   coalesce(statement_order, currval('rowcast.seq')),
                   tg_argv[0]::int, %3$L, change.new, change.old, clock_timestamp()
            from (%4$s) as change;
          $branch$, case n when 0 then 'if' else 'elsif' end, n, source.op, source.rows), '' order by n)
          -- Not read for lack of a right: no row is left out silently.
          || 'else
            raise exception ''Rowcast cannot read its flags. "rowcast unwatch" stops it capturing this table'';
          end if;'
        from generate_series(0, 2) as n
      ));
  end loop;
end $generate$;

-- The trigger functions that still belong to whoever made them, though rowcast_capture may have them: a role that
-- inherits from it may replace and drop them afterwards.
create or replace function rowcast.kept_functions() returns setof regprocedure
language sql stable set search_path = pg_catalog, pg_temp as $$
  select p.oid::regprocedure
  from pg_proc as p join pg_roles as r on r.rolname = 'rowcast_capture'
  where p.pronamespace = 'rowcast'::regnamespace and p.prosecdef and p.prorettype = 'trigger'::regtype
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
    grant execute on function rowcast.pin(text), rowcast.unpin(text[]), rowcast.drawn_order(text, text, int)
      to rowcast_capture;
    -- It stands in a later file.
    if to_regprocedure('rowcast.stop_if_full()') is not null then
      grant execute on function rowcast.stop_if_full() to rowcast_capture;
    end if;
  end if;
end $$;

-- Give the trigger functions to rowcast_capture where that may be done. Who makes another one calls this again.
create or replace function rowcast.give_functions() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  given regprocedure;
begin
  if not exists (select from rowcast.kept_functions()) then
    return;
  end if;
  perform rowcast.equip_functions();
  -- An owner needs CREATE on the schema at the moment it becomes one.
  grant create on schema rowcast to rowcast_capture;
  for given in select * from rowcast.kept_functions() loop
    execute format('alter function %s owner to rowcast_capture', given);
  end loop;
  revoke create on schema rowcast from rowcast_capture;
end $$;

revoke all on all functions in schema rowcast from public;
select rowcast.equip_functions();
