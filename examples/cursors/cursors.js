import { colourOf, element, enter, showStatus } from "../shared/page.js"

const EVERY = 50 // milliseconds between two messages: a server takes 100 messages a second from a socket

const { key, name } = await enter()
const client = supabase.createClient(location.origin, key)
const me = crypto.randomUUID()
const room = client.channel("cursors", { config: { presence: { key: me } } })

const field = document.querySelector("#field")
const cursors = new Map() // by the id of who moves them
let names = { [me]: name } // by the same ids
let here = { x: 0.5, y: 0.5 } // in parts of the field, which is not as large for everybody
let timer

room
  .on("broadcast", { event: "move" }, ({ payload }) => place(payload.id, payload))
  .on("presence", { event: "sync" }, () => showNames(room.presenceState()))
  .on("presence", { event: "join" }, () => move({})) // whoever comes sees where we are
  .subscribe((status, error) => {
    showStatus(status, error)
    if (status === "SUBSCRIBED") room.track({ name })
  })

field.addEventListener("pointermove", (event) => {
  const box = field.getBoundingClientRect()
  move({ x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height })
})

field.addEventListener("keydown", (event) => {
  const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? []
  if (x === undefined) return
  event.preventDefault()
  const within = (value) => Math.min(1, Math.max(0, value))
  move({ x: within(here.x + x / 50), y: within(here.y + y / 50) })
})

/** Show it at once, and tell the others where we are when it is time: what lies in between they need not know. */
function move(to) {
  here = { ...here, ...to }
  place(me, here)
  timer ??= setTimeout(() => {
    timer = undefined
    if (room.state === "joined") room.send({ type: "broadcast", event: "move", payload: { id: me, ...here } })
  }, EVERY)
}

function place(id, { x, y }) {
  if (!cursors.has(id)) {
    const made = element("div", id === me ? "cursor" : "cursor other")
    made.append(element("span", ""))
    field.append(made)
    cursors.set(id, made)
    label(id)
  }
  cursors.get(id).style.left = `${100 * x}%`
  cursors.get(id).style.top = `${100 * y}%`
}

function label(id) {
  const cursor = cursors.get(id)
  cursor.style.setProperty("--colour", colourOf(names[id] ?? ""))
  cursor.firstChild.textContent = id === me ? "you" : (names[id] ?? "")
}

function showNames(state) {
  names = Object.fromEntries(Object.entries(state).map(([id, [presence]]) => [id, presence.name]))
  for (const [id, cursor] of cursors) {
    if (id in names || id === me) label(id)
    else {
      cursor.remove()
      cursors.delete(id)
    }
  }
  document.querySelector("#names").textContent = Object.values(names).join(", ")
}

place(me, here)
