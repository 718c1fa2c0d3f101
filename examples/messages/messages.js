import { element, enter, showStatus, timeOf } from "../shared/page.js"

const DAY = 24 * 60 * 60 * 1000

const { key, name, token } = await enter()
const client = supabase.createClient(location.origin, key, { accessToken: async () => token })
await client.realtime.setAuth() // or the first join comes without the token

// What is sent to us: the policies in setup.sql let nobody else join this topic. What was sent in the last day,
// while we were not here, comes first.
client
  .channel(`user:${name}`, {
    config: { private: true, broadcast: { replay: { since: Date.now() - DAY, limit: 25 } } },
  })
  .on("broadcast", { event: "message" }, ({ payload, meta }) => show(payload, meta?.id))
  .subscribe(showStatus)

// We cannot join the topic of others, so we send by a request, which policies let through or not. With `store` it
// is kept for who is not here; without, `channel.httpSend("message", payload)` does the same.
async function send(to, text) {
  const topic = encodeURIComponent(`user:${to}`)
  const answer = await fetch(`/realtime/v1/api/broadcast/${topic}/events/message?private=true&store=true`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token ?? key}`, "Content-Type": "application/json" },
    body: JSON.stringify({ from: name, text, at: new Date().toISOString() }),
  })
  if (!answer.ok) throw new Error((await answer.json()).message)
}

function tryToListen(whose) {
  const verdict = document.querySelector("#verdict")
  if (whose === name) return (verdict.textContent = "Those are your own: you do already.")
  const channel = client.channel(`user:${whose}`, { config: { private: true } })
  channel.subscribe((status, error) => {
    if (status === "CLOSED") return
    verdict.textContent = status === "SUBSCRIBED" ? "The policies let you." : `Refused. ${error?.message ?? ""}`
    client.removeChannel(channel)
  })
}

const shown = new Set() // a message that is replayed after a reconnection has its id again

function show({ from, to, text, at }, id) {
  if (id && shown.has(id)) return
  shown.add(id)
  const item = element("li", to ? "mine" : "")
  const time = at ? `, ${timeOf(at)}` : ""
  item.append(element("span", "quiet", (to ? `to ${to}` : `from ${from}`) + time), element("span", "", text))
  const list = document.querySelector("#messages")
  list.append(item)
  list.scrollTop = list.scrollHeight
}

document.querySelector("#to").value = { ann: "ben", ben: "ann" }[name] ?? ""

document.querySelector("#write").addEventListener("submit", async (event) => {
  event.preventDefault()
  const [to, text] = ["#to", "#text"].map((field) => document.querySelector(field).value)
  const fault = document.querySelector("#fault")
  try {
    await send(to, text)
    fault.textContent = ""
    document.querySelector("#text").value = ""
    if (to !== name) show({ to, text, at: new Date() })
  } catch (error) {
    fault.textContent = `Not sent: ${error.message}`
  }
})

document.querySelector("#listen").addEventListener("submit", (event) => {
  event.preventDefault()
  tryToListen(document.querySelector("#whose").value)
})
