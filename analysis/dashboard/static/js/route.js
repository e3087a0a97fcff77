// The URL holds the whole state behind the #: view, filters and conventions.

const VIEWS = {};
const route = { view: "overview", family: null, budget: null, params: "own", flops: "own", loss: "nats" };
const FREE = ["ref", "law", "run", "runs", "find", "sort", "cols", "group", "by", "smooth", "flop", "gpus", "days", "use", "size", "tokens", "unique", "epochs", "target", "x", "papers"];

function readRoute() {
  const [path, text = ""] = (location.hash || startHash()).replace(/^#\/?/, "").split("?");
  const query = new URLSearchParams(text);
  route.view = VIEWS[path] ? path : "overview";
  route.family = listed(query.get("family"));
  route.budget = listed(query.get("budget"));
  const { counts = {}, default: usual = {} } = store.facts;
  for (const kind of ["params", "flops"]) {
    const name = query.get(kind);
    route[kind] = counts[kind]?.includes(name) ? name : usual[kind] || "own";
  }
  route.loss = query.get("loss") === "bits" && store.facts.bits?.ratio ? "bits" : "nats";
  for (const name of FREE) route[name] = query.get(name) || "";
}

const startHash = () => store.opening.start || "";
const listed = text => (text === null ? null : new Set(text.split(",").filter(Boolean)));

function address(changes = {}) {
  const next = { ...route, ...changes };
  const query = new URLSearchParams();
  for (const name of ["family", "budget"]) if (next[name]) query.set(name, [...next[name]].join(","));
  for (const kind of ["params", "flops"]) if (next[kind] !== (store.facts.default || {})[kind]) query.set(kind, next[kind]);
  if (next.loss !== "nats") query.set("loss", next.loss);
  for (const name of FREE) if (next[name] && applies(name, next.view)) query.set(name, next[name]);
  const text = query.toString().replaceAll("%2C", ",");
  return `#/${next.view}${text ? "?" + text : ""}`;
}

// What belongs to one view is left behind when another is opened.
const OWNERS = { run: "run", runs: "run", find: "run", sort: "run", cols: "run", group: "run", by: "run", smooth: "run", x: "run", papers: "frontier",
  ...Object.fromEntries(["flop", "gpus", "days", "use", "size", "tokens", "unique", "epochs", "target"].map(name => [name, "overview"])) };
const applies = (name, view) => !OWNERS[name] || OWNERS[name] === view;

// Filters replace the address, so that "back" goes to the view before.
function go(changes, { replace = true } = {}) {
  const next = address(changes);
  if (next === location.hash) return;
  if (replace) history.replaceState(null, "", next);
  else history.pushState(null, "", next);
  readRoute();
  render();
  wantLaws();
}
