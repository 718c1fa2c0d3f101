-- A topic for each user: `user:` and the sub of their token.
-- It may be run again: what stands here is what holds.

drop policy if exists "users read what is sent to them" on realtime.messages;
create policy "users read what is sent to them" on realtime.messages
  for select to authenticated
  using (
    extension = 'broadcast'
    and realtime.topic() = 'user:' || (auth.jwt() ->> 'sub')
  );

drop policy if exists "everybody signed in may write to a user" on realtime.messages;
create policy "everybody signed in may write to a user" on realtime.messages
  for insert to authenticated
  with check (
    extension = 'broadcast'
    and realtime.topic() like 'user:%'
  );
