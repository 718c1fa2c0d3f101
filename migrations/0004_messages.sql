-- Where broadcasts from the database are written, and whose policies say who may join a private channel.

-- Another server's, or the user's own, stays as it is.
do $$
begin
  -- By a name in a schema that may not be used, even looking fails.
  if has_schema_privilege('realtime', 'create') and not exists (
    select from pg_catalog.pg_class as k join pg_catalog.pg_namespace as n on n.oid = k.relnamespace
    where n.nspname = 'realtime' and k.relname = 'messages') then
    -- Times are UTC, whatever the session's time zone is.
    create table realtime.messages (
      topic text not null,
      extension text not null,
      payload jsonb,
      event text,
      private boolean default false,
      updated_at timestamp not null default (now() at time zone 'utc'),
      inserted_at timestamp not null default (now() at time zone 'utc'),
      id uuid not null default gen_random_uuid(),
      binary_payload bytea,
      primary key (id, inserted_at),
      constraint messages_one_payload check (payload is null or binary_payload is null)
    ) partition by range (inserted_at);
    comment on table realtime.messages is
      'Broadcasts from the database; its policies say who may read and write on private channels';
    create index messages_to_replay on realtime.messages (inserted_at desc, topic)
      where extension = 'broadcast' and private;
    -- Without a policy nobody may join a private channel.
    alter table realtime.messages enable row level security;
  end if;
end $$;
