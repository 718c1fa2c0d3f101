// The official JavaScript client, driven by JSON lines: commands on stdin, what the client saw on stdout.
// Commands: connect {package, url, key, vsn}, subscribe {channel, bindings}, unsubscribe {channel}, close.
import { createInterface } from "node:readline";

const say = (event, fields = {}) => process.stdout.write(JSON.stringify({ event, ...fields }) + "\n");

let client;
const channels = new Map();

const commands = {
  async connect({ package: name, url, key, vsn }) {
    const { createClient } = await import(name);
    // Reconnecting at once keeps the tests short; everything else stays as people run it.
    const realtime = { reconnectAfterMs: () => 100, ...(vsn && { vsn }) };
    const auth = { persistSession: false, autoRefreshToken: false };
    client = createClient(url, key, { auth, realtime });
    say("connected");
  },

  subscribe({ channel: name, bindings }) {
    const channel = client.channel(name);
    channels.set(name, channel);
    for (const binding of bindings) {
      channel.on("postgres_changes", binding, (payload) => say("change", { channel: name, payload }));
    }
    channel.on("system", {}, (payload) => say("system", { channel: name, payload }));
    channel.subscribe((status, error) =>
      say("status", { channel: name, status, error: error ? String(error.message ?? error) : null }),
    );
  },

  async unsubscribe({ channel: name }) {
    const result = await client.removeChannel(channels.get(name));
    channels.delete(name);
    say("unsubscribed", { channel: name, result });
  },

  async close() {
    await client.removeAllChannels();
    client.realtime.disconnect();
    say("closed");
    process.exit(0);
  },
};

process.on("unhandledRejection", (error) => say("fault", { message: String(error?.stack ?? error) }));

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...fields } = JSON.parse(line);
  await commands[name](fields);
}
process.exit(0); // whoever drives is gone
