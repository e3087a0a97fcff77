// Start: read the runs, show the view that the address names, then keep up with the server.

const POLL_MS = 1500;
let figures = [];

function render() {
  document.documentElement.dataset.view = route.view;
  renderShell();
  const root = document.getElementById("view");
  const keep = root.querySelector("input:focus, select:focus, button:focus")?.id;
  const scrolled = window.scrollY;
  const fresh = document.createDocumentFragment();
  const box = el("div");
  fresh.append(box);
  if (!store.loaded) box.append(el("p", { class: "muted" }, store.problem || "Reading the runs"));
  else if (!store.rows) box.append(emptyState("No runs yet.", store.facts.note || "The page fills as soon as a run is planned."));
  const next = store.loaded && store.rows ? VIEWS[route.view].render(box) : [];
  root.replaceChildren(fresh);
  window.scrollTo(0, scrolled);
  if (keep) document.getElementById(keep)?.focus();
  const before = figures;
  figures = next;
  for (const figure of next) figure.show(before.find(one => one.name === figure.name));
  for (const figure of before) figure.gone();
  document.documentElement.dataset.usable = String(Number(document.documentElement.dataset.usable || 0) + 1);
  if (next.length) requestAnimationFrame(() => requestAnimationFrame(drawSoon)); // once the tables are on the screen
}

// plotly.js blocks the page while it loads and draws: not before a moment of rest, unless the pointer is near.
const REST_MS = 60, FIRST_REST_MS = 500;
let waiting = 0;

function drawSoon() {
  clearTimeout(waiting);
  const first = figures.some(figure => figure.place.dataset.shown) && !window.Plotly;
  waiting = setTimeout(drawNow, first ? FIRST_REST_MS : REST_MS);
}

function hurry() {
  if (!waiting) return;
  clearTimeout(waiting);
  drawNow();
}

async function drawNow() {
  waiting = 0;
  for (const figure of [...figures]) if (figures.includes(figure)) await figure.draw();
}

function carried(name) {
  const packed = document.querySelector(`script[data-part="${name}"]`).textContent;
  const bytes = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}
const carriedText = name => carried(name).text();
const carriedBytes = name => carried(name).arrayBuffer().then(buffer => new Uint8Array(buffer));

async function startCarried() {
  store.carried = true;
  store.opening = JSON.parse(await carriedText("opening"));
  const runs = JSON.parse(await carriedText("runs"));
  takeRuns(runs || { rows: 0, columns: {}, counts: { params: ["own"], flops: ["own"] }, default: { params: "own", flops: "own" }, note: "This file was written before any run was read." });
  readRoute();
  store.notes.runs = JSON.parse(await carriedText("notes"));
  await carriedLaws();
  render();
}

// Laws with the counts that the address names, unless they are there already.
async function wantLaws() {
  if (!store.loaded || !store.rows || store.laws[countName()]) return;
  const changed = store.carried ? await carriedLaws() : await takeLaws().catch(() => false);
  if (changed) render();
}

async function carriedLaws() {
  const part = document.querySelector(`script[data-part="laws-${countName()}"]`);
  if (part && !store.laws[countName()]) store.laws[countName()] = JSON.parse(await carriedText(`laws-${countName()}`));
  return Boolean(part);
}

// -- the server

async function startServed() {
  readRoute();
  await catchUp();
  setInterval(catchUp, POLL_MS);
}

let busy = false;
async function catchUp() {
  if (busy || document.hidden && store.loaded) return;
  busy = true;
  try {
    const answer = store.loaded ? await fetch("api/state") : null;
    if (answer) await takeState(await answer.json());
    else await firstData();
    if (store.problem) {
      store.problem = "";
      renderStatus();
    }
  } catch (problem) {
    if (!/fetch|network/i.test(problem.message)) console.error(problem);
    store.problem = "The server does not answer.";
    if (store.state.age_s !== undefined) store.state.age_s += POLL_MS / 1000;
    renderStatus();
  } finally {
    busy = false;
  }
}

async function firstData() {
  const answer = await fetch("api/data");
  const content = await answer.json();
  if (!answer.ok) {
    store.problem = "";
    document.getElementById("status").textContent = content.waiting === "reading the runs" ? "Reading the runs" : `The store does not answer: ${content.waiting}`;
    setTimeout(catchUp, 150);
    return;
  }
  store.etag = answer.headers.get("etag");
  takeRuns(content);
  readRoute();
  await takeLaws().catch(() => false);
  render();
  setTimeout(catchUp, 30);
}

async function takeState(state) {
  const before = store.state;
  store.state = state;
  let changed = false;
  if (state.etag && `"${state.etag}"` !== store.etag) changed = await takeNewRuns() || changed;
  changed = await takeLaws() || changed;
  if (JSON.stringify(state.notes) !== JSON.stringify(before.notes)) changed = await takeNotes() || changed;
  if (changed && calm()) render();
  else if (await takeOtherLaws()) {
    if (route.view === "health" && calm()) render();
  } else if (before.age_s !== state.age_s || before.problem !== state.problem) renderStatus();
}

// Not while somebody types or has a menu open.
function calm() {
  const active = document.activeElement;
  return !(active && (active.tagName === "TEXTAREA" || (active.tagName === "INPUT" && active.type !== "checkbox"))) && !document.querySelector("details.menu[open]");
}

async function takeNewRuns() {
  const answer = await fetch("api/data");
  if (!answer.ok) return false;
  store.etag = answer.headers.get("etag");
  takeRuns(await answer.json());
  readRoute();
  return true;
}

// The laws with other counts, one at a time when all else is there: switching to them then takes no time.
async function takeOtherLaws() {
  if (!store.state.laws?.[countName()]?.done) return false;
  const next = Object.keys(store.state.laws).find(name => store.state.laws[name].done && lawTags[name] !== store.state.laws[name].etag);
  return next ? takeLaws(next) : false;
}

const lawTags = {};
async function takeLaws(name = countName()) {
  const state = store.state.laws?.[name];
  if (state && (!state.etag || lawTags[name] === state.etag)) return false;
  const [params, flops] = name.split("|");
  const answer = await fetch(`api/laws?params=${params}&flops=${flops}`);
  if (!answer.ok) return false;
  lawTags[name] = (answer.headers.get("etag") || "").replaceAll('"', "");
  store.laws[name] = await answer.json();
  return true;
}

window.addEventListener("hashchange", () => {
  readRoute();
  render();
  wantLaws();
});
phone.addEventListener("change", () => render());
dark.addEventListener("change", () => {
  applyTheme();
  render();
});
applyTheme();
document.getElementById("foot").textContent = "Losses are measured on held-out text, for diffusion families as an upper bound; intervals are 95% unless stated.";
if (document.querySelector("script[data-part]")) startCarried();
else startServed();
