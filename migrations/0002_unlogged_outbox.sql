-- An outbox that may be unlogged, and versions of tables that are forgotten once nothing refers to them.

-- When a version was found to be nobody's any more; null while a table's triggers carry it.
alter table rowcast.relations add column retired_at timestamptz;

-- Postgres empties unlogged tables when it recovers from a crash: this row is gone then, and with it the history of
-- an unlogged outbox.
create unlogged table rowcast.survival (
  id boolean primary key default true check (id),
  value uuid not null
);
