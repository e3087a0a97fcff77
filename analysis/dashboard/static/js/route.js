// The address: which view, which filters and conventions. All of it stands behind the #, so it can be linked.

const VIEWS = {};
const route = { view: "overview", family: null, budget: null, params: "own", flops: "own", loss: "nats" };
const FREE = ["ref", "law", "run", "find", "flop", "gpus", "peak", "days", "use", "tokens", "x", "papers"];

function readRoute() {
  const [path, query = ""] = (location.hash || startHash()).replace(/^#\/?/, "").split("?");
  const asked = new URLSearchParams(query);
  route.view = VIEWS[path] ? path : "overview";
  route.family = listed(asked.get("family"));
  route.budget = listed(asked.get("budget"));
  const { counts = {}, default: usual = {} } = store.facts;
  for (const kind of ["params", "flops"]) {
    const name = asked.get(kind);
    route[kind] = counts[kind]?.includes(name) ? name : usual[kind] || "own";
  }
  route.loss = asked.get("loss") === "bits" && store.facts.bits?.ratio ? "bits" : "nats";
  for (const name of FREE) route[name] = asked.get(name) || "";
}

const startHash = () => store.known.start || "";
const listed = text => (text === null ? null : new Set(text.split(",").filter(Boolean)));

function address(changes = {}) {
  const next = { ...route, ...changes };
  const asked = new URLSearchParams();
  for (const name of ["family", "budget"]) if (next[name]) asked.set(name, [...next[name]].join(","));
  for (const kind of ["params", "flops"]) if (next[kind] !== (store.facts.default || {})[kind]) asked.set(kind, next[kind]);
  if (next.loss !== "nats") asked.set("loss", next.loss);
  for (const name of FREE) if (next[name] && kept(name, next.view)) asked.set(name, next[name]);
  const query = asked.toString().replaceAll("%2C", ",");
  return `#/${next.view}${query ? "?" + query : ""}`;
}

// What belongs to one view is left behind when another is opened.
const OWNERS = { run: "run", find: "run", x: "run", flop: "ask", gpus: "ask", peak: "ask", days: "ask", use: "ask", tokens: "ask", papers: "frontier" };
const kept = (name, view) => !OWNERS[name] || OWNERS[name] === view;

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
