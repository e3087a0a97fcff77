// Around the views: the choice of a sweep, tabs, filters, conventions, theme, and the age of the data.

function renderShell() {
  renderTabs();
  const focused = document.activeElement?.id;
  document.getElementById("controls").replaceChildren(...(store.loaded && store.rows ? compactControls() : []));
  if (focused) document.getElementById(focused)?.focus();
  renderStatus();
  const place = route.view === "run" ? store.place?.get(route.run) : undefined;
  document.title = `${place === undefined ? VIEWS[route.view].title : labelOf(place)} · ${document.getElementById("title").textContent}`;
}

// Each sweep has a page of its own below this address, and a store the page of all its sweeps together.
const PAGE_OF_SWEEP = /sweep\/[^/]+\/$/;
function renderSweeps() {
  const { sweeps = [], sweep = "", whole } = store.state, box = document.getElementById("sweeps"), id = JSON.stringify([sweeps, sweep]);
  if (box.dataset.of === id) return;
  box.dataset.of = id;
  const root = location.pathname.replace(PAGE_OF_SWEEP, "");
  box.replaceChildren();
  if (store.carried || sweeps.length < 2) return;
  const select = el("select", { id: "pick-sweep", "aria-label": "Sweep", on: { change: () => {
    location.assign(`${root}${select.value ? `sweep/${encodeURIComponent(select.value)}/` : ""}#/${route.view}`);
  } } }, whole ? el("option", { value: "", selected: !sweep }, `all ${sweeps.length} sweeps together`) : null,
    sweeps.map(name => el("option", { value: name, selected: name === sweep }, name)));
  box.append(select);
}

function renderTabs() {
  const views = Object.entries(VIEWS).filter(([name]) => route.view === name || !store.loaded || (name === "compare" ? store.families.length > 1 : name !== "speed" || lawsNow()?.speed));
  const tabs = views.map(([name, view]) => el("a", { href: address({ view: name, run: "" }), "aria-current": route.view === name ? "page" : null }, view.title));
  const theme = el("select", { id: "theme", "aria-label": "Theme", on: { change: () => setTheme(theme.value) } },
    ["auto", "light", "dark"].map(name => el("option", { value: name, selected: themeChoice() === name }, name === "auto" ? "System" : name)));
  const box = document.getElementById("tabs"), now = tabs.find(tab => tab.getAttribute("aria-current"));
  box.replaceChildren(...tabs, el("span", { class: "right" }, theme));
  if (phone.matches && now) box.scrollLeft = now.offsetLeft - box.clientWidth / 2;
}

// On a phone filters are folded away, below a line that says which are set.
const phone = matchMedia("(max-width: 620px)");
let filtersOpen = false;
function compactControls() {
  if (!phone.matches) return controls();
  const set = [route.family && shownFamilies().join(", "), route.budget && [...route.budget].join(", "), route.loss === "bits" && "bits per byte"].filter(Boolean);
  const box = el("details", { open: filtersOpen }, el("summary", { id: "filters" }, `Filters: ${set.join("; ") || "none"}`), controls());
  box.addEventListener("toggle", () => { filtersOpen = box.open; });
  return [box];
}

function controls() {
  const usesLoss = route.view !== "health";
  const picks = [pick("params", "N", store.facts.counts.params, COUNT_NAMES), pick("flops", "FLOPs", store.facts.counts.flops, COUNT_NAMES),
    usesLoss ? lossPick() : null];
  return [familyFilter(), budgetFilter(), el("div", { class: "group picks", role: "group", "aria-label": "How to count" }, picks)].filter(Boolean);
}

function chip(id, name, mark, on, toggle) {
  return el("button", { class: "chip", id, type: "button", title: "A click hides or shows it; a double click, or Shift and a click, shows it alone", "aria-pressed": on ? "true" : "false", on: { click: toggle } }, mark, name);
}

function familyFilter() {
  if (store.families.length < 2) return null;
  const families = new Set(shownFamilies());
  const chips = store.families.map(family => chip(`family-${family}`, family, familyMark(family), families.has(family), event => toggle("family", store.families, family, event)));
  return el("div", { class: "group", role: "group", "aria-label": "Families" }, el("span", { class: "label" }, "Families"), chips, allButton("family"));
}

function budgetFilter() {
  if (store.budgets.length < 2 || store.budgets.length > 40) return null;
  const names = store.budgets.map(flopsText);
  const chips = store.budgets.map((budget, at) => chip(`budget-${names[at]}`, computeText(budget),
    el("span", { class: "dot", style: { background: inTheme(store.budgetColour.get(budget)) } }), shownBudget(budget), event => toggle("budget", names, names[at], event)));
  return el("div", { class: "group", role: "group", "aria-label": "Budgets in FLOPs" }, el("span", { class: "label" }, "Budgets"), chips, allButton("budget"));
}

const allButton = kind => (route[kind] ? el("button", { type: "button", id: `all-${kind}`, on: { click: () => go({ [kind]: null }) } }, "all") : null);

// A click hides or shows one; the last one shown brings all back. A second click soon after, or with Shift, shows it alone:
// the chips are made anew after each click, so the browser sees no double click.
const TWICE_MS = 400;
let clicked = { name: "", at: 0 };
function toggle(kind, all, name, event) {
  const isTwice = clicked.name === `${kind} ${name}` && event.timeStamp - clicked.at < TWICE_MS;
  clicked = isTwice ? { name: "", at: 0 } : { name: `${kind} ${name}`, at: event.timeStamp };
  const names = new Set(route[kind] || all);
  if (isTwice || event.shiftKey) go({ [kind]: all.length === 1 ? null : new Set([name]) });
  else {
    names.has(name) ? names.delete(name) : names.add(name);
    go({ [kind]: names.size === 0 || all.every(one => names.has(one)) ? null : names });
  }
}

function pick(kind, word, names, words) {
  const select = el("select", { id: `pick-${kind}`, disabled: names.length < 2, on: { change: () => go({ [kind]: select.value }) } },
    names.map(name => el("option", { value: name, selected: route[kind] === name }, words[name] || name)));
  return el("label", { class: "pick" }, word, select);
}

function lossPick() {
  const possible = Boolean(store.facts.bits?.ratio);
  const select = el("select", { id: "pick-loss", disabled: !possible, title: possible ? null : store.facts.bits?.why, on: { change: () => go({ loss: select.value }) } },
    Object.entries(LOSS_NAMES).map(([name, word]) => el("option", { value: name, selected: route.loss === name }, word)));
  return el("label", { class: "pick" }, "Loss", select);
}

function renderStatus() {
  const status = document.getElementById("status");
  if (!store.loaded) {
    status.textContent = store.problem || "Reading the runs";
    return;
  }
  renderSweeps();
  const done = (store.runs.status || []).filter(one => one === "finished").length;
  const parts = [counted(store.rows, "run") + (store.runs.status && done < store.rows ? `, ${done.toLocaleString("en-US")} finished` : ""), ...ageWords()];
  status.replaceChildren(...parts.flatMap((part, at) => (at ? [" · ", part] : [part])));
}

const FRESH_S = 15;
function ageWords() {
  if (store.carried) return [`written ${timeText(store.opening.written)}`];
  const age = store.state.age_s;
  let old = "";
  if (!missing(age)) old = age < FRESH_S ? "up to date" : `as of ${durationText(age)} ago`;
  if (store.problem) return [el("span", { class: "bad" }, `${store.problem} The page shows the last state${old ? `, ${old}` : ""}.`)];
  if (store.state.problem) return [el("span", { class: "bad" }, `The store does not answer: ${store.state.problem}. The page shows the last state, ${old}.`)];
  return [old].filter(Boolean);
}

// -- theme

function themeChoice() {
  try {
    return localStorage.getItem("scaling-theme") || "auto";
  } catch {
    return "auto";
  }
}

function setTheme(choice) {
  try {
    localStorage.setItem("scaling-theme", choice);
  } catch { /* a file from disk may have no storage; the choice then holds for this visit */ }
  applyTheme(choice);
  render();
}

const dark = matchMedia("(prefers-color-scheme: dark)");
function applyTheme(choice = themeChoice()) {
  document.documentElement.dataset.theme = choice === "auto" ? (dark.matches ? "dark" : "light") : choice;
}
