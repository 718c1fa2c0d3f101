// The official JavaScript client, driven by JSON lines: commands on stdin, what the client saw on stdout.
// Commands: connect {package, url, key, vsn}, token {token}, subscribe {channel, bindings, private, config},
// unsubscribe {channel}, track {channel, payload}, untrack {channel},
// send {channel, name, payload or bytes, persist}, post {channel, name, payload, private, persist}, close. With `presence` {key} subscribe tells
// of presence, too, and of each broadcast of the events that `hears` lists.
// A binding's filter may be a list of calls of the client's filter builder: [["eq", "id", 1]].
import { createInterface } from "node:readline";

console.log = console.error; // the older client prints what it cannot parse, among our lines
const say = (event, fields = {}) => process.stdout.write(JSON.stringify({ event, ...fields }) + "\n");

const built = ({ filter, ...rest }) => {
  if (!Array.isArray(filter)) return { ...rest, ...(filter !== undefined && { filter }) };
  const conditions = library.postgresChangesFilter();
  for (const [method, ...values] of filter) conditions[method](...values);
  return { ...rest, filter: conditions };
};

// JSON has no bytes.
const plain = (payload) =>
  payload instanceof ArrayBuffer ? { bytes: Buffer.from(payload).toString("hex") } : payload;

let library, client;
const channels = new Map();

const commands = {
  async connect({ package: name, url, key, vsn }) {
    library = await import(name);
    // Reconnecting at once keeps the tests short; everything else stays as people run it.
    const realtime = { reconnectAfterMs: () => 100, ...(vsn && { vsn }) };
    const auth = { persistSession: false, autoRefreshToken: false };
    client = library.createClient(url, key, { auth, realtime });
    say("connected");
  },

  async token({ token }) {
    await client.realtime.setAuth(token);
    say("token");
  },

  subscribe({ channel: name, bindings = [], private: isPrivate = false, config = {}, presence, hears = [] }) {
    const shown = presence && { presence: { ...presence, enabled: true } };
    const channel = client.channel(name, { config: { private: isPrivate, ...config, ...shown } });
    channels.set(name, channel);
    for (const [index, binding] of bindings.entries()) {
      const heard = (payload) => say("change", { channel: name, binding: index, payload });
      channel.on("postgres_changes", built(binding), heard);
    }
    if (presence) {
      const state = () => channel.presenceState();
      channel.on("presence", { event: "sync" }, () => say("sync", { channel: name, state: state() }));
      for (const event of ["join", "leave"]) {
        channel.on("presence", { event }, ({ key }) => say(event, { channel: name, key }));
      }
    }
    for (const event of hears) {
      channel.on("broadcast", { event }, ({ payload, meta }) =>
        say("broadcast", { channel: name, name: event, payload: plain(payload), meta }),
      );
    }
    channel.on("system", {}, (payload) => say("system", { channel: name, payload }));
    channel.subscribe((status, error) =>
      say("status", { channel: name, status, error: error ? String(error.message ?? error) : null }),
    );
  },

  async track({ channel: name, payload }) {
    say("tracked", { channel: name, result: await channels.get(name).track(payload) });
  },

  async untrack({ channel: name }) {
    say("untracked", { channel: name, result: await channels.get(name).untrack() });
  },

  async unsubscribe({ channel: name }) {
    const result = await client.removeChannel(channels.get(name));
    channels.delete(name);
    say("unsubscribed", { channel: name, result });
  },

  async send({ channel: name, name: event, payload, bytes, persist }) {
    const sent = bytes === undefined ? payload : Uint8Array.from(Buffer.from(bytes, "hex")).buffer;
    const said = { type: "broadcast", event, payload: sent, ...(persist ? { persist } : {}) };
    say("sent", { channel: name, result: await channels.get(name).send(said) });
  },

  // By REST, from a channel that is not joined.
  async post({ channel: name, name: event, payload, private: isPrivate = false, persist }) {
    const channel = client.channel(name, { config: { private: isPrivate } });
    const older = async () => ({ success: (await channel.send({ type: "broadcast", event, payload })) === "ok" });
    say("posted", { channel: name, ...(await (channel.httpSend ? channel.httpSend(event, payload, { persist }) : older())) });
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
