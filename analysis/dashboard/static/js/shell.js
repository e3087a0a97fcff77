// Around the views: tabs, filters, conventions, theme, and the age of the data.

function renderShell() {
  renderTabs();
  const focused = document.activeElement?.id;
  document.getElementById("controls").replaceChildren(...(store.loaded && store.rows ? compactControls() : []));
  if (focused) document.getElementById(focused)?.focus();
  renderStatus();
  document.title = `${VIEWS[route.view].title} · ${document.getElementById("title").textContent}`;
}

function renderTabs() {
  const tabs = Object.entries(VIEWS).map(([name, view]) => el("a", { href: address({ view: name, run: "" }), "aria-current": route.view === name ? "page" : null }, view.title));
  const theme = el("select", { id: "theme", "aria-label": "Theme", on: { change: () => setTheme(theme.value) } },
    ["auto", "light", "dark"].map(name => el("option", { value: name, selected: themeChoice() === name }, name === "auto" ? "System" : name)));
  document.getElementById("tabs").replaceChildren(...tabs, el("span", { class: "right" }, theme));
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
  return el("button", { class: "chip", id, type: "button", title: "The first click shows it alone; further clicks add or remove", "aria-pressed": on ? "true" : "false", on: { click: toggle } }, mark, name);
}

function familyFilter() {
  if (store.families.length < 2) return null;
  const families = new Set(shownFamilies());
  const chips = store.families.map(family => chip(`family-${family}`, family, familyMark(family), families.has(family), () => toggle("family", store.families, family)));
  return el("div", { class: "group", role: "group", "aria-label": "Families" }, el("span", { class: "label" }, "Families"), chips, allButton("family"));
}

function budgetFilter() {
  if (store.budgets.length < 2 || store.budgets.length > 40) return null;
  const names = store.budgets.map(flopsText);
  const chips = store.budgets.map((budget, at) => chip(`budget-${names[at]}`, computeText(budget),
    el("span", { class: "dot", style: { background: inTheme(store.budgetColour.get(budget)) } }), shownBudget(budget), () => toggle("budget", names, names[at])));
  return el("div", { class: "group", role: "group", "aria-label": "Budgets in FLOPs" }, el("span", { class: "label" }, "Budgets"), chips, allButton("budget"));
}

const allButton = kind => (route[kind] ? el("button", { type: "button", id: `all-${kind}`, on: { click: () => go({ [kind]: null }) } }, "all") : null);

// The first click on one of all shows it alone; the last one shown brings all back.
function toggle(kind, all, name) {
  const names = route[kind] ? new Set(route[kind]) : new Set([name]);
  if (route[kind]) names.has(name) ? names.delete(name) : names.add(name);
  go({ [kind]: names.size === 0 || all.every(one => names.has(one)) ? null : names });
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
