// What the pages have in common: what their address holds, who looks at them, and how the connection stands.

const given = new URLSearchParams(location.hash.slice(1))

// Another address that is pasted into this window changes its fragment, and loads nothing.
addEventListener("hashchange", () => location.reload())

/** The key, and the token where there is one, of the address; and a name, which is asked for where it has none. */
export async function enter() {
  const key = given.get("key")
  if (!key) {
    showStatus("CLOSED")
    document.querySelector("main").textContent =
      "The key is missing. Open this page by the whole address that the terminal shows, up to its end."
    throw new Error("The address has no key.")
  }
  const name = given.get("name") || (await askName())
  document.querySelector("#me").textContent = name
  return { key, name, token: given.get("token") }
}

async function askName() {
  const dialog = document.createElement("dialog")
  dialog.innerHTML = `<form method="dialog"><label for="name">Your name</label>
    <input id="name" required maxlength="30" autocomplete="nickname"><button>Enter</button></form>`
  dialog.addEventListener("cancel", (event) => event.preventDefault())
  document.body.append(dialog)
  dialog.showModal()
  await new Promise((closed) => dialog.addEventListener("close", closed))
  const name = dialog.querySelector("input").value.trim() || "somebody"
  dialog.remove()
  given.set("name", name) // a page that is loaded again does not ask again
  history.replaceState(null, "", `#${given}`)
  return name
}

const WORDS = { SUBSCRIBED: "connected", CHANNEL_ERROR: "not connected", TIMED_OUT: "no answer", CLOSED: "closed" }

/** What `subscribe()` tells, in the corner of the page. The client goes on trying by itself. */
export function showStatus(status, error) {
  const shown = document.querySelector("#status")
  shown.textContent = WORDS[status]
  shown.className = status === "SUBSCRIBED" ? "good" : "bad"
  shown.title = error?.message ?? ""
}

/** An element with a class and a text: text of others is never taken for HTML. */
export function element(tag, className, text = "") {
  const made = document.createElement(tag)
  made.className = className
  made.textContent = text
  return made
}

/** A colour that is the same for a name everywhere. */
export function colourOf(name) {
  let hue = 0
  for (const letter of name) hue = (hue * 31 + letter.codePointAt(0)) % 360
  return `hsl(${hue} 65% 42%)`
}

/** A round badge with the first letter of a name. */
export function badge(name) {
  const made = element("span", "badge", [...name][0]?.toUpperCase())
  made.style.background = colourOf(name)
  made.setAttribute("aria-hidden", "true")
  return made
}

/** The time of day, as people write it where they are. */
export function timeOf(date) {
  return new Date(date).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
}
