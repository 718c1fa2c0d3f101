-- Whoever has a key may listen and speak in the room `chat`, and in no other.
-- It may be run again: what stands here is what holds.

drop policy if exists "everybody listens in the chat" on realtime.messages;
create policy "everybody listens in the chat" on realtime.messages
  for select to anon, authenticated
  using (extension = 'broadcast' and realtime.topic() = 'chat');

drop policy if exists "everybody speaks in the chat" on realtime.messages;
create policy "everybody speaks in the chat" on realtime.messages
  for insert to anon, authenticated
  with check (extension = 'broadcast' and realtime.topic() = 'chat');
