-- Roles, schemas, the outbox and what the readers keep beside it.
-- Runs once, in one transaction, by whoever migrates; needs CREATE on the database.
-- Replaces: 072564c032927bd1755404fc10908ed5eb836f857eba50cf72c7b99c84cb164d

-- Roles belong to the cluster and may be there already, or be made by another migration at this moment. What may not be
-- made here is made, or said, later: functions/rights.sql.
do $$
declare
  wanted record;
begin
  for wanted in
    select * from (values
      ('anon', 'nologin noinherit'),
      ('authenticated', 'nologin noinherit'),
      ('service_role', 'nologin noinherit bypassrls'),
      -- Owns the trigger functions: they run a user's own casts with these rights, which are next to none.
      ('rowcast_capture', 'nologin noinherit')
    ) as roles (name, options)
  loop
    if not exists (select from pg_catalog.pg_roles where rolname = wanted.name) then
      begin
        execute format('create role %I %s', wanted.name, wanted.options);
      exception
        when duplicate_object or unique_violation or insufficient_privilege then null;
      end;
    end if;
  end loop;
end $$;

do $$
begin
  -- Another party's schema stays as it is.
  if not exists (select from pg_catalog.pg_namespace where nspname = 'realtime') then
    create schema realtime;
    comment on schema realtime is 'What SQL calls: broadcasts from the database, and the policies of private channels';
  end if;
end $$;

-- Every captured row change, written by triggers in the writer's own transaction.
--   xid       the top-level transaction
--   seq       the change's own number, drawn while the row's lock is held
--   ord       the order of statements inside the transaction; seq where no statement can nest
--   relation  rowcast.relations.id: the table as it looked then
--   op        I, U, D, T (truncate), C (the catalog changed: no row)
-- Three tables take turns; they are emptied by TRUNCATE, never by DELETE.
create table rowcast.outbox_0 (
  xid xid8 not null,
  seq bigint not null,
  ord bigint not null,
  relation int not null,
  op "char" not null,
  record text,
  old_record text,
  at timestamptz not null
) with (autovacuum_vacuum_insert_threshold = -1);
create table rowcast.outbox_1 (like rowcast.outbox_0 including all) with (autovacuum_vacuum_insert_threshold = -1);
create table rowcast.outbox_2 (like rowcast.outbox_0 including all) with (autovacuum_vacuum_insert_threshold = -1);
create index outbox_0_order on rowcast.outbox_0 (xid, ord, seq);
create index outbox_1_order on rowcast.outbox_1 (xid, ord, seq);
create index outbox_2_order on rowcast.outbox_2 (xid, ord, seq);

-- CACHE 1: with a larger cache, numbers would not follow the row locks.
create sequence rowcast.seq as bigint cache 1;

-- Sequences as flags: they are read in place, so that a REPEATABLE READ writer never sees a stale one.
create sequence rowcast.current_outbox as bigint minvalue 0;
select setval('rowcast.current_outbox', 0);
-- The second (Unix) until which the reader sleeps, and wants a NOTIFY.
create sequence rowcast.asleep_until as bigint minvalue 0;
select setval('rowcast.asleep_until', 0);
-- The second (Unix) until which triggers capture; servers renew it.
create sequence rowcast.lease_until as bigint minvalue 0;
select setval('rowcast.lease_until', 0);

-- The highest xid of all truncated rows: a read from snapshot A is good if and only if xmin(A) is above it.
create table rowcast.trimmed (
  id boolean primary key default true check (id),
  xid xid8 not null
);
insert into rowcast.trimmed (xid) values ('0');

-- The random part of the epoch, and when a stopped capture began again.
create table rowcast.epoch (
  id boolean primary key default true check (id),
  value uuid not null,
  since timestamptz not null
);
insert into rowcast.epoch (value, since) values (gen_random_uuid(), clock_timestamp());

-- Recorded snapshots: the clock of retention, and the stages of a replay.
create table rowcast.marks (
  at timestamptz not null,
  snap pg_snapshot not null,
  upto xid8 not null
);
create index marks_at on rowcast.marks (at);
create index marks_upto on rowcast.marks (upto);

-- When the current outbox was switched to, and the xid drawn after the switch.
create table rowcast.rotation (
  outbox int primary key,
  switched_at timestamptz not null,
  left_xid xid8
);
insert into rowcast.rotation (outbox, switched_at) values (0, clock_timestamp());

-- A version of a table, as its changes refer to it.
create table rowcast.relations (
  id int generated always as identity primary key,
  oid oid not null,
  -- The table whose name, rights and policies count: the topmost published ancestor of a partition.
  root oid not null,
  fingerprint text not null,
  schema_name text not null,
  table_name text not null,
  columns jsonb not null,
  identity text[] not null,
  omitted text[] not null,
  rls boolean not null,
  since timestamptz not null default clock_timestamp(),
  unique (oid, fingerprint)
);

-- The list of captured tables. It needs no WAL level, no slot and no plugin.
do $$
begin
  if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
    set local client_min_messages = error;
    create publication supabase_realtime;
  end if;
end $$;

-- What policies read a token with, where no other party provides it.
do $$
begin
  if exists (select from pg_catalog.pg_namespace where nspname = 'auth') then
    return;
  end if;
  create schema auth;
  create function auth.jwt() returns jsonb language sql stable as $f$
    select coalesce(
      nullif(current_setting('request.jwt.claim', true), ''),
      nullif(current_setting('request.jwt.claims', true), '')
    )::jsonb
  $f$;
  create function auth.uid() returns uuid language sql stable as $f$
    select coalesce(
      nullif(current_setting('request.jwt.claim.sub', true), ''),
      nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
    )::uuid
  $f$;
  create function auth.role() returns text language sql stable as $f$
    select coalesce(
      nullif(current_setting('request.jwt.claim.role', true), ''),
      nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
    )
  $f$;
end $$;
