-- Public channels, too, may have their broadcasts stored and replayed: the index of replays is for both kinds.
-- Works beside: 0.1.0

do $$
begin
  if exists (select from pg_catalog.pg_class as k join pg_catalog.pg_namespace as n on n.oid = k.relnamespace
             where n.nspname = 'realtime' and k.relname = 'messages' and k.relkind = 'p'
               and pg_catalog.pg_has_role(k.relowner, 'usage'))
     and not exists (select from rowcast.notes as n
                     where n.kind = 'table' and n.name = 'realtime.messages' and n.was is not null) then
    drop index if exists realtime.messages_to_replay;
    create index messages_to_replay on realtime.messages (topic, private, inserted_at desc)
      where extension = 'broadcast';
  end if;
end $$;
