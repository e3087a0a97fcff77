// Stars and notes on runs: kept by the server in a file beside the sweep; a file from disk shows those it was written with.

store.notes = { runs: {}, why: "" };
const noteOf = key => store.notes.runs[key] || { star: false, note: "" };
const canWrite = () => !store.carried && !store.notes.why;

async function takeNotes() {
  const answer = await fetch("api/notes");
  if (!answer.ok) return false;
  const before = JSON.stringify(store.notes);
  store.notes = await answer.json();
  return JSON.stringify(store.notes) !== before;
}

// The sentence that says why it was not kept; "" if it was.
async function keepNote(key, change) {
  try {
    const answer = await fetch(`api/notes?key=${encodeURIComponent(key)}`, { method: "PUT", body: JSON.stringify({ ...noteOf(key), ...change }) });
    const content = await answer.json();
    if (!answer.ok) return content.problem || "The server refused it.";
    store.notes = content;
    return "";
  } catch {
    return "The server does not answer; nothing was kept.";
  }
}

function starOf(key) {
  const { star } = noteOf(key);
  if (!canWrite()) return star ? el("span", { role: "img", "aria-label": "starred" }, "★") : "";
  const button = el("button", { class: "star", type: "button", id: `star-${key}`, "aria-pressed": String(star), "aria-label": `Star run ${shortKey(key)}`, on: { click: async () => {
    const on = !noteOf(key).star, problem = await keepNote(key, { star: on });
    button.title = problem;
    if (problem) return;
    button.textContent = on ? "★" : "☆";
    button.setAttribute("aria-pressed", String(on));
  } } }, star ? "★" : "☆");
  return button;
}

// On the page of a run: its star and its note, to be changed where they can be kept.
function noteBox(key) {
  const { note: text } = noteOf(key);
  if (!canWrite()) {
    return el("div", {}, starOf(key), text ? el("p", { class: "written" }, text) : null, store.carried ? null : el("p", { class: "muted small" }, store.notes.why));
  }
  const status = el("span", { class: "muted", role: "status" });
  const field = el("textarea", { id: "note", rows: "2", maxlength: "2000", "aria-label": "Note on this run", placeholder: "A note on this run", value: text });
  const keep = el("button", { type: "button", id: "keep-note", on: { click: async () => {
    status.textContent = (await keepNote(key, { note: field.value })) || "Kept.";
  } } }, "Keep the note");
  return el("div", { class: "note-box" }, starOf(key), field, keep, status);
}
