-- A table, captured and readable, and one to three rows of it written each second, for ever.
\set ON_ERROR_STOP on
set client_min_messages = warning;
create table if not exists public.todos (
  id bigint generated always as identity primary key, task text not null, done boolean not null default false
);
grant select on public.todos to anon, authenticated;
select 'alter publication supabase_realtime add table public.todos'
where not exists (select from pg_publication_tables where pubname = 'supabase_realtime' and tablename = 'todos')
\gexec
\o /dev/null
with added as (insert into public.todos (task) values ('write at ' || localtime(0))),
     done as (update public.todos set done = true where id = (select max(id) from public.todos where not done))
delete from public.todos where id < (select max(id) - 20 from public.todos)
\watch 1
