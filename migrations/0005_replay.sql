-- What a replay of realtime.messages needs: the moment at which each message was written, and the messages of one topic.
-- Works beside: 0.1.0

do $$
begin
  if exists (select from pg_catalog.pg_class as k join pg_catalog.pg_namespace as n on n.oid = k.relnamespace
             where n.nspname = 'realtime' and k.relname = 'messages' and k.relkind = 'p'
               and pg_catalog.pg_has_role(k.relowner, 'usage'))
     and not exists (select from rowcast.notes as n
                     where n.kind = 'table' and n.name = 'realtime.messages' and n.was is not null) then
    -- Messages of one transaction are told apart by it, and put together by updated_at, which is when that began.
    alter table realtime.messages alter column inserted_at set default (clock_timestamp() at time zone 'utc');
    drop index if exists realtime.messages_to_replay;
    create index messages_to_replay on realtime.messages (topic, inserted_at desc)
      where extension = 'broadcast' and private;
  end if;
end $$;
