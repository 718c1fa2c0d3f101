import { badge, element, enter, showStatus, timeOf } from "../shared/page.js"

const { key, name } = await enter()
const client = supabase.createClient(location.origin, key)

// Windows under one key are one person.
const lobby = client.channel("lobby", { config: { presence: { key: name } } })
let met = false // whether we know who was here before us

lobby
  .on("presence", { event: "sync" }, () => {
    showPeople(lobby.presenceState())
    met = true
  })
  .on("presence", { event: "join" }, ({ key, currentPresences }) => {
    if (met && currentPresences.length === 0) log(`${key} came`)
  })
  .on("presence", { event: "leave" }, ({ key, currentPresences }) => {
    if (currentPresences.length === 0) log(`${key} left`)
  })
  .subscribe((status, error) => {
    showStatus(status, error)
    if (status === "SUBSCRIBED") lobby.track({ since: new Date().toISOString() })
  })

/** `state` has a list of presences, one for each window, under each key. */
function showPeople(state) {
  const people = Object.entries(state).map(([person, windows]) => {
    const item = element("li", "")
    const about = element("span", "person", person === name ? `${person} (you)` : person)
    const many = windows.length > 1 ? `, ${windows.length} windows` : ""
    about.append(element("span", "quiet", `since ${timeOf(windows[0].since)}${many}`))
    item.append(badge(person), about)
    return item
  })
  document.querySelector("#people").replaceChildren(...people)
  document.querySelector("#count").textContent = people.length
}

function log(text) {
  const line = element("li", "", `${text} `)
  line.append(element("span", "quiet", timeOf(Date.now())))
  document.querySelector("#log").prepend(line)
}
