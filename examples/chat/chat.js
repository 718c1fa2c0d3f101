import { badge, element, enter, showStatus, timeOf } from "../shared/page.js"

const DAY = 24 * 60 * 60 * 1000

const { key, name } = await enter()
const client = supabase.createClient(location.origin, key)

const room = client.channel("chat", {
  config: {
    private: true, // its policies are in setup.sql
    broadcast: {
      self: true, // we show what we said when it comes back, at its place among what others said
      ack: true, // and send() tells whether it was stored
      store: true,
      replay: { since: Date.now() - DAY, limit: 25 },
    },
  },
})

const button = document.querySelector("button")

room
  .on("broadcast", { event: "message" }, ({ payload, meta }) => show(payload, meta?.id))
  .subscribe((status, error) => {
    showStatus(status, error)
    button.disabled = status !== "SUBSCRIBED"
  })

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault()
  const input = document.querySelector("#text")
  const payload = { name, text: input.value, at: new Date().toISOString() }
  button.disabled = true
  const answer = await room.send({ type: "broadcast", event: "message", payload })
  button.disabled = room.state !== "joined"
  document.querySelector("#fault").textContent = answer === "ok" ? "" : `Not sent: ${answer}. Try again.`
  if (answer === "ok") input.value = ""
})

const shown = new Set() // a message that is replayed after a reconnection has its id again

function show({ name, text, at }, id) {
  if (id && shown.has(id)) return
  shown.add(id)
  const item = element("li", "")
  const said = element("div", "said")
  said.append(element("span", "quiet", `${name}, ${timeOf(at)}`), element("span", "", text))
  item.append(badge(name), said)
  const list = document.querySelector("#messages")
  list.append(item)
  list.scrollTop = list.scrollHeight
}
