-- Broadcasts from the database: what SQL calls, and the trigger that writes each message into the outbox.

-- Functions that users call by these names: made where absent, never replaced. They keep the search path of whoever calls
-- them, for the policies and triggers on realtime.messages that an insert runs; so all that they name has its schema.
do $make$
begin
  -- By a name in a schema that may not be used, even looking fails.
  if not has_schema_privilege('realtime', 'create') then
    return;
  end if;

  if not exists (select from pg_catalog.pg_proc as p join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
                 where n.nspname = 'realtime' and p.proname = 'send'
                   and oidvectortypes(p.proargtypes) = 'jsonb, text, text, boolean') then
    create function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
    language plpgsql as $f$
    declare
      message_id constant pg_catalog.uuid := pg_catalog.gen_random_uuid();
      body constant pg_catalog.jsonb := coalesce(send.payload, '{}');
    begin
      if send.topic is null or send.event is null then
        raise exception 'topic and event may not be null';
      end if;
      perform pg_catalog.set_config('realtime.topic', send.topic, true);
      insert into realtime.messages (id, topic, extension, event, private, payload)
      values (message_id, send.topic, 'broadcast', send.event, coalesce(send.private, true),
              case when pg_catalog.jsonb_typeof(body) operator(pg_catalog.=) 'object'
                        and not body operator(pg_catalog.?) 'id'
                   then body operator(pg_catalog.||) pg_catalog.jsonb_build_object('id', message_id)
                   else body end);
    exception when others then
      -- No statement of the caller's fails for what it tells others.
      raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
    end $f$;
    comment on function realtime.send(jsonb, text, text, boolean) is
      'Send a message to the subscribers of a topic, when the transaction commits';
  end if;

  if not exists (select from pg_catalog.pg_proc as p join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
                 where n.nspname = 'realtime' and p.proname = 'send_binary'
                   and oidvectortypes(p.proargtypes) = 'bytea, text, text, boolean') then
    create function realtime.send_binary(payload bytea, event text, topic text, private boolean default true)
    returns void language plpgsql as $f$
    begin
      if send_binary.topic is null or send_binary.event is null then
        raise exception 'topic and event may not be null';
      end if;
      -- A frame counts them by one byte.
      if pg_catalog.octet_length(send_binary.topic) operator(pg_catalog.>) 246
         or pg_catalog.octet_length(send_binary.event) operator(pg_catalog.>) 255 then
        raise exception 'the topic of a binary message may have 246 bytes, and its event 255';
      end if;
      perform pg_catalog.set_config('realtime.topic', send_binary.topic, true);
      insert into realtime.messages (id, topic, extension, event, private, binary_payload)
      values (pg_catalog.gen_random_uuid(), send_binary.topic, 'broadcast', send_binary.event,
              coalesce(send_binary.private, true), coalesce(send_binary.payload, ''));
    exception when others then
      raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
    end $f$;
    comment on function realtime.send_binary(bytea, text, text, boolean) is
      'Send bytes to the subscribers of a topic, when the transaction commits';
  end if;

  if not exists (select from pg_catalog.pg_proc as p join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
                 where n.nspname = 'realtime' and p.proname = 'broadcast_changes'
                   and oidvectortypes(p.proargtypes) = 'text, text, text, text, text, record, record, text') then
    create function realtime.broadcast_changes(
      topic_name text, event_name text, operation text, table_name text, table_schema text,
      new record, old record, level text default 'ROW') returns void
    language plpgsql as $f$
    begin
      if level operator(pg_catalog.=) 'STATEMENT' then
        raise exception 'function can only be triggered for each row, not for each statement';
      end if;
      if operation is null or operation operator(pg_catalog.<>) all ('{INSERT,UPDATE,DELETE}'::pg_catalog.text[]) then
        raise exception 'Unexpected operation type: %', operation;
      end if;
      perform realtime.send(
        pg_catalog.jsonb_build_object('operation', operation, 'schema', table_schema, 'table', table_name,
                           'record', new, 'old_record', old),
        event_name, topic_name);
    exception when others then
      raise exception 'Failed to process the row: %', sqlerrm;
    end $f$;
    comment on function realtime.broadcast_changes(text, text, text, text, text, record, record, text) is
      'For triggers of rows: send the change of one to the subscribers of a private topic';
  end if;
end $make$;

-- Write a message into the outbox, in the transaction that inserted it. Of op 'M', a payload of JSON, and 'B', bytes in
-- base64: old_record holds the payload, so that it need not be parsed, and record the rest.
-- A row without an event or a payload is no message: so are those that policies are asked by. The table may be another
-- party's: columns of types that Postgres does not make are not looked at, since code of others would make their text.
create or replace function rowcast.capture_message() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  head text;
  body text;
  kind "char" := 'M';
  outbox bigint;
begin
  -- The flags are read as the triggers of tables read them: the writer's xid is assigned already.
  if to_timestamp(pg_sequence_last_value('rowcast.lease_until'::regclass)) <= clock_timestamp() then
    return null;
  end if;
  begin
    if new.event is null or new.topic is null or new.private is null then
      return null;
    end if;
    if pg_typeof(new.event) <> all ('{text,varchar}'::regtype[]) or pg_typeof(new.topic) <> all ('{text,varchar}'::regtype[])
       or pg_typeof(new.private) <> 'bool'::regtype or pg_typeof(new.id) <> 'uuid'::regtype
       or pg_typeof(new.payload) <> all ('{json,jsonb}'::regtype[]) then
      raise exception 'its columns are not those that Supabase gives it';
    end if;
    body := new.payload::text;
    if body is null then
      if pg_typeof(new.binary_payload) <> 'bytea'::regtype then
        raise exception 'its column binary_payload is no bytea';
      end if;
      kind := 'B';
      body := encode(new.binary_payload, 'base64');
    end if;
    if body is null then
      return null;
    end if;
    head := json_build_object('topic', new.topic::text, 'event', new.event::text,
                              'private', new.private::boolean, 'id', new.id::text);
  exception when others then
    -- Another party's table may have other columns. Its writes do not fail for that.
    raise warning 'Rowcast leaves out a message of realtime.messages: %', sqlerrm;
    return null;
  end;
  outbox := pg_sequence_last_value('rowcast.current_outbox'::regclass);
  if outbox = 0 then
    insert into rowcast.outbox_0 (xid, seq, ord, relation, op, record, old_record, at)
    select pg_current_xact_id(), n, n, 0, kind, head, body, clock_timestamp() from nextval('rowcast.seq') as n;
  elsif outbox = 1 then
    insert into rowcast.outbox_1 (xid, seq, ord, relation, op, record, old_record, at)
    select pg_current_xact_id(), n, n, 0, kind, head, body, clock_timestamp() from nextval('rowcast.seq') as n;
  elsif outbox = 2 then
    insert into rowcast.outbox_2 (xid, seq, ord, relation, op, record, old_record, at)
    select pg_current_xact_id(), n, n, 0, kind, head, body, clock_timestamp() from nextval('rowcast.seq') as n;
  else
    raise exception 'Rowcast cannot read its flags';
  end if;
  if currval('rowcast.seq') % 512 = 0 then
    perform rowcast.stop_if_full();
  end if;
  if to_timestamp(pg_sequence_last_value('rowcast.asleep_until'::regclass)) > clock_timestamp() then
    perform pg_notify('rowcast', '');
  end if;
  return null;
end $$;

-- Have the trigger on realtime.messages, whoever made the table. A trigger of rows, since partitions are written to
-- directly, too. Returns why there is none; null where it stands. Waits for no writer for long.
create or replace function rowcast.follow_messages() returns text
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' as $$
declare
  messages record;
begin
  select k.oid, g.tgenabled as enabled, pg_has_role(k.relowner, 'usage') as mine into messages
    from pg_class as k join pg_namespace as n on n.oid = k.relnamespace
    left join pg_trigger as g
      on g.tgrelid = k.oid and g.tgname = '!rowcast_message' and g.tgfoid = 'rowcast.capture_message()'::regprocedure
    where n.nspname = 'realtime' and k.relname = 'messages' and k.relkind in ('r', 'p');
  if not found then
    return 'there is no table realtime.messages';
  end if;
  if messages.enabled = 'D' then
    return 'the trigger "!rowcast_message" of realtime.messages is disabled';
  end if;
  if messages.enabled is null and exists (
    select from (select messages.oid union select t.relid from pg_partition_tree(messages.oid) as t) as parts (oid)
    where not has_table_privilege(parts.oid, 'trigger')
  ) then
    return format('%I may not create triggers on realtime.messages and its partitions: '
                  'GRANT TRIGGER ON ALL TABLES IN SCHEMA realtime TO %I;', current_user, current_user);
  end if;
  if messages.enabled is null or messages.enabled = 'O' and messages.mine then
    -- Our own DDL is no news of the catalog.
    perform set_config('rowcast.installing', 'on', true);
    if messages.enabled is null then
      execute format('create trigger "!rowcast_message" after insert on %s '
                     'for each row execute function rowcast.capture_message()', messages.oid::regclass);
    end if;
    if messages.mine then
      execute format('alter table %s enable always trigger "!rowcast_message"', messages.oid::regclass);
    end if;
    perform set_config('rowcast.installing', 'off', true);
  end if;
  return null;
end $$;

revoke all on all functions in schema rowcast from public;

do $$
begin
  perform rowcast.follow_messages();
exception when lock_not_available then
  -- The servers' timer does it.
  null;
end $$;
