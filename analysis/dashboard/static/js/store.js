// The runs as columns, and the laws as they come.

const store = { runs: {}, rows: 0, facts: {}, state: {}, laws: {}, loaded: false, problem: "", carried: null, opening: {} };

function takeRuns(facts) {
  store.rows = facts.rows;
  store.facts = facts;
  store.runs = {};
  for (const [name, column] of Object.entries(facts.columns)) store.runs[name] = expand(column, facts.rows);
  store.place = new Map((store.runs.key || []).map((key, at) => [key, at]).reverse());  // of replicas, the first
  store.families = store.runs.family ? Object.keys(facts.families || {}) : [];
  store.budgets = (facts.budgets || []).map(([budget]) => budget);
  store.budgetColour = new Map(facts.budgets || []);
  store.severalSeeds = new Set(store.runs.seed || []).size > 1;
  store.loaded = true;
}

function expand(column, rows) {
  if (column.kind === "one") return new Array(rows).fill(number(column.value));
  if (column.kind === "words") return column.at.map(at => (at < 0 ? null : column.words[at]));
  if (column.kind === "number") return column.values.map(number);
  return column.values;
}
const number = x => (x === "inf" ? Infinity : x === "-inf" ? -Infinity : x);

const statusOf = at => (store.runs.status ? store.runs.status[at] : "finished");
const familyOf = at => (store.runs.family ? store.runs.family[at] : "");
const finished = at => statusOf(at) === "finished" && Number.isFinite(store.runs.loss[at]) && store.runs.loss[at] !== null
  && !(store.runs.excluded && store.runs.excluded[at]);
// Trained to its family's bound of text alone: the loss of other runs is no family's best.
const comparable = at => !["labels", "distilled_from"].some(name => store.runs[name] && store.runs[name][at]);

// Columns under the conventions of the moment.
const paramsColumn = () => store.runs[route.params] || store.runs.params;
const flopsColumn = () => store.runs[route.flops] || store.runs.flops || store.runs.nominal;
const lossFactor = () => (route.loss === "bits" && store.facts.bits ? store.facts.bits.ratio || 1 : 1);

function labelOf(at) {
  const { size, seed, nominal } = store.runs;
  const parts = [familyOf(at), size && size[at], nominal && !missing(nominal[at]) ? `at ${flopsText(nominal[at])} FLOPs` : ""];
  if (store.severalSeeds) parts.push(`seed ${seed[at]}`);
  return parts.filter(Boolean).join(" ");
}

function shownFamilies() {
  return route.family ? store.families.filter(name => route.family.has(name)) : store.families;
}
const shownBudget = budget => !route.budget || route.budget.has(flopsText(budget));

// Places of the runs that pass the filters.
function shownRuns() {
  const families = new Set(shownFamilies());
  const { family, nominal } = store.runs;
  const places = [];
  for (let at = 0; at < store.rows; at++) {
    if (family && !families.has(family[at])) continue;
    if (nominal && !missing(nominal[at]) && !shownBudget(nominal[at])) continue;
    places.push(at);
  }
  return places;
}

// -- laws

const countName = () => `${route.params}|${route.flops}`;
const lawsNow = () => store.laws[countName()] || null;
const lawsOf = family => lawsNow()?.families?.[family]?.laws || {};
const lawOf = (family, method) => lawsOf(family)[method] || null;

// One kind of law for all that is drawn at once, so that families compare. The first one registered is the usual one.
const mainMethod = () => Object.keys(lawsNow()?.methods || {})[0] || "";
const methodNow = () => (lawsNow()?.methods?.[route.law] ? route.law : mainMethod());

function lawsNote() {
  const state = store.state.laws?.[countName()];
  if (store.carried) return lawsNow() ? "" : "Laws were not fitted with these counts when this file was written.";
  if (!store.facts.hash) return "";
  if (!state && lawsNow()?.done) return "";
  if (!state || (!state.etag && !state.problem)) return "Fitting laws; they appear one by one.";
  if (state.problem) return `The laws could not be fitted: ${state.problem}`;
  if (!state.done) return `Fitting: ${state.stage || "laws"}`;
  return state.fresh ? "" : "Refitting; these laws do not include the newest runs yet.";
}

// -- how families and budgets look, as in every figure

const familyStyle = family => store.facts.families?.[family] || { colour: LOOK.neutral, symbol: "circle" };
const inTheme = colour => (themeName() === "dark" && LOOK.dark[colour]) || colour;
const times = (x, factor) => (missing(x) ? null : x * factor);
